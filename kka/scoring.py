"""A fitted detector put to work on pictures that nobody has seen: scores, p-values among normals, heat maps."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kka import detectors
from kka.drawing import heat_map
from kka.errors import KkaError
from kka.images import UnreadablePicture, picture_files, read_picture, read_split
from kka.records import Images

T = TypeVar("T")
R = TypeVar("R")
_BATCH = 64  # pictures that are scored together
_WORKERS = 4  # threads at most; each holds a batch's activations in memory


@dataclass(frozen=True)
class Scored:
    """The score of one picture; `p_value` is the share of normals that look at least as anomalous, between 0 and
    1."""

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
    def load(cls, detector: Path, calibration: Path, *, squeeze: bool = False) -> "Scorer":
        """The fitted detector of a folder, with the calibration split of another one, whose pictures were prepared with
        `squeeze` or without. Raises BrokenFile where one is not there."""
        fitted, normals = detectors.load(detector), read_split(calibration).images
        return cls(fitted, np.sort(fitted.score(normals)), normals.shape[1], squeeze)

    @property
    def name(self) -> str:
        """The name of the detector's file."""
        return type(self.detector).__module__.rpartition(".")[2]

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each score the share of normals that score at least as high, the picture itself counted in (Vovk et al.
        2005): of normal pictures no more than the share a have a p-value of a or less."""
        n = len(self.calibration)
        return (n - np.searchsorted(self.calibration, scores, side="left") + 1) / (n + 1)

    def maps(self, images: Images) -> Images | None:
        """Heat maps over the pictures; None where the detector has none. Red is what scores as high as any calibration
        normal."""
        score_map = getattr(self.detector, "score_map", None)
        if score_map is None:
            return None
        low, high = self.calibration[0], self.calibration[-1]
        return heat_map(images, (score_map(images) - low) / max(high - low, 1e-9))

    def score(self, paths: Sequence[Path], unreadable: list[str]) -> Iterator[Scored]:
        """Scores pictures in their order, a few batches in memory at a time; those that cannot be read are added to
        `unreadable`."""
        from kka.detectors.shared.backbones import is_factory

        batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
        # a backbone of the user's own may keep in itself what it computes: it is not asked by several threads at once
        alone = is_factory(getattr(self.detector, "backbone", ""))
        for scored, errors in map(self._batch, batches) if alone else _ahead(self._batch, batches):
            unreadable += errors
            yield from scored

    def _batch(self, paths: Sequence[Path]) -> tuple[list[Scored], list[str]]:
        """The pictures that can be read, scored; and the others, with the reason."""
        readable: list[Path] = []
        pictures: list[Images] = []
        errors: list[str] = []
        for path in paths:
            try:
                pictures.append(read_picture(path, self.image_size, squeeze=self.squeeze))
                readable.append(path)
            except UnreadablePicture as error:
                errors.append(f"{path} ({error.reason})")
        if not pictures:
            return [], errors
        images = np.concatenate(pictures)
        scores = self.detector.score(images)
        columns = zip(readable, scores.tolist(), self.p_values(scores).tolist(), images, strict=True)
        return [Scored(*values) for values in columns], errors


def _ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Like `map`, a few items ahead, in threads that have an equal share of torch's own. So none waits for another:
    torch's threads wait for each other in every layer, and all of them for a picture that is decoded, which costs most
    on a busy machine."""
    import torch

    before, rest = torch.get_num_threads(), iter(items)
    workers = min(before, _WORKERS)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(before // workers,))
    try:
        ahead = deque(pool.submit(function, item) for item in islice(rest, 2 * workers))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(function, item) for item in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def pictures(places: Sequence[Path]) -> list[Path]:
    """The files that are named, and all pictures in the folders that are. Raises KkaError for a place that is not there
    or empty."""
    paths: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = picture_files(place)
            if not inside:
                raise KkaError(f"predict: the folder {place} holds no pictures.")
            paths += inside
        elif place.exists():
            paths.append(place)
        else:
            raise KkaError(f"predict: there is no file or folder {place}.")
    return list(dict.fromkeys(paths))
