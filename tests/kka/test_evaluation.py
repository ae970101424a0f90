"""What a report holds, worked out by hand on six pictures."""

import dataclasses

import numpy as np
import pytest

from kka import evaluation, metrics
from kka.records import Split

SCORES = np.array([0.0, 1.0, 2.0, 1.5, 3.0, 0.5])
LABELS = np.array([0, 0, 0, 1, 1, 1])
GROUPS = ("normal", "normal", "normal", "near", "far", "near")
CALIBRATION = np.linspace(0, 1, 101)  # its 0.95 quantile is 0.95


def report(**other):
    options = {"bootstrap": 50, "level": 0.9, "seed": 0, **other}
    return evaluation.evaluate(SCORES, LABELS, GROUPS, CALIBRATION, **options)


def test_the_figures_are_those_of_the_metrics():
    found = report()
    # above the normals 0, 1, 2 lie: of 1.5 two, of 3 three, of 0.5 one: 6 of 9 pairs
    assert found["auroc"] == pytest.approx(6 / 9)
    assert found["groups"] == {"far": 1.0, "near": pytest.approx(3 / 6)}
    assert found["threshold"] == pytest.approx(0.95)
    assert found["recall"] == pytest.approx(2 / 3)  # and of the anomalies 1.5 and 3
    assert found["false_positive_rate"] == pytest.approx(2 / 3)  # 1 and 2 of the test normals lie above 0.95
    assert found["auroc_low"] <= found["auroc"] <= found["auroc_high"]
    assert 0 <= found["fpr95"] <= 1 and 0 <= found["average_precision"] <= 1
    assert all(type(v) is float for k, v in found.items() if k != "groups")
    # precision where 3, 1.5 and 0.5 are found: 1/1, 2/3 (2 is a normal), 3/5 (1 too), each with a third of recall
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found["fpr95"] == pytest.approx(2 / 3)  # all anomalies are found from 0.5 on, where 1 and 2 lie


def test_the_interval_is_that_of_the_options():
    found = report(bootstrap=40, level=0.8, seed=3)
    ends = metrics.bootstrap_interval(metrics.auroc, SCORES, LABELS, samples=40, level=0.8, seed=3)
    assert (found["auroc_low"], found["auroc_high"]) == ends


def test_a_score_on_the_threshold_is_no_alarm():
    found = evaluation.evaluate(SCORES, LABELS, GROUPS, np.ones(9), bootstrap=0, level=0.9, seed=0)
    assert found["threshold"] == 1 and found["false_positive_rate"] == pytest.approx(1 / 3)  # 2 alone lies above


class Brightness:
    """A detector whose score is the mean of a picture."""

    seed = 0

    def score(self, images):
        return images.mean((1, 2, 3))


def split(values, labels, groups):
    images = np.stack([np.full((2, 2, 3), v, np.uint8) for v in values])
    return Split(images, ("",) * len(values), np.array(labels), groups)


def test_a_fit_is_measured_on_every_split():
    test = split([0, 10, 20, 15], [0, 0, 0, 1], ("normal", "normal", "normal", "near"))
    validation = split([0, 1, 2], [0, 1, 1], ("normal", "far", "near"))
    calibration = split([0, 10], [0, 0], ("normal", "normal"))
    how = {"bootstrap": 20, "level": 0.8, "seed": 3}
    found = evaluation.measure(Brightness(), test, calibration, validation, **how)
    assert found.test.tolist() == [0, 10, 20, 15] and found.calibration.tolist() == [0, 10]
    expected = evaluation.evaluate(found.test, test.labels, test.groups, found.calibration, **how)
    assert found.figures == expected | {"validation_auroc": 1.0, "hardest_group": "far"}
    # of the controls 5 and 20 against the normals 0 and 10 three of four pairs stand in order
    controls = split([5, 20], [0, 0], ("normal", "normal")).images
    told = evaluation.measure(Brightness(), test, calibration, validation, controls, **how)
    assert told.figures == found.figures | {"controls_auroc": 3 / 4}


class Mapped(Brightness):
    """Its maps are the pictures' first channel."""

    def score_map(self, images):
        return images[..., 0].astype(float)


def test_regions_begin_where_the_maps_of_calibration_normals_say():
    normals = split([0, 10], [0, 0], ("normal", "normal"))
    how = {"bootstrap": 0, "level": 0.8, "seed": 3}
    found, without = (evaluation.measure(d, normals, normals, normals, **how) for d in (Mapped(), Brightness()))
    assert found.figures == without.figures | {"pixel_threshold": pytest.approx(9.5)}


