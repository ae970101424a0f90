"""A fitted detector put to work on pictures that nobody has seen: scores, p-values among normals, and where they are
anomalous."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kka import detectors
from kka.drawing import heat_map, outlined
from kka.errors import KkaError
from kka.images import DETAIL, UnreadablePicture, open_picture, picture_files, prepare, read_split
from kka.images.crops import crop
from kka.records import Image, Images
from kka.regions import Region, calibrate, in_picture, regions

T = TypeVar("T")
R = TypeVar("R")
_BATCH, _PIXELS = 64, 2**22  # pictures that are scored together, and how many pixels they may have in all
_WORKERS = 4  # threads at most; each holds a batch's activations in memory


@dataclass(frozen=True)
class Scored:
    """The score of one picture; `p_value` is the share of normals that look at least as anomalous, between 0 and 1.
    `image` (h, w, 3) is what the detector saw of the picture, which has `size`, width and height, where it stands
    upright; `map` (h, w) is there where it was asked for."""

    path: Path
    score: float
    p_value: float
    image: Image
    size: tuple[int, int]
    map: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Scorer:
    """A detector, the scores of its calibration normals in rising order, how pictures were prepared for it, and for one
    that has maps the `pixel_threshold` above which the regions of a map lie."""

    detector: detectors.Detector
    calibration: NDArray[np.float64]
    image_size: int
    squeeze: bool
    pixel_threshold: float | None = None

    @classmethod
    def load(cls, detector: Path, calibration: Path, *, squeeze: bool = False) -> "Scorer":
        """The fitted detector of a folder, with the calibration split of another one, whose pictures were prepared with
        `squeeze` or without. Raises BrokenFile where one is not there."""
        fitted, normals = detectors.load(detector), read_split(calibration).images
        scores, threshold = calibrate(fitted, normals)
        return cls(fitted, np.sort(scores), normals.shape[1], squeeze, threshold)

    @property
    def name(self) -> str:
        """The name of the detector's file."""
        return type(self.detector).__module__.rpartition(".")[2]

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each score the share of normals that score at least as high, the picture itself counted in (Vovk et al.
        2005): of normal pictures no more than the share a have a p-value of a or less."""
        n = len(self.calibration)
        return (n - np.searchsorted(self.calibration, scores, side="left") + 1) / (n + 1)

    def examine(self, images: Images) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """The scores (n,) of prepared pictures (n, h, w, 3), and their maps (n, h, w); None where the detector has
        none."""
        scores, maps = detectors.score_with_map(self.detector, images)
        return scores, None if maps is None else maps.astype(np.float32)

    def regions(self, scores: NDArray[np.float32], size: tuple[int, int]) -> list[Region]:
        """Where a picture of this width and height is anomalous, in its own pixels, by its map (h, w). Raises KkaError
        where no threshold is known."""
        seen, side = crop(*size, squeeze=self.squeeze), len(scores)
        return [in_picture(region, seen, side) for region in regions(scores, self._threshold())]

    def heat_maps(self, images: Images, maps: NDArray[np.float32]) -> Images:
        """Maps (n, h, w) in colours over their pictures (n, h, w, 3), with the regions' outlines. Blue is what scores
        no higher than the most normal picture, red what reaches a region's threshold."""
        low, high = self.calibration[0], self._threshold()
        return self.outlined(heat_map(images, (maps - low) / max(high - low, 1e-9)), maps)

    def outlined(self, images: Images, maps: NDArray[np.float32]) -> Images:
        """Pictures (n, h, w, 3) with the outlines of the regions in their maps (n, h, w)."""
        return outlined(images, maps > self._threshold())

    def _threshold(self) -> float:
        if self.pixel_threshold is None:
            raise KkaError(f"the detector '{self.name}' has no maps: nobody can tell where a picture is anomalous.")
        return self.pixel_threshold

    def score(self, paths: Sequence[Path], unreadable: list[str], *, maps: bool = False) -> Iterator[Scored]:
        """Scores pictures in their order, with `maps` where they are anomalous too, a few batches in memory at a time;
        those that cannot be read are added to `unreadable`."""
        from kka.detectors.shared.backbones import is_factory

        size = max(1, min(_BATCH, _PIXELS // self.image_size**2))
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        examine = partial(self._batch, maps=maps)
        # a backbone of the user's own may keep in itself what it computes: it is not asked by several threads at once
        alone = is_factory(getattr(self.detector, "backbone", ""))
        for scored, errors in map(examine, batches) if alone else _ahead(examine, batches):
            unreadable += errors
            yield from scored

    def _batch(self, paths: Sequence[Path], maps: bool) -> tuple[list[Scored], list[str]]:
        """The pictures that can be read, scored; and the others, with the reason."""
        readable: list[Path] = []
        pictures: list[Images] = []
        sizes: list[tuple[int, int]] = []
        errors: list[str] = []
        for path in paths:
            try:
                picture = open_picture(path, side=DETAIL * self.image_size)
            except UnreadablePicture as error:
                errors.append(f"{path} ({error.reason})")
                continue
            readable.append(path)
            pictures.append(prepare([picture.rgb], self.image_size, squeeze=self.squeeze))
            sizes.append(picture.upright)
        if not pictures:
            return [], errors
        images = np.concatenate(pictures)
        scores, found = self.examine(images) if maps else (self.detector.score(images), None)
        where = [None] * len(images) if found is None else found
        columns = zip(readable, scores.tolist(), self.p_values(scores).tolist(), images, sizes, where, strict=True)
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
