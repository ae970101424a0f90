"""What the project adds to the library's errors: how a file is written again here."""

from kka.errors import BrokenFile, KkaError, StaleFile

_REMEDIES: dict[type[KkaError], str] = {
    BrokenFile: "Run the stage that writes it, or `dvc repro`.",
    StaleFile: "Run `dvc repro --force --downstream baseline`.",  # DVC does not know what it was made from
}


def sentence(error: KkaError) -> str:
    """What is printed of an error: its own sentence, and what to run where a file must be written again."""
    return " ".join([str(error), *(remedy for kind, remedy in _REMEDIES.items() if isinstance(error, kind))])
