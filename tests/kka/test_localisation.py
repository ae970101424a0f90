"""The figures of maps: by hand, against scikit-learn, and against thresholds tried one by one."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, roc_auc_score

from kka.errors import Collapse, KkaError
from kka.localisation import Pixels

# one picture of 3x4: a region of two pixels, one of a single pixel, nine normal ones
MASK = np.array([[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]], bool)
MAP = np.array([[[9, 5, 7, 0], [0, 0, 4, 0], [0, 0, 0, 5]]], float)


def test_every_figure_by_hand() -> None:
    found = Pixels(MAP, MASK)
    # above the nine normal pixels 7, 4 and seven times 0 lie: of 9 nine, of either 5 eight
    assert found.auroc() == pytest.approx((9 + 8 + 8) / 27)
    # at 9: precision 1/1, recall 0 to 1/3; at 5, both at once: precision 3/4 (7 is normal), recall 1/3 to 1
    assert found.average_precision() == pytest.approx(1 / 3 * 1 + 2 / 3 * 3 / 4)
    # overlap: at 9 half of the larger region and none of the smaller, 1/4; at 5 all of both. The rate is 0 until 7 is
    # passed, and 1/9 from there on: a step from 1/4 to 1 at 1/9
    assert found.aupro(1.0) == pytest.approx(1 / 9 * 1 / 4 + 8 / 9)
    assert found.aupro(0.3) == pytest.approx((1 / 9 * 1 / 4 + (0.3 - 1 / 9)) / 0.3)
    assert found.aupro(0.05) == pytest.approx(1 / 4)
    assert found.aupro(1 / 9) == pytest.approx(1 / 4)  # a limit on the step counts what lies before it
    assert found.figures() == {
        "pixel_auroc": found.auroc(),
        "pixel_ap": found.average_precision(),
        "aupro": found.aupro(0.3),
        "aupro_05": found.aupro(0.05),
    }


def test_pixels_of_equal_score_pass_a_threshold_together() -> None:
    """Two anomalous and two of four normal pixels tie: the curve goes straight from (0, 0) to (1/2, 1), then level."""
    found = Pixels(np.array([[[1.0, 1, 1], [1, 0, 0]]]), np.array([[[True, True, False], [False, False, False]]]))
    assert found.aupro(1.0) == pytest.approx(1 / 2 * 1 / 2 + 1 / 2)
    assert found.aupro(0.25) == pytest.approx(1 / 2 * 1 / 2)  # half of the way up, where the overlap is 1/2
    assert found.auroc() == pytest.approx((2 + 2 / 2) / 4)
    assert found.average_precision() == pytest.approx(2 / 4)
    flat = Pixels(np.zeros((1, 4, 4)), np.eye(4, dtype=bool)[None])
    assert flat.auroc() == flat.aupro(1.0) == 0.5


def test_pixels_that_touch_by_a_corner_are_one_region_and_pictures_never_touch() -> None:
    corner = np.array([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]], bool)  # a region of two, and one of one pixel
    scores = np.array([[[3.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]])
    # half of one of two regions stands out before the normal pixels, all at 0, are passed; then all of both
    assert Pixels(scores, corner).aupro() == 1.0
    scores[0, 0, 1] = 2.0
    assert Pixels(scores, corner).aupro(1 / 18) == pytest.approx(1 / 4)
    both = np.ones((2, 1, 2), bool) & np.array([[[True, False]], [[True, False]]])
    maps = np.array([[[3.0, 2]], [[1.0, 0]]])  # of two regions, one in each picture, the first stands out
    assert Pixels(maps, both).aupro(0.5) == pytest.approx(1 / 2)


def thresholds_one_by_one(maps: NDArray[np.float64], masks: NDArray[np.bool_], limit: float) -> float:
    regions = [
        m[labels == i]
        for m, (labels, n) in ((m, label(t, np.ones((3, 3)))) for m, t in zip(maps, masks, strict=True))
        for i in range(1, n + 1)
    ]
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        x.append(float((maps[~masks] >= threshold).mean()))
        y.append(float(np.mean([(region >= threshold).mean() for region in regions])))
    area = 0.0
    for (x0, x1), (y0, y1) in zip(zip(x, x[1:], strict=False), zip(y, y[1:], strict=False), strict=True):
        end = min(x1, limit)
        if end > x0:
            area += (end - x0) * (y0 + (y0 + (y1 - y0) * (end - x0) / (x1 - x0))) / 2
    return area / limit


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_the_figures_are_those_of_every_threshold(share: float, decimals: int) -> None:
    rng = np.random.default_rng(round(100 * share) + decimals)
    masks = rng.random((3, 12, 10)) < share
    maps = (rng.normal(size=masks.shape) + masks).round(decimals)
    found = Pixels(maps, masks)
    assert found.auroc() == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found.average_precision() == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    for limit in (0.01, 0.05, 0.3, 1.0):
        assert found.aupro(limit) == pytest.approx(thresholds_one_by_one(maps, masks, limit), abs=1e-12)


def test_normal_pictures_may_come_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 8, 8), bool)
    masks[:2, 2:4, 2:5] = True
    maps = rng.normal(size=masks.shape).round(1)
    parts = Pixels(maps[:2], masks[:2], (maps[i : i + 2] for i in (2, 4)))
    assert parts.figures() == Pixels(maps, masks).figures()


def test_a_perfect_map_has_ones_and_its_reverse_zeros() -> None:
    perfect = Pixels(MASK.astype(float), MASK).figures()
    assert set(perfect.values()) == {1.0}
    reverse = Pixels(-MASK.astype(float), MASK)
    assert reverse.auroc() == reverse.aupro(0.3) == 0 and reverse.average_precision() == pytest.approx(3 / 12)


def test_what_no_figure_can_be_had_from_is_refused() -> None:
    with pytest.raises(KkaError, match=r"wants maps \(n, h, w\) and masks alike, got \(1, 3, 4\) and \(1, 3, 3\)"):
        Pixels(MAP, MASK[:, :, :3])
    with pytest.raises(KkaError, match="wants normal and anomalous pixels, got 12 and 0. Look at the masks"):
        Pixels(MAP, np.zeros_like(MASK))
    with pytest.raises(KkaError, match="got 0 and 12"):
        Pixels(MAP, np.ones_like(MASK))
    with pytest.raises(Collapse, match="wants finite scores, got 1 NaN"):
        Pixels(np.where(MAP == 7, np.nan, MAP), MASK)
    with pytest.raises(Collapse, match="got 12 NaN or infinite"):
        Pixels(MAP, MASK, [np.full((1, 3, 4), np.inf)])
    with pytest.raises(KkaError, match=r"wants a limit in \(0, 1\], got 0"):
        Pixels(MAP, MASK).aupro(0)


def test_forty_maps_take_no_time() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 128, 128), bool)
    masks[:20, 30:42, 50:60] = masks[:20, 80:83, 10:40] = True
    maps = gaussian_filter(rng.normal(size=masks.shape), (0, 2, 2)) + 0.1 * masks
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        Pixels(maps, masks).figures()
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.15
