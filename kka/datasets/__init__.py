"""The data sets, one file each: what a file may hold is said by `Dataset`. Nothing else needs to know of a new one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from kka import registry
from kka.errors import KkaError
from kka.records import PARTS, Split, Splits

_GIVEN = ("seed", "image_size")  # arguments of `load` and `archive` that are no options


class Dataset(Protocol):
    """A file of this folder. It must hold `load`; what else it does not hold has the default that is named here.

    `load` and `archive` are given all options that a user sets, and take those that they know: keyword arguments with
    types, which values are checked against.
    """

    PATHS: tuple[str, ...]
    """Options that can be nothing but the path of a file or folder; by default none."""
    MODELS: tuple[str, ...]
    """Options that name a model by Hugging Face id or path; by default none."""
    HUB: bool
    """Whether the option `source` may be the id of a data set on the Hugging Face hub; by default it may not."""
    PACKAGES: tuple[str, ...]
    """Packages of the extra `photos` that its pictures come with; by default none."""

    def load(self, seed: int, image_size: int, **options: Any) -> Splits:
        """The four splits, with pictures of `image_size` pixels a side. The same arguments give the same splits; no
        picture stands in two of them."""
        ...

    def archive(self, image_size: int, **options: Any) -> Split:
        """Captioned photographs for the synthesizer `bank`, all of them anomalous, none of them in a split; by default
        there are none."""
        ...

    def text_distances(self, texts: Sequence[str]) -> list[int | None]:
        """How far from the normal class what each text describes is, 0 for normal; None where that cannot be read off
        it, which is the default for all texts."""
        ...


def names() -> list[str]:
    """The data sets that there are."""
    return registry.names(__name__)


def paths(name: str) -> tuple[str, ...]:
    """The options that can be nothing but a path."""
    return tuple(getattr(registry.find(__name__, name), "PATHS", ()))


def models(name: str) -> tuple[str, ...]:
    """The options that name a model."""
    return tuple(getattr(registry.find(__name__, name), "MODELS", ()))


def takes_hub_id(name: str) -> bool:
    """Whether the option `source` may be an id of the Hugging Face hub."""
    return bool(getattr(registry.find(__name__, name), "HUB", False))


def packages(name: str) -> tuple[str, ...]:
    """The packages of the extra `photos` that its pictures come with."""
    return tuple(getattr(registry.find(__name__, name), "PACKAGES", ()))


def text_distances(name: str, texts: Sequence[str]) -> list[int | None]:
    """How far from the normal class each text is, where the data set can read that off a text; else None."""
    read = getattr(registry.find(__name__, name), "text_distances", None)
    return read(texts) if read else [None] * len(texts)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raises KkaError for an unknown name or option, or a value of another type than the data set says."""
    module, who = registry.find(__name__, name), f"the data set '{name}'"
    takers = module.load, getattr(module, "archive", None)
    registry.check_options(who, options, *takers, without=_GIVEN)
    registry.check_types(who, options, *takers)


def load(name: str, seed: int, image_size: int, **options: Any) -> Splits:
    """The splits of a data set. Raises KkaError for an unknown name, an unknown or missing option, data that are not
    there, and a split that lacks what it is for."""
    module = registry.find(__name__, name)
    check_options(name, options)
    known = registry.keywords(module.load, without=_GIVEN)
    for option in registry.required(module.load, without=_GIVEN):
        if option not in options:
            raise KkaError(
                f"the data set '{name}' wants the option '{option}', got none. Set prepare.options.{option}."
            )
    splits: Splits = module.load(seed, image_size, **{k: v for k, v in options.items() if k in known})
    for part in PARTS:
        _complete(name, part, getattr(splits, part))
    return Splits(*(_with_marks_alone(getattr(splits, part)) for part in PARTS))


def _with_marks_alone(split: Split) -> Split:
    """The split without masks where none of them marks anything, such as those of normals alone."""
    return split if split.masks is None or split.masks.any() else replace(split, masks=None)


def _complete(name: str, part: str, split: Split) -> None:
    anomalies = int((split.labels == 1).sum())
    normals = len(split) - anomalies
    # a few dozen real anomalies tell how good a detector is, but not everybody has them
    both = part in ("validation", "test")
    if not normals or (anomalies and not both):
        wanted = "normals" if both else "normals only"
        raise KkaError(
            f"the data set '{name}': {part} wants {wanted}, got {normals} normals and {anomalies} anomalies."
        )


def archive(name: str, image_size: int, **options: Any) -> Split:
    """The captioned archive of a data set, all of it anomalous, none of it in the test split. Raises KkaError where
    there is none."""
    module = registry.find(__name__, name)
    if not has_archive(name):
        holders = ", ".join(n for n in names() if has_archive(n))
        raise KkaError(
            f"the data set '{name}' holds no archive. Take one that does ({holders}), or another synthesizer than bank."
        )
    check_options(name, options)
    mine = registry.keywords(module.archive, without=_GIVEN)
    pictures: Split = module.archive(image_size, **{k: v for k, v in options.items() if k in mine})
    return pictures


def has_archive(name: str) -> bool:
    """Whether the data set has photographs for a bank."""
    return hasattr(registry.find(__name__, name), "archive")
