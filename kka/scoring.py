"""A fitted detector put to work on pictures that nobody has seen: scores, p-values among normals, heat maps."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kka import detectors
from kka.config import Prepare
from kka.errors import KkaError
from kka.images import Images, decode, heat_map, read_split

SUFFIXES = tuple(sorted(ext for ext, kind in Image.registered_extensions().items() if kind in Image.OPEN))
_BATCH = 64  # pictures in memory at a time


@dataclass(frozen=True)
class Scored:
    """What is said of one picture; `p_value` is the share of normals that look at least as anomalous, between 0 and 1."""

    path: Path
    score: float
    p_value: float
    image: Images


@dataclass(frozen=True)
class Scorer:
    """A detector, the scores of its calibration normals in rising order, and how pictures were prepared for it."""

    detector: detectors.Detector
    calibration: NDArray[np.float64]
    image_size: int
    squeeze: bool

    @classmethod
    def load(cls, data: Path, name: str, section: Prepare) -> "Scorer":
        """The detector of round `name` in the folder `data` of a project. Raises KkaError where it is not there."""
        detector = detectors.load(data / name / "detector")
        calibration = detector.score(read_split(data / "splits" / "calibration").images)
        return cls(detector, np.sort(calibration), section.image_size, bool(section.options.get("squeeze", False)))

    @property
    def name(self) -> str:
        """The name of the detector's file."""
        return type(self.detector).__module__.rpartition(".")[2]

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each score the share of normals that score at least as high, the picture itself counted in (Vovk et al. 2005): of
        normal pictures no more than the share a have a p-value of a or less."""
        n = len(self.calibration)
        return (n - np.searchsorted(self.calibration, scores, side="left") + 1) / (n + 1)

    def maps(self, images: Images) -> Images | None:
        """Heat maps over the pictures; None where the detector has none. Red is what scores as high as any calibration normal."""
        score_map = getattr(self.detector, "score_map", None)
        if score_map is None:
            return None
        found = score_map(images)
        low, high = self.calibration[0], self.calibration[-1]
        return heat_map(images, (found - low) / max(high - low, 1e-9))

    def score(self, paths: Sequence[Path], unreadable: list[str]) -> Iterator[Scored]:
        """Scores pictures in their order, a batch in memory at a time; those that cannot be read are added to `unreadable`."""
        with ThreadPoolExecutor() as pool:
            todo = iter(paths)
            while some := list(islice(todo, _BATCH)):
                read = list(pool.map(self._read, some))
                unreadable += [f"{path} ({found})" for path, found in zip(some, read, strict=True) if isinstance(found, str)]
                kept = [(path, found) for path, found in zip(some, read, strict=True) if not isinstance(found, str)]
                if kept:
                    images = np.concatenate([found for _, found in kept])
                    scores = self.detector.score(images)
                    for (path, _), score, p, image in zip(kept, scores, self.p_values(scores), images, strict=True):
                        yield Scored(path, float(score), float(p), image)

    def _read(self, path: Path) -> Images | str:
        """The prepared picture, or why there is none."""
        try:
            with Image.open(path) as image:
                return decode(image, self.image_size, squeeze=self.squeeze)
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            return " ".join(str(error).split())[:80]


def pictures(places: Sequence[Path]) -> list[Path]:
    """The files that are named, and all pictures in the folders that are. Raises KkaError for a place that is not there or empty."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
            if not inside:
                raise KkaError(f"predict: the folder {place} holds no pictures.")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise KkaError(f"predict: there is no file or folder {place}.")
    return list(dict.fromkeys(found))
