"""Figures of a detector from its scores: higher score = more anomalous, label 1 = anomalous. All lie between 0 and
1."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kka.errors import Collapse, KkaError

Floats = NDArray[np.float64]
Metric = Callable[[Floats, NDArray[np.int64]], float]


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The probability that an anomaly scores above a normal, a tie counting half."""
    normal, anomalous = _two(*_checked(scores, labels))
    return _above(np.sort(normal), anomalous)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """The precision at each recall step, averaged by the size of the step."""
    from sklearn.metrics import average_precision_score

    checked, truth = _checked(scores, labels)
    _two(checked, truth)
    return float(average_precision_score(truth, checked))


def fpr_at_tpr(scores: ArrayLike, labels: ArrayLike, tpr: float = 0.95) -> float:
    """The share of normals at or above the highest threshold that still finds `tpr` of the anomalies."""
    normal, anomalous = _two(*_checked(scores, labels))
    # rounded before ceil: 0.95 * 20 is 19.000000000000004 for some counts
    count = max(1, int(np.ceil(round(tpr * len(anomalous), 9))))
    threshold = np.sort(anomalous)[::-1][count - 1]
    return float((normal >= threshold).mean())


def separation(low: ArrayLike, high: ArrayLike) -> float:
    """The AUROC of telling `high` from `low` by their scores: 0.5 when nobody can."""
    a, b = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return auroc(np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)]))


def bootstrap_interval(
    metric: Metric, scores: ArrayLike, labels: ArrayLike, *, samples: int, level: float, seed: int
) -> tuple[float, float]:
    """The middle `level` of the metric over `samples` resamples, normals and anomalies drawn apart so that both keep
    their number."""
    checked, truth = _checked(scores, labels)
    normal, anomalous = _two(checked, truth)
    rng = np.random.default_rng(seed)
    resampled = np.repeat(np.array([0, 1]), [len(normal), len(anomalous)])
    draws = (np.concatenate([rng.choice(part, len(part)) for part in (normal, anomalous)]) for _ in range(samples))
    values = [metric(draw, resampled) for draw in draws]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """How much higher one detector's figure is than another's, and the interval of the gain with its two-sided level.

    Better for sure means everywhere that the whole interval lies above zero. Of two that are equal, one is called
    better in (1 - level) / 2 of all comparisons, and worse in as many."""

    gain: float
    low: float
    high: float
    level: float

    @property
    def better(self) -> bool:
        """For sure."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """For sure."""
        return self.high < 0

    @property
    def verdict(self) -> str:
        return "better for sure" if self.better else "worse for sure" if self.worse else "no better for sure"

    def __str__(self) -> str:
        return f"{self.gain:+.4f} ({self.level:.0%} interval {self.low:+.4f} to {self.high:+.4f}): {self.verdict}"


def compare_scores(
    metric: Metric, scores: ArrayLike, others: ArrayLike, labels: ArrayLike, *, samples: int, level: float, seed: int
) -> Comparison:
    """Two detectors on the same pictures: metric(scores) - metric(others) over `samples` resamples of the pictures (a
    paired bootstrap). What the two have in common, such as a hard picture, cancels out."""
    (first, truth), (second, _) = _checked(scores, labels), _checked(others, labels)
    _two(first, truth)
    rng, kinds = np.random.default_rng(seed), [np.flatnonzero(truth == label) for label in (0, 1)]
    draws = (np.concatenate([rng.choice(kind, len(kind)) for kind in kinds]) for _ in range(samples))
    gains = [metric(first[draw], truth[draw]) - metric(second[draw], truth[draw]) for draw in draws]
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return Comparison(metric(first, truth) - metric(second, truth), float(low), float(high), level)


def compare_pairs(gains: Sequence[float], *, level: float, among: int = 1) -> Comparison:
    """The mean of gains that were measured in pairs, such as on the same seeds, by Student's t. Where the best `among`
    so many candidates is compared, the interval is wider, so that `level` holds for all of them at once (Bonferroni).
    The interval of fewer than two gains is unbounded."""
    from scipy.stats import t

    mean, n = float(np.mean(gains)), len(gains)
    if n < 2:
        return Comparison(mean, -math.inf, math.inf, level)
    error = float(np.std(gains, ddof=1)) / math.sqrt(n)
    reach = error * float(t.ppf(1 - (1 - level) / 2 / max(among, 1), n - 1))
    return Comparison(mean, mean - reach, mean + reach, level)


def _above(normal: Floats, anomalous: Floats) -> float:
    """`normal` is sorted."""
    below = np.searchsorted(normal, anomalous, side="left") + np.searchsorted(normal, anomalous, side="right")
    return float(below.sum() / (2 * len(normal) * len(anomalous)))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise KkaError(
            f"a metric wants as many scores as labels in one dimension each, got shapes {values.shape} and"
            f" {truth.shape}."
        )
    if not np.isfinite(values).all():
        raise Collapse(
            f"a metric wants finite scores, got {int((~np.isfinite(values)).sum())} NaN or infinite ones. Look at the"
            " detector."
        )
    if not np.isin(truth, [0, 1]).all():
        raise KkaError(
            f"a metric wants labels 0 (normal) and 1 (anomalous), got {sorted(set(truth.tolist()) - {0, 1})[:3]}."
        )
    return values, truth.astype(np.int64)


def _two(scores: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The scores of the normals, and of the anomalies."""
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    if not len(normal) or not len(anomalous):
        raise KkaError(
            f"a metric wants both normals and anomalies, got {len(normal)} normals and {len(anomalous)} anomalies."
        )
    return normal, anomalous