def test_maps_are_measured_where_the_test_split_has_masks():
    test = split([0, 10, 20, 15], [0, 0, 0, 1], ("normal", "normal", "normal", "near"))
    test.images[3, 0, 0] = 30  # the marked pixel is the highest of all
    masks = np.zeros((4, 2, 2), bool)
    masks[3, 0, 0] = True
    marked = dataclasses.replace(test, masks=masks)
    assert evaluation.localise(Mapped(), marked) == dict.fromkeys(
        ("pixel_auroc", "pixel_ap", "aupro", "aupro_05"), pytest.approx(1.0)
    )
    test.images[3, 0, 0] = 15  # now four of the fifteen others, those of the picture of 20, lie above, three are equal
    assert evaluation.localise(Mapped(), marked)["pixel_auroc"] == pytest.approx((15 - 4 - 3 / 2) / 15)
    assert evaluation.localise(Brightness(), marked) == evaluation.localise(Mapped(), test) == {}


def test_anomalies_in_which_nothing_is_marked_are_left_out_of_the_figures_of_maps():
    test = split([0, 40, 30, 10], [0, 1, 1, 0], ("normal", "near", "near", "normal"))
    masks = np.zeros((4, 2, 2), bool)
    masks[2, 0] = True
    # of the picture of 40 nobody knows where: counted as normal, its pixels would lie above what is marked
    found = evaluation.localise(Mapped(), dataclasses.replace(test, masks=masks))
    assert found["pixel_auroc"] == pytest.approx((8 + 2 / 2) / 10)  # 8 pixels of normals lie below, 2 are equal


def test_without_bootstrap_there_is_no_interval():
    assert set(report()) - set(report(bootstrap=0)) == {"auroc_low", "auroc_high"}


def test_several_fits_become_their_means_with_the_deviation_of_the_auroc():
    first = {"auroc": 0.8, "groups": {"near": 0.6, "far": 1.0}, "threshold": 2.0, "pixel_threshold": 5.0}
    second = {"auroc": 0.9, "groups": {"near": 0.8, "far": 1.0}, "threshold": 4.0, "pixel_threshold": 7.0}
    fits = [first | {"hardest_group": "near"}, second | {"hardest_group": "far"}]
    assert evaluation.over_fits(fits) == {
        "auroc": pytest.approx(0.85),
        "groups": {"near": pytest.approx(0.7), "far": 1.0},
        "threshold": 2.0,  # the scores that people see are the first fit's
        "pixel_threshold": 5.0,
        "hardest_group": "near",
        "auroc_std": pytest.approx(0.05 * 2**0.5),
    }
    assert evaluation.over_fits(fits[:1]) == fits[0]


def test_the_roc_curve_goes_from_corner_to_corner():
    points = evaluation.roc_points(SCORES, LABELS)
    assert points[0] == {"fpr": 0.0, "tpr": 0.0} and points[-1] == {"fpr": 1.0, "tpr": 1.0}
    # the area under its corners is the AUROC
    area = sum((b["fpr"] - a["fpr"]) * (a["tpr"] + b["tpr"]) / 2 for a, b in zip(points, points[1:], strict=False))
    assert area == pytest.approx(6 / 9)


def test_without_known_anomalies_the_false_positives_are_all_there_is_to_tell():
    found = evaluation.evaluate(SCORES[:3], LABELS[:3], GROUPS[:3], CALIBRATION, bootstrap=10, level=0.9, seed=0)
    threshold = np.quantile(CALIBRATION, 0.95)
    assert found == {"threshold": threshold, "false_positive_rate": (SCORES[:3] > threshold).mean(), "groups": {}}
    assert (
        evaluation.validate(SCORES[:3], LABELS[:3], GROUPS[:3]) == {}
        and evaluation.roc_points(SCORES[:3], LABELS[:3]) == []
    )
    assert "auroc_std" not in evaluation.over_fits([found, found])


def test_validation_names_the_hardest_group():
    scores, labels = np.array([0.0, 1.0, 0.5, 3.0, 4.0]), np.array([0, 0, 1, 1, 1])
    found = evaluation.validate(scores, labels, ("normal", "normal", "near", "far", "far"))
    assert found == {"validation_auroc": pytest.approx(5 / 6), "hardest_group": "near"}


def test_the_worst_are_the_highest_normals_and_the_lowest_anomalies_the_worst_first():
    assert evaluation.worst(SCORES, LABELS, 2) == [2, 1, 5, 3]
    assert evaluation.worst(SCORES, LABELS, 9) == [2, 1, 0, 5, 3, 4]
    assert evaluation.worst(SCORES[:3], LABELS[:3], 2) == [2, 1]
    # those that score alike stand in the order of their rows, the normals turned round
    alike = np.tile([1.0, 0.0], 50)
    assert evaluation.worst(alike, np.ones(100, int), 3) == [1, 3, 5]
    assert evaluation.worst(alike, np.zeros(100, int), 3) == [98, 96, 94]


def test_a_group_may_be_called_threshold() -> None:
    fits = [{"threshold": 1.0, "groups": {"threshold": 0.5}}, {"threshold": 3.0, "groups": {"threshold": 0.7}}]
    assert evaluation.over_fits(fits) == {"threshold": 1.0, "groups": {"threshold": pytest.approx(0.6)}}
