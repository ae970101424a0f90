"""A detector is fitted from each seed."""

import numpy as np
import pytest

from kka import detectors, training
from kka.log import silent


class Recorder:
    def __init__(self, seed, **options):
        self.seed, self.options = seed, options

    def fit(self, normals, anomalies=None, *, generated_normals=None, log=silent):
        self.given = (normals, anomalies, generated_normals)
        self.log = log
        return self


def test_every_seed_gets_the_same_pictures_and_the_first_alone_logs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(detectors, "create", lambda name, seed, **options: Recorder(seed, name=name, **options))
    normals, anomalies, controls = (np.full((2, 16, 16, 3), i, np.uint8) for i in range(3))

    def log(name, value, step):
        raise AssertionError

    fits = list(training.fit_over_seeds("bce", [7, 8, 9], {"steps": 1}, normals, anomalies, controls, log=log))
    assert [fit.seed for fit in fits] == [7, 8, 9] and all(fit.options == {"name": "bce", "steps": 1} for fit in fits)
    assert all(fit.given == (normals, anomalies, controls) for fit in fits)
    assert [fit.log for fit in fits] == [log, silent, silent]
