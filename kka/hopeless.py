"""Hopeless anomalies: hard ones that stay hidden even from a detector which has learnt from anomalies like them.

A detector learns nothing from a picture that shows no more than a normal one does, and a language model that prefers
what scores low drifts into such pictures: faint, tiny, blurred. So two detectors learn from one half of a round's
anomalies each, and judge the other half, as in cross-fitting: each anomaly is judged by a detector that has learnt from
its siblings and not from itself. What it finds is learnable. Before that, where it is known what anomalies were made
from, pixels tell which of them changed next to nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from kka.confusion import Scores, Verdict, finite_scores
from kka.errors import Collapse, KkaError
from kka.records import Changes, Image, Images, seed_of
from kka.training import fit_over_seeds

Flags = NDArray[np.bool_]
_AROUND = 16  # a mask is looked at with this fraction of the picture's side around it
_LEAST_DEVIATION = 1.0  # grey levels: a flat picture has no grain to measure by, and finer steps cannot be stored


@dataclass(frozen=True)
class Taught:
    """What detectors that have learnt from their siblings make of anomalies, shape (n,) each, in standard deviations of
    their scores of calibration normals: `margins`, how far an anomaly scores above their boundary, and `effects`, how
    far above the picture that it was made from; None where nobody knows those."""

    margins: Scores
    effects: Scores | None = None

    def hidden(self, most_effect: float | None = None) -> Flags:
        """Which anomalies the detectors do not find, shape (n,): those that score at or below the boundary; or where
        `most_effect` is given, those with at most that effect. Raises KkaError where effects are wanted and not
        known."""
        if most_effect is None:
            return np.asarray(self.margins <= 0)
        if self.effects is None:
            raise KkaError(
                "assess.hopeless_by source compares anomalies with the pictures that they were made from, and the"
                " synthesizer begins with none. Set it to boundary."
            )
        return np.asarray(self.effects <= most_effect)


def judge_by_siblings(
    name: str,
    seed: int,
    options: Mapping[str, Any],
    normals: Images,
    anomalies: Images,
    calibration: Images,
    generated_normals: Images | None = None,
    *,
    quantile: float,
    changes: Changes | None = None,
    without_effect: Flags | None = None,
) -> Taught:
    """Fits the detector `name` twice, on the normals and one random half of the anomalies, and judges the other half.

    Pictures are uint8 (n, h, w, 3), `changes` those of the anomalies. The boundary is the `quantile` of the calibration
    normals' scores. Anomalies `without_effect` (n,) are judged and teach nothing. Raises Collapse where a half has no
    anomaly to learn from, and for scores that are not finite."""
    teaches = np.ones(len(anomalies), bool) if without_effect is None else ~without_effect
    halves = np.array_split(np.random.default_rng(seed).permutation(len(anomalies)), 2)
    if not all(teaches[half].any() for half in halves):
        raise Collapse(
            f"assess: hopeless anomalies are told by what their siblings teach, which wants anomalies in both halves,"
            f" got {int(teaches.sum())} of {len(anomalies)} that teach anything. Raise describe.count."
        )
    margins, effects = np.zeros(len(anomalies)), np.zeros(len(anomalies))
    for number, half in enumerate(halves):
        siblings = halves[1 - number]
        lessons = siblings[teaches[siblings]]
        taught = None if changes is None else changes.take(lessons)
        seeds = [seed_of(seed, number)]
        (detector,) = fit_over_seeds(
            name, seeds, options, normals, anomalies[lessons], generated_normals, changes=taught
        )
        normal, scores = finite_scores(detector, calibration), finite_scores(detector, anomalies[half])
        deviation = max(float(normal.std()), 1e-9)
        margins[half] = (scores - np.quantile(normal, quantile)) / deviation
        if changes is not None:
            effects[half] = (scores - finite_scores(detector, changes.sources[half])) / deviation
    return Taught(margins, None if changes is None else effects)


def contrasts(anomalies: Images, changes: Changes) -> Scores:
    """How far anomalies (n, h, w, 3) depart from their sources, shape (n,), at least 0: the mean difference within the
    mask, in standard deviations of the source's levels in and around it. 0 for an empty mask.

    What differs by less than the picture does by itself nearby is hidden in its grain."""
    rows = zip(anomalies, changes.sources, changes.masks, strict=True)
    return np.array([_contrast(*row) if row[2].any() else 0.0 for row in rows], dtype=np.float64)


def _contrast(anomaly: Image, source: Image, mask: Flags) -> float:
    around = binary_dilation(mask, iterations=max(1, max(mask.shape) // _AROUND))
    deviation = source[around].std(axis=0).mean()
    difference = np.abs(anomaly[mask].astype(float) - source[mask]).mean()
    return float(difference / max(deviation, _LEAST_DEVIATION))


def with_hopeless(verdict: Verdict, hidden: Flags, without_effect: Flags) -> Verdict:
    """The verdict with its hopeless anomalies: hard ones that are `hidden` (n,) from what their siblings teach, and all
    that are `without_effect` (n,), which are no anomalies whatever they score."""
    lost = without_effect | (hidden & np.array([g == "hard" for g in verdict.grades]))
    grades = ["hopeless" if gone else grade for gone, grade in zip(lost, verdict.grades, strict=True)]
    return replace(verdict, grades=grades)
