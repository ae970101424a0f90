"""What a report holds, worked out by hand on six pictures."""

import numpy as np
import pytest

from kka import evaluation

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
    assert found["false_positive_rate"] == pytest.approx(2 / 3)  # 1 and 2 of the test normals lie above 0.95
    assert found["auroc_low"] <= found["auroc"] <= found["auroc_high"]
    assert 0 <= found["fpr95"] <= 1 and 0 <= found["average_precision"] <= 1
    assert all(type(v) is float for k, v in found.items() if k != "groups")


def test_without_bootstrap_there_is_no_interval():
    assert set(report()) - set(report(bootstrap=0)) == {"auroc_low", "auroc_high"}


def test_several_fits_become_their_means_with_the_deviation_of_the_auroc():
    fits = [
        {"auroc": 0.8, "groups": {"near": 0.6, "far": 1.0}, "threshold": 2.0, "hardest_group": "near"},
        {"auroc": 0.9, "groups": {"near": 0.8, "far": 1.0}, "threshold": 4.0, "hardest_group": "far"},
    ]
    assert evaluation.over_fits(fits) == {
        "auroc": pytest.approx(0.85),
        "groups": {"near": pytest.approx(0.7), "far": 1.0},
        "threshold": 2.0,  # the scores that people see are the first fit's
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
