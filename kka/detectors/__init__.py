"""The detectors, one file each: a file holds a dataclass `Detector` of its hyperparameters, learnt things end in
`_`."""

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kka import registry
from kka.log import Log, silent
from kka.records import Changes, Images


class Detector(Protocol):
    """What every detector can do; tests/kka/detectors/test_contract.py runs over all that stand in this folder."""

    seed: int

    def fit(
        self,
        normals: Images,
        anomalies: Images | None = None,
        *,
        generated_normals: Images | None = None,
        changes: Changes | None = None,
        log: Log = silent,
    ) -> Self:
        """Learns from uint8 (n, h, w, 3). `generated_normals` come from normal captions and are normals too.
        `changes` say what the anomalies were made from, and where they differ from it, row by row; a detector that asks
        for whole pictures alone need not look at them."""
        ...

    def score(self, images: Images) -> NDArray[np.float64]:
        """One score for each image, shape (n,): higher is more anomalous, and no image's depends on the others.
        Several threads may ask at once."""
        ...

    # A detector that tells where a picture is anomalous has besides: `score_map(images)`, maps (n, h, w) in the unit of
    # the score; and if both at once cost less, `score_with_map(images)`, the scores and the maps.

    def save(self, folder: Path) -> None:
        """Writes safetensors and json to the folder, whole or not at all."""
        ...

    @classmethod
    def load(cls, folder: Path, **options: Any) -> Self:
        """The detector that `save` wrote, with `options` in place of its own."""
        ...


def names() -> list[str]:
    """The detectors that there are."""
    return registry.names(__name__)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raises KkaError for an unknown name or option, or a value of another type than the detector says."""
    make, who = registry.find(__name__, name).Detector, f"the detector '{name}'"
    registry.check_options(who, options, make, without=("seed",))
    registry.check_types(who, options, make)


def create(name: str, seed: int, **options: Any) -> Detector:
    """An unfitted detector. Raises KkaError for an unknown name or option."""
    make = registry.find(__name__, name).Detector
    registry.check_options(f"the detector '{name}'", options, make, without=("seed",))
    made: Detector = make(seed=seed, **options)
    return made


def score_with_map(detector: Detector, images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The scores (n,) of pictures, and their maps (n, h, w) where the detector has them, else None."""
    if both := getattr(detector, "score_with_map", None):
        scores, maps = both(images)
        return scores, maps
    score_map = getattr(detector, "score_map", None)
    return detector.score(images), None if score_map is None else score_map(images)


def load(folder: Path, **options: Any) -> Detector:
    """The fitted detector of a folder, whichever it is; `options`, such as where the backbone stands now, take the
    place of its own. Raises KkaError where the folder is missing or broken."""
    from kka.detectors.shared import state

    facts = state.facts(folder)
    make = registry.find(__name__, facts["detector"]).Detector
    registry.check_options(str(folder), facts["options"], make)
    loaded: Detector = make.load(folder, **options)
    return loaded
