"""Where pictures are anomalous: the regions of a map above a threshold, and the threshold that normal pictures set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kka import detectors
from kka.detectors import Detector
from kka.images.crops import Crop
from kka.records import Images

Maps = NDArray[np.floating]  # (n, h, w)
QUANTILE = 0.95  # of the highest pixels of calibration normals, where regions begin
_PART = 256  # pictures whose maps are in memory at a time


@dataclass(frozen=True)
class Region:
    """Connected pixels above a threshold: the box around them and their number, in pixels, and the highest score."""

    x: int
    y: int
    width: int
    height: int
    area: int
    score: float


def calibrate(detector: Detector, normals: Images) -> tuple[NDArray[np.float64], float | None]:
    """The scores (n,) of calibration normals (n, h, w, 3), and the threshold that only a twentieth of them exceed
    anywhere: the `QUANTILE` of the highest values of their maps. None where the detector has no maps."""
    parts = np.array_split(normals, -(-len(normals) // _PART))
    found = [_scores_and_peaks(detector, part) for part in parts]
    scores = np.concatenate([scores for scores, _ in found])
    peaks = [peaks for _, peaks in found if peaks is not None]
    return scores, float(np.quantile(np.concatenate(peaks), QUANTILE)) if peaks else None


def pixel_threshold(detector: Detector, calibration: Images) -> float | None:
    """Where regions begin, as `calibrate` has it."""
    return calibrate(detector, calibration)[1] if hasattr(detector, "score_map") else None


def _scores_and_peaks(detector: Detector, images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    scores, maps = detectors.score_with_map(detector, images)
    return scores, None if maps is None else maps.max((1, 2))


def regions(scores: NDArray[np.floating], threshold: float) -> list[Region]:
    """The regions of a map (h, w) that lie above the threshold, the highest score first. Pixels of a region touch by an
    edge or a corner."""
    from scipy.ndimage import find_objects, label, maximum

    labels, n = label(scores > threshold, np.ones((3, 3)))
    numbers = np.arange(1, n + 1)
    columns = zip(find_objects(labels), np.bincount(labels.ravel())[1:], maximum(scores, labels, numbers), strict=True)
    found = [
        Region(x.start, y.start, x.stop - x.start, y.stop - y.start, int(area), float(highest))
        for (y, x), area, highest in columns
    ]
    return sorted(found, key=lambda region: -region.score)


def in_picture(region: Region, crop: Crop, side: int) -> Region:
    """The region of a square map, `side` pixels wide, in the pixels of the picture that the map's `crop` was cut from:
    the smallest box of whole pixels around it."""
    left, right = (crop.left + n for n in _stretched(region.x, region.width, crop.width, side))
    top, bottom = (crop.top + n for n in _stretched(region.y, region.height, crop.height, side))
    area = max(1, round(region.area * crop.width * crop.height / side**2))
    return Region(left, top, right - left, bottom - top, area, region.score)


def _stretched(start: int, length: int, whole: int, side: int) -> tuple[int, int]:
    """Where a stretch of `side` pixels begins and ends, rounded outwards, when they become `whole`."""
    return start * whole // side, -(-(start + length) * whole // side)
