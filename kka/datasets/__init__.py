"""The data sets, one file each: `load(seed, image_size, **options) -> Splits`.

A file may also hold `archive(image_size, **options) -> Split`, captioned photographs for the `bank` synthesizer. It takes the
options of `load` that matter to it, and some of its own; both are given all of the section, and take what they know.
"""

from typing import Any

from kka import registry
from kka.errors import KkaError
from kka.records import Split, Splits


def names() -> list[str]:
    """The data sets that there are."""
    return registry.names(__name__)


def load(name: str, seed: int, image_size: int, **options: Any) -> Splits:
    """The splits of a data set. Raises KkaError for an unknown name or option, or data that are not there."""
    module = registry.find(__name__, name)
    known = registry.keywords(module.load, without=("seed", "image_size"))
    registry.check_options(f"the data set '{name}'", options, known + _archive_keywords(module))
    splits: Splits = module.load(seed, image_size, **{k: v for k, v in options.items() if k in known})
    return splits


def archive(name: str, image_size: int, **options: Any) -> Split:
    """The captioned archive of a data set, all of it anomalous, none of it in the test split. Raises KkaError where there is none."""
    module = registry.find(__name__, name)
    if not has_archive(name):
        holders = ", ".join(n for n in names() if has_archive(n))
        raise KkaError(f"the data set '{name}' holds no archive. Take one that does ({holders}), or another synthesizer than bank.")
    mine = _archive_keywords(module)
    registry.check_options(f"the data set '{name}'", options, mine + registry.keywords(module.load, without=("seed", "image_size")))
    pictures: Split = module.archive(image_size, **{k: v for k, v in options.items() if k in mine})
    return pictures


def has_archive(name: str) -> bool:
    """Whether the data set has photographs for a bank."""
    return hasattr(registry.find(__name__, name), "archive")


def _archive_keywords(module: Any) -> list[str]:
    return registry.keywords(getattr(module, "archive", None), without=("image_size",))
