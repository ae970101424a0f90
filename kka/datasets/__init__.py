"""The data sets, one file each: `load(seed, image_size, **options) -> Splits`.

A file may also hold `archive(image_size, **options) -> Split`, captioned photographs for the `bank` synthesizer. It
takes the options of `load` that matter to it, and some of its own; both are given all of the section, and take what
they know."""

from collections.abc import Sequence
from typing import Any

from kka import registry
from kka.errors import KkaError
from kka.records import Split, Splits

_GIVEN = ("seed", "image_size")  # arguments of `load` and `archive` that are no options


def names() -> list[str]:
    """The data sets that there are."""
    return registry.names(__name__)


def load(name: str, seed: int, image_size: int, **options: Any) -> Splits:
    """The splits of a data set. Raises KkaError for an unknown name, an unknown or missing option, data that are not
    there, and a split that lacks what it is for."""
    module = registry.find(__name__, name)
    _check(name, options)
    known = registry.keywords(module.load, without=_GIVEN)
    for option in registry.required(module.load, without=_GIVEN):
        if option not in options:
            raise KkaError(
                f"the data set '{name}' wants the option '{option}', got none. Set prepare.options.{option}."
            )
    splits: Splits = module.load(seed, image_size, **{k: v for k, v in options.items() if k in known})
    for part in ("train", "calibration", "validation", "test"):
        _complete(name, part, getattr(splits, part))
    return splits


def _complete(name: str, part: str, split: Split) -> None:
    anomalies = int((split.labels == 1).sum())
    normals = len(split) - anomalies
    both = part in (
        "validation",
        "test",
    )  # a few dozen real anomalies tell how good a detector is, but not everybody has them
    if not normals or (anomalies and not both):
        wanted = "normals" if both else "normals only"
        raise KkaError(
            f"the data set '{name}': {part} wants {wanted}, got {normals} normals and {anomalies} anomalies."
        )


def hub_has(name: str) -> bool:
    """Whether the source of a data set may be an id of the Hugging Face hub."""
    return hasattr(registry.find(__name__, name), "hub")


def archive(name: str, image_size: int, **options: Any) -> Split:
    """The captioned archive of a data set, all of it anomalous, none of it in the test split. Raises KkaError where
    there is none."""
    module = registry.find(__name__, name)
    if not has_archive(name):
        holders = ", ".join(n for n in names() if has_archive(n))
        raise KkaError(
            f"the data set '{name}' holds no archive. Take one that does ({holders}), or another synthesizer than bank."
        )
    _check(name, options)
    mine = registry.keywords(module.archive, without=_GIVEN)
    pictures: Split = module.archive(image_size, **{k: v for k, v in options.items() if k in mine})
    return pictures


def has_archive(name: str) -> bool:
    """Whether the data set has photographs for a bank."""
    return hasattr(registry.find(__name__, name), "archive")


def _check(name: str, options: dict[str, Any]) -> None:
    module, who = registry.find(__name__, name), f"the data set '{name}'"
    takers = module.load, getattr(module, "archive", None)
    registry.check_options(who, options, *takers, without=_GIVEN)
    registry.check_types(who, options, *takers)


def text_distances(name: str, texts: Sequence[str]) -> list[int | None]:
    """How far from the normal class each text is, where the data set can read that off a text; else None."""
    read = getattr(registry.find(__name__, name), "text_distances", None)
    return read(texts) if read else [None] * len(texts)
