"""How well maps tell where pictures are anomalous: a higher score is more anomalous, and a mask is true where a picture
is. All figures lie between 0 and 1.

They are exact. Every score of an anomalous pixel is a threshold, for between two of them no figure changes its course;
pixels of equal score pass a threshold together. So the normal pixels, nearly all there are, need only be counted."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kka.errors import Collapse, KkaError
from kka.records import Masks

Maps = NDArray[np.floating]  # (n, h, w)
LIMITS = {"aupro": 0.3, "aupro_05": 0.05}  # the false positive rates up to which the overlap is integrated


class Pixels:
    """The pixels of maps (n, h, w) under masks of their shape, and of the `others`, maps of normal pictures that are
    looked at one after the other. Memory holds the anomalous pixels, and one of the others at a time.

    Raises KkaError where nothing is anomalous, or nothing normal, and Collapse for a score that is not finite."""

    def __init__(self, maps: Maps, masks: Masks, others: Iterable[Maps] = ()) -> None:
        if maps.ndim != 3 or maps.shape != masks.shape:
            raise KkaError(f"localisation wants maps (n, h, w) and masks alike, got {maps.shape} and {masks.shape}.")
        # ascending, each once, with how many anomalous pixels have it and what these add to the overlap
        self._scores, places = np.unique(_finite(maps[masks]), return_inverse=True)
        self._anomalous = np.bincount(places)
        self._overlap = np.bincount(places, _shares_of_regions(masks))
        self._below = np.zeros(len(self._scores), np.int64)  # normal pixels that score lower ...
        self._up_to = np.zeros(len(self._scores), np.int64)  # ... or no higher
        self._normal = 0
        for normal in (maps[~masks], *others):
            self._count(_finite(normal))
        if not self._normal or not len(self._scores):
            raise KkaError(
                f"localisation wants normal and anomalous pixels, got {self._normal} and {int(masks.sum())}. Look at"
                " the masks."
            )

    def _count(self, normal: Maps) -> None:
        ordered = np.sort(normal, axis=None)
        self._below += np.searchsorted(ordered, self._scores, side="left")
        self._up_to += np.searchsorted(ordered, self._scores, side="right")
        self._normal += len(ordered)

    def auroc(self) -> float:
        """The probability that an anomalous pixel scores above a normal one, a tie counting half."""
        wins = (self._anomalous * (self._below + self._up_to)).sum()
        return float(wins / (2 * self._anomalous.sum() * self._normal))

    def average_precision(self) -> float:
        """The precision at each step of recall, averaged by the size of the step."""
        steps = self._anomalous[::-1]
        found, false = steps.cumsum(), self._normal - self._below[::-1]
        return float((steps * (found / (found + false))).sum() / steps.sum())

    def aupro(self, limit: float = LIMITS["aupro"]) -> float:
        """The area under the per-region overlap, over false positive rates from 0 to `limit` and as a share of it
        (Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", IJCV): the overlap at a threshold is the mean over
        all regions of the share of a region's pixels that lie at or above it, so small defects count as much as large
        ones. Pixels of a region touch by an edge or a corner."""
        if not 0 < limit <= 1:
            raise KkaError(f"aupro wants a limit in (0, 1], got {limit}.")
        rates, overlap = self._curve()
        end = int(np.searchsorted(rates, limit))  # the first point at or behind the limit
        share = (limit - rates[end - 1]) / (rates[end] - rates[end - 1])
        last = overlap[end - 1] + share * (overlap[end] - overlap[end - 1])
        return float(np.trapezoid([*overlap[:end], last], [*rates[:end], limit]) / limit)

    def _curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The corners of the overlap over the false positive rate, from (0, 0) to (1, 1). Between two thresholds the
        curve runs level, for normal pixels alone are passed; where a threshold's pixels are passed, it rises."""
        reached = np.concatenate([[0.0], self._overlap[::-1].cumsum()])
        passed = self._normal - np.stack([self._up_to, self._below], 1)[::-1].ravel()
        return (
            np.concatenate([[0.0], passed / self._normal, [1.0]]),
            np.concatenate([[0.0], np.stack([reached[:-1], reached[1:]], 1).ravel(), [1.0]]),
        )

    def figures(self) -> dict[str, float]:
        """pixel_auroc, pixel_ap, and the area under the per-region overlap up to either limit."""
        areas = {name: self.aupro(limit) for name, limit in LIMITS.items()}
        return {"pixel_auroc": self.auroc(), "pixel_ap": self.average_precision(), **areas}


def _shares_of_regions(masks: Masks) -> NDArray[np.float64]:
    """What each anomalous pixel, in the order of masks, adds to the mean overlap of all regions."""
    from scipy.ndimage import label

    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True  # its neighbours of the same picture, by corners too
    regions, n = label(masks, touching)
    own = regions[masks]
    return np.asarray(1 / (n * np.bincount(own)[own]), np.float64)


def _finite(maps: Maps) -> Maps:
    if holes := int((~np.isfinite(maps)).sum()):
        raise Collapse(f"localisation wants finite scores, got {holes} NaN or infinite ones. Look at the detector.")
    return maps
