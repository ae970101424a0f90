"""Whether pictures still come from the world that a detector was calibrated in.

P-values of normal pictures are uniform on (0, 1] if, and as far as, those pictures are like the calibration normals.
But they are steps of 1 / (n + 1), and all of them stand on the same n normals, which are a sample themselves: many
pictures against few normals would always differ from the uniform distribution. Both is taken into account by the
two-sample test of Kolmogorov and Smirnov on the scores that the p-values are made of: its statistic, the largest
distance between the two empirical distributions, is that of the p-values to the uniform one; ties make it conservative.

A stream with a share of defects is no drift. Whatever they score, they move the distribution by no more than their
share: so much of the distance is forgiven. What is left over is something that happened to the normal pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 30  # pictures below which nothing is said
LEVEL = 0.01  # of the test: as rarely it errs where nothing has changed
DEFECTS = 0.05  # the share of defects that is forgiven


@dataclass(frozen=True)
class Drift:
    """The `distance` of two distributions of scores, 0 to 1, and the p-value of the test that what exceeds the share of
    defects is chance."""

    distance: float
    p_value: float

    @property
    def found(self) -> bool:
        """Whether the pictures differ for sure."""
        return self.p_value < LEVEL


def drift(scores: NDArray[np.float64], calibration: NDArray[np.float64], *, defects: float = DEFECTS) -> Drift | None:
    """How far scores (m,) are from those of calibration normals (n,), and whether that is more than chance and a share
    of `defects` explain. None for fewer than `FEWEST` scores.

    The test holds for pictures that are drawn independently: many views of one part count as one picture."""
    from scipy.stats import kstwo

    if len(scores) < FEWEST:
        return None
    ordered, normal = np.sort(scores), np.sort(calibration)
    every = np.concatenate([ordered, normal])
    shares = [np.searchsorted(sample, every, side="right") / len(sample) for sample in (ordered, normal)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    effective = max(1, round(len(ordered) * len(normal) / len(every)))  # of the asymptotic two-sample distribution
    return Drift(distance, float(kstwo.sf(max(distance - defects, 0.0), effective)))
