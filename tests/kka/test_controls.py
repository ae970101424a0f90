"""Generated normals are halved: one half trains, the other only measures."""

import numpy as np

from kka.controls import measuring_controls, to_measure_on, to_train_on, training_controls

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def test_controls_are_halved_into_those_to_train_on_and_those_to_measure_on() -> None:
    assert np.array_equal(to_train_on(IMAGES[:5]), IMAGES[:2]) and np.array_equal(
        to_measure_on(IMAGES[:5]), IMAGES[2:5]
    )


def test_controls_of_all_rounds_are_trained_on_and_those_of_one_measure() -> None:
    trained = training_controls([None, IMAGES[:4], IMAGES])
    assert trained is not None and np.array_equal(trained, IMAGES[[0, 1, 0, 1, 2]])
    measured = measuring_controls(IMAGES)
    assert measured is not None and np.array_equal(measured, IMAGES[3:])


def test_no_controls_are_no_controls() -> None:
    assert training_controls([None]) is training_controls([]) is measuring_controls(None) is None
    assert training_controls([IMAGES[:1]]) is None  # its only picture measures
