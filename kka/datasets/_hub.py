"""Data sets of the Hugging Face hub: the encoded pictures of a split and the values of another column."""

from typing import Any

from kka.errors import KkaError


def read(who: str, source: str, part: str, picture: str, beside: str) -> tuple[list[Any], list[Any]]:
    """The pictures ({bytes, path}) in the column `picture`, and the values in the column `beside`, of the split `part` ("all" for
    every one). Raises KkaError where they cannot be had."""
    import datasets

    try:
        found = datasets.load_dataset(source, split=part).cast_column(picture, datasets.Image(decode=False))
        return list(found[picture]), list(found[beside])
    except Exception as error:  # each of the hub's many ways to fail means the same to the user
        reason = " ".join(str(error).split())[:200]
        raise KkaError(
            f"{who}: source '{source}' is no folder here and could not be had from the Hugging Face hub ({reason})."
            " Go online once, or set prepare.options.source to a folder that holds its files."
        ) from None


def is_id(source: str) -> bool:
    """Whether this can be the id of a data set on the hub, organisation/name."""
    return source.count("/") == 1 and not source.startswith((".", "~", "/"))
