"""The test of drift: how often it errs, what it finds, and what it forgives."""

import numpy as np
import pytest
from scipy.stats import ks_1samp, ks_2samp

from kka.drift import DEFECTS, FEWEST, LEVEL, drift


def share_found(pictures: int, normals: int, change: float = 0.0, defects: float = 0.0, times: int = 300) -> float:
    """How often drift is found among normals that score `change` deviations higher, and defects that score highest."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(times):
        scores = rng.normal(change, 1, pictures)
        scores[rng.random(pictures) < defects] = 9.0
        told = drift(scores, rng.normal(size=normals))
        found += told is not None and told.found
    return found / times


def test_without_a_share_of_defects_it_is_the_common_two_sample_test() -> None:
    rng = np.random.default_rng(0)
    scores, calibration = rng.normal(0.2, 1, 400), rng.normal(size=300)
    told, common = drift(scores, calibration, defects=0.0), ks_2samp(scores, calibration, method="asymp")
    assert told is not None
    assert (told.distance, told.p_value) == pytest.approx((common.statistic, common.pvalue))


def test_the_distance_is_that_of_the_p_values_to_the_uniform_distribution() -> None:
    """With p-values in steps of 1 / (n + 1): to what they would be in the limit they are no farther than two steps."""
    rng = np.random.default_rng(0)
    scores, calibration = rng.normal(0.5, 1, 200), np.sort(rng.normal(size=999))
    p_values = (999 - np.searchsorted(calibration, scores, side="left") + 1) / 1000
    told = drift(scores, calibration)
    assert told is not None
    assert told.distance == pytest.approx(ks_1samp(p_values, lambda x: np.clip(x, 0, 1)).statistic, abs=0.002)


def test_fewer_than_thirty_pictures_say_nothing() -> None:
    calibration = np.linspace(0, 1, 100)
    assert FEWEST == 30 and drift(np.full(29, 9.0), calibration) is None
    told = drift(np.full(30, 9.0), calibration)
    assert told is not None and told.distance == 1 and told.found


@pytest.mark.parametrize(("pictures", "normals"), [(30, 19), (200, 300), (5000, 100), (5000, 3000)])
def test_pictures_of_the_same_world_are_seldom_called_others(pictures: int, normals: int) -> None:
    """Many pictures against few normals above all: a test against the uniform distribution itself would nearly always
    find something there."""
    assert share_found(pictures, normals) <= 0.01 + 3 * (LEVEL * (1 - LEVEL) / 300) ** 0.5


def test_a_known_share_of_defects_is_no_drift_however_many_pictures_there_are() -> None:
    assert share_found(5000, 3000, defects=DEFECTS, times=100) <= 0.03
    assert share_found(5000, 3000, defects=4 * DEFECTS, times=100) == 1


def test_a_change_is_found_in_either_direction() -> None:
    """Half a deviation moves the distribution by 2 * Phi(0.25) - 1 = 0.2."""
    for change in (0.5, -0.5):
        assert share_found(1000, 500, change=change, times=100) == 1


def test_equal_scores_err_to_the_safe_side() -> None:
    """A detector that knows two scores."""
    rng = np.random.default_rng(0)
    told = [drift(rng.integers(0, 2, 100).astype(float), rng.integers(0, 2, 100).astype(float)) for _ in range(200)]
    assert sum(t is not None and t.found for t in told) <= 3
