"""What a round's detector says of new anomalies, and of the controls."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kka import detectors
from kka.confusion import grade
from kka.errors import Collapse
from kka.images import read_split
from kka.metrics import separation
from kka.records import Anomaly, Grade
from pipelines.generated import measuring_controls
from pipelines.stage import Run


@dataclass(frozen=True)
class Verdict:
    """Scores and grades of the new anomalies; `controls` tells generated from real normals (AUROC), None where there
    are none."""

    scores: NDArray[np.float64]
    grades: list[Grade]
    controls: float | None

    def figures(self, suffix: str) -> dict[str, float]:
        """The share of hard anomalies, and how well the detector tells generated normals from real ones."""
        gap = {} if self.controls is None else {f"controls_auroc{suffix}": self.controls}
        return {f"hard_rate{suffix}": self.grades.count("hard") / len(self.grades), **gap}


def judge(run: Run, name: str, images: NDArray[np.uint8]) -> Verdict:
    """The verdict of round `name`'s detector, its boundary from the calibration normals."""
    detector = detectors.load(run.path("data", name, "detector"))
    calibration = detector.score(read_split(run.path("data", "splits", "calibration")).images)
    scores, controls = detector.score(images), measuring_controls(run)
    gap = None if controls is None else separation(calibration, detector.score(controls))
    return Verdict(scores, grade(scores, calibration, **run.config.assess.model_dump()), gap)


def check_contrast(run: Run, pool: Sequence[Anomaly]) -> None:
    """Raises KkaError for a pool in which all anomalies are hard: it holds nothing that is surely anomalous. A pool
    without a hard one is worth a warning, for it is common where the detector is good, and the lowest scores are still
    the nearest."""
    hard = sum(a.grade == "hard" for a in pool)
    if hard == len(pool):
        raise Collapse(
            f"assess: round {run.round} wants hard and easy anomalies, got {hard} hard ones of {len(pool)}: the detector takes all of them"
            " for normal. Lower assess.quantile, or look at the pictures: they may show the normal class."
        )
    if not hard:
        print(
            f"assess {run.round}: no hard anomaly among {len(pool)}: the detector takes none of them for normal. Where controls_auroc in"
            " metrics/*/assess.json is near 1, it may only know generated pictures; else assess.quantile may be raised.",
            file=sys.stderr,
        )
