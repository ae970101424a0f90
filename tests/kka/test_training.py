"""Training hands over what there is, and nothing in the place of what there is not."""

import numpy as np

from kka import training
from kka.log import silent


class Recorder:
    seed = 0

    def fit(self, normals, anomalies=None, *, generated_normals=None, log=silent):
        self.seen = (normals, anomalies, generated_normals, log)
        return self


def test_empty_arrays_stand_for_none():
    some, none = np.ones((2, 16, 16, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8)
    detector = Recorder()
    assert training.train(detector, some, none, none) is detector
    assert detector.seen[0] is some and detector.seen[1] is None and detector.seen[2] is None
    training.train(detector, some, some, some)
    assert all(part is some for part in detector.seen[:3])
