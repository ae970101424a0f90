"""The confusion evaluator: which generated anomalies does a detector take for normal, and which of them train the next?

Scores become grades (hard, between, easy), and grades become the mixture that the next detector trains on. The detector
that judges has never seen the pictures: it is the one of the round before. `kka.hopeless` tells which of the hard ones
are hopeless.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kka.detectors import Detector
from kka.errors import Collapse, KkaError
from kka.metrics import separation
from kka.records import Anomaly, Description, Grade, Images, sha256

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Scores (n,) and grades of new anomalies. `gap` is the AUROC of telling generated normals from real ones, None
    where there are no generated normals; `effects` (n,) are those of the records, None where nobody has measured
    them."""

    scores: Scores
    grades: list[Grade]
    gap: float | None = None
    effects: Scores | None = None

    @property
    def hard_rate(self) -> float:
        """The fraction that is hard."""
        return self.grades.count("hard") / len(self.grades)

    def figures(self, suffix: str = "") -> dict[str, float]:
        """`hard_rate`, and where it is known `controls_auroc`, with the suffix behind their names."""
        gap = {} if self.gap is None else {f"controls_auroc{suffix}": self.gap}
        return {f"hard_rate{suffix}": self.hard_rate, **gap}


def judge(
    detector: Detector,
    anomalies: Images,
    calibration: Images,
    controls: Images | None = None,
    *,
    quantile: float,
    easy_share: float,
) -> Verdict:
    """What a detector that has never seen the anomalies makes of them; its boundary comes from calibration normals.
    `controls` are generated normals that it has not trained on. All pictures are uint8 (n, h, w, 3).
    Raises Collapse for scores that are not finite."""
    normal, scores = finite_scores(detector, calibration), finite_scores(detector, anomalies)
    gap = None if controls is None else separation(normal, finite_scores(detector, controls))
    return Verdict(scores, grade(scores, normal, quantile=quantile, easy_share=easy_share), gap)


def finite_scores(detector: Detector, images: Images) -> Scores:
    """The scores of pictures (n, h, w, 3). Raises Collapse where one is not finite."""
    scores = detector.score(images)
    if not np.isfinite(scores).all():
        raise Collapse(
            "assess: wanted finite scores, got NaN or infinite ones: the detector has diverged. Lower its learning rate"
            " (detect.options)."
        )
    return scores


def grade(scores: Scores, calibration: Scores, *, quantile: float, easy_share: float) -> list[Grade]:
    """Hard: at or below the `quantile` of the calibration normals' scores, inside the boundary. Easy: of the others,
    the `easy_share` that scores highest. What is left is between. Disjoint by construction."""
    if not len(calibration):
        raise KkaError(
            "assess: the boundary wants calibration normals, got none. Give the data set a calibration split."
        )
    hard = scores <= np.quantile(calibration, quantile)
    outside = np.flatnonzero(~hard)
    easy = set(outside[np.argsort(-scores[outside], kind="stable")][: round(easy_share * len(outside))].tolist())
    return ["hard" if h else "easy" if i in easy else "between" for i, h in enumerate(hard)]


def hard_proportion(ordinal: int, *, start: float, end: float, rounds: int) -> float:
    """The wanted share of hard anomalies in round `ordinal` (1, 2, ...): linear from `start` to `end` at round
    `rounds`."""
    return start + (end - start) * min(1.0, (ordinal - 1) / max(1, rounds - 1))


def mixture(pool: Sequence[Anomaly], proportion: float, rng: np.random.Generator) -> tuple[list[Anomaly], float]:
    """The hard and easy anomalies to train on, at most `proportion` of them hard, and the proportion really reached.

    Hard ones beyond that are left out at random, those between and hopeless ones always. Where hard ones are scarcer
    they stay so: nothing is repeated or filled up, and no easy one is left out for their sake. Raises Collapse where
    none is left."""
    hard = [i for i, a in enumerate(pool) if a.grade == "hard"]
    easy = [i for i, a in enumerate(pool) if a.grade == "easy"]
    if easy and proportion < 1:
        most = round(len(easy) * proportion / (1 - proportion))
        hard = [hard[i] for i in rng.permutation(len(hard))[:most]]
    chosen = sorted([*hard, *easy])
    if not chosen:
        raise Collapse(
            f"detect: wanted hard and easy anomalies to train on, got none of {len(pool)}. Raise assess.easy_share, or"
            " the hard proportion."
        )
    return [pool[i] for i in chosen], len(hard) / len(chosen)


def rated(
    name: str, descriptions: Sequence[Description], images: Images, verdict: Verdict, verdict_r0: Verdict
) -> list[Anomaly]:
    """The records of round `name`'s anomalies, picture i of description i, with the verdicts of the detectors of the
    round before and of round zero."""
    effects = [None] * len(verdict.scores) if verdict.effects is None else verdict.effects.tolist()
    found = zip(verdict.scores.tolist(), verdict_r0.scores.tolist(), verdict.grades, effects, strict=True)
    return [
        Anomaly(f"{name}-{text.id}", name, i, text.text, score, score_r0, grade, sha256(images[i]), effect)
        for i, (text, (score, score_r0, grade, effect)) in enumerate(zip(descriptions, found, strict=True))
    ]


def check_contrast(pool: Sequence[Anomaly]) -> None:
    """Raises Collapse for a pool in which all anomalies are hard or hopeless: it holds nothing that is surely
    anomalous. A pool without a hard one is common where the detector is good, and the lowest scores are still the
    nearest."""
    counts = Counter(a.grade for a in pool)
    if pool and counts["hard"] + counts["hopeless"] == len(pool):
        hopeless = f", and {counts['hopeless']} hopeless" if counts["hopeless"] else ""
        raise Collapse(
            f"assess: wanted hard and easy anomalies, got {counts['hard']} hard ones of {len(pool)}{hopeless}: the"
            " detector takes all of them for normal. Lower assess.quantile, or look at the pictures: they may show the"
            " normal class."
        )
