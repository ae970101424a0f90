"""Scores of the test split -> the figures of a report."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kka import metrics
from kka.detectors import Detector
from kka.localisation import Pixels
from kka.records import Images, Split
from kka.regions import pixel_threshold

QUANTILE = 0.95  # of the calibration normals' scores, where an alarm begins
EXPECTED_FALSE_ALARMS = 1 - QUANTILE
_PART = 32  # pictures whose maps are in memory at a time


@dataclass(frozen=True)
class Measured:
    """A fit's figures, and its scores of the test and of the calibration split, shape (n,) each."""

    figures: dict[str, Any]
    test: NDArray[np.float64]
    calibration: NDArray[np.float64]


def measure(
    detector: Detector,
    test: Split,
    calibration: Split,
    validation: Split,
    controls: Images | None = None,
    *,
    bootstrap: int,
    level: float,
    seed: int,
) -> Measured:
    """The figures of `evaluate`, `localise` and `validate`; `pixel_threshold`, where regions begin in the maps of a
    detector that has them; and with `controls`, generated normals that the detector has not trained on,
    `controls_auroc`: that of telling them from the calibration normals."""
    scores, boundary = detector.score(test.images), detector.score(calibration.images)
    figures = evaluate(scores, test.labels, test.groups, boundary, bootstrap=bootstrap, level=level, seed=seed)
    threshold = pixel_threshold(detector, calibration.images)
    figures |= localise(detector, test) | ({} if threshold is None else {"pixel_threshold": threshold})
    figures |= validate(detector.score(validation.images), validation.labels, validation.groups)
    if controls is not None:
        figures["controls_auroc"] = metrics.separation(boundary, detector.score(controls))
    return Measured(figures, scores, boundary)


def evaluate(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    calibration_scores: NDArray[np.float64],
    *,
    bootstrap: int,
    level: float,
    seed: int,
) -> dict[str, Any]:
    """auroc with the ends of its bootstrap interval at `level` (left out where `bootstrap` is 0), average_precision,
    fpr95, `threshold` from the calibration normals with the recall and false_positive_rate it has in truth, and under
    `groups` the auroc of each anomalous group against all normals. Where no anomalies are known, the threshold and
    false_positive_rate are all there is to tell. Raises KkaError where normals are missing."""
    figures: dict[str, Any] = {}
    if labels.any():
        figures["auroc"] = metrics.auroc(scores, labels)
        if bootstrap:
            ends = metrics.bootstrap_interval(metrics.auroc, scores, labels, samples=bootstrap, level=level, seed=seed)
            figures["auroc_low"], figures["auroc_high"] = ends
        figures["average_precision"] = metrics.average_precision(scores, labels)
        figures["fpr95"] = metrics.fpr_at_tpr(scores, labels, 0.95)
    threshold = float(np.quantile(calibration_scores, QUANTILE))
    if labels.any():
        figures["recall"] = float((scores[labels == 1] > threshold).mean())
    return {
        **figures,
        "threshold": threshold,
        "false_positive_rate": float((scores[labels == 0] > threshold).mean()),
        "groups": by_group(scores, labels, groups),
    }


def localise(detector: Detector, split: Split) -> dict[str, float]:
    """How well the detector's maps tell where the split is anomalous (`localisation.Pixels`): pixel_auroc, pixel_ap,
    aupro and aupro_05. Nothing where there are no masks or no maps. Anomalies in which nothing is marked are left out:
    where they are anomalous, nobody knows."""
    maps = getattr(detector, "score_map", None)
    if maps is None or split.masks is None or not split.masks.any():
        return {}
    marked, normal = np.flatnonzero(split.masks.any((1, 2))), np.flatnonzero(split.labels == 0)
    anomalous = np.concatenate([maps(split.images[rows]).astype(np.float32) for rows in _parts(marked)])
    return Pixels(anomalous, split.masks[marked], (maps(split.images[rows]) for rows in _parts(normal))).figures()


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(rows, max(1, -(-len(rows) // _PART)))


def validate(scores: NDArray[np.float64], labels: NDArray[np.int64], groups: Sequence[str]) -> dict[str, Any]:
    """Figures of the validation split: `validation_auroc`, and the `hardest_group`, that with the lowest auroc, which
    is worth following on the test split: chosen there, its figures would begin too low by construction. Nothing where
    no anomalies are known."""
    if not labels.any():
        return {}
    aurocs = by_group(scores, labels, groups)
    return {
        "validation_auroc": metrics.auroc(scores, labels),
        "hardest_group": min(aurocs, key=lambda g: (aurocs[g], g)),
    }


def over_fits(fits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several fits as one: their means, and with two fits or more `auroc_std`, the standard deviation.
    What is no figure, and the thresholds, are the first fit's, for its scores are those that people will see."""
    first = fits[0]
    thresholds = {key: first[key] for key in ("threshold", "pixel_threshold") if key in first}
    averaged: dict[str, Any] = {key: _averaged([f[key] for f in fits]) for key in first} | thresholds
    if len(fits) > 1 and "auroc" in first:
        averaged["auroc_std"] = statistics.stdev(f["auroc"] for f in fits)
    return averaged


def _averaged(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {key: _averaged([v[key] for v in values]) for key in values[0]}
    return statistics.fmean(values) if isinstance(values[0], float) else values[0]


def by_group(scores: NDArray[np.float64], labels: NDArray[np.int64], groups: Sequence[str]) -> dict[str, float]:
    """The auroc of each group's anomalies against all normals, by the group's name."""
    names = np.asarray(groups)
    normal = scores[labels == 0]
    return {
        g: metrics.separation(normal, scores[(names == g) & (labels == 1)])
        for g in sorted(set(names[labels == 1].tolist()))
    }


def roc_points(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> list[dict[str, float]]:
    """The corners of the ROC curve, from (0, 0) to (1, 1): rows of fpr, tpr for a plot; none where no anomalies are
    known."""
    if not labels.any():
        return []
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(labels, scores)
    return [{"fpr": float(x), "tpr": float(y)} for x, y in zip(fpr, tpr, strict=True)]


def worst(scores: NDArray[np.float64], labels: NDArray[np.int64], most: int) -> list[int]:
    """The rows of the `most` normals that score highest and of the `most` anomalies that score lowest, the worst
    first."""
    order = np.argsort(scores, kind="stable")
    return [*order[labels[order] == 0][::-1][:most].tolist(), *order[labels[order] == 1][:most].tolist()]
