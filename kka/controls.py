"""Controls: pictures of normal captions, made as the anomalies are. A detector that tells them from real normals has
learnt what is generated instead of what is anomalous."""

from collections.abc import Sequence

import numpy as np

from kka.records import Images


def to_train_on(controls: Images) -> Images:
    """The half that detectors train on, and that spectra are matched by; pictures (n, h, w, 3)."""
    return controls[: len(controls) // 2]


def to_measure_on(controls: Images) -> Images:
    """The other half, which only measures how far generated pictures are from real ones."""
    return controls[len(controls) // 2 :]


def training_controls(rounds: Sequence[Images | None]) -> Images | None:
    """What detectors train on of the controls of several rounds; None where there are none."""
    halves = [to_train_on(controls) for controls in rounds if controls is not None]
    return np.concatenate(halves) if any(map(len, halves)) else None


def measuring_controls(controls: Images | None) -> Images | None:
    """What only measures of the controls of one round; None where there are none."""
    return None if controls is None else to_measure_on(controls)
