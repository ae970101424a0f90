"""The figures, with the arithmetic in the test."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from kka import metrics
from kka.errors import KkaError
from kka.metrics import Comparison

# scores from low to high: normal, normal, anomaly, normal, anomaly
SCORES, LABELS = [0.1, 0.2, 0.3, 0.4, 0.5], [0, 0, 1, 0, 1]


def test_auroc_counts_the_pairs_that_stand_in_order():
    # the anomaly at 0.3 lies above two of three normals, the one at 0.5 above all three: 5 of 6 pairs
    assert metrics.auroc(SCORES, LABELS) == pytest.approx(5 / 6)
    # every pair a tie: half
    assert metrics.auroc([1, 1, 1], [0, 1, 1]) == 0.5
    # higher is more anomalous: turned round, one pair of six
    assert metrics.auroc([-s for s in SCORES], LABELS) == pytest.approx(1 / 6)


def test_average_precision_weighs_precision_by_recall():
    # at 0.5: precision 1/1, recall 0 to 1/2; at 0.3: precision 2/3 (0.4 is a normal), recall 1/2 to 1
    assert metrics.average_precision(SCORES, LABELS) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_fpr_at_tpr_is_taken_where_enough_anomalies_are_found():
    # both anomalies are found from 0.3 on: one of three normals lies there
    assert metrics.fpr_at_tpr(SCORES, LABELS) == pytest.approx(1 / 3)
    # half of them are found from 0.5 on: no normal
    assert metrics.fpr_at_tpr(SCORES, LABELS, tpr=0.5) == 0
    # 20 anomalies at 1 to 20; 95% are the 19 from 2 on; of normals at 0, 1, 2, 3 two lie there
    assert metrics.fpr_at_tpr([0, 1, 2, 3, *range(1, 21)], [0] * 4 + [1] * 20) == 0.5
    # 30% of the anomalies at 1 to 4 are 1.2, so two of them have to be found: from 3 on, where one of two normals lies
    assert metrics.fpr_at_tpr([0, 3, 1, 2, 3, 4], [0, 0, 1, 1, 1, 1], tpr=0.3) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_they_agree_with_scikit_learn_ties_included(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 400), rng.integers(0, 40, 400).astype(float)
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert metrics.fpr_at_tpr(scores, labels) == pytest.approx(fpr[tpr >= 0.95].min())


def test_separation_is_half_where_nothing_can_be_told():
    assert metrics.separation([1, 2, 3], [1, 2, 3]) == 0.5
    assert metrics.separation([1, 2], [3, 4]) == 1


def test_a_bootstrap_interval_holds_the_figure_and_narrows_with_more_scores():
    def interval(n, level=0.95):
        rng = np.random.default_rng(0)
        scores = np.concatenate([rng.normal(0, 1, n), rng.normal(1, 1, n)])
        labels = np.repeat([0, 1], n)
        low, high = metrics.bootstrap_interval(metrics.auroc, scores, labels, samples=300, level=level, seed=1)
        assert low < metrics.auroc(scores, labels) < high
        return high - low

    # the deviation of an AUROC goes as one over the root of n: four times the scores, half the width
    assert interval(400) == pytest.approx(interval(100) / 2, rel=0.3)
    assert interval(100, level=0.5) < interval(100) / 2
    assert interval(100) == interval(100)


def test_an_interval_is_the_middle_of_the_resamples():
    # of the figures 0 to 100 the middle 90% are those from 5 to 95
    figures = iter(range(101))
    how = {"samples": 101, "level": 0.9, "seed": 0}
    assert metrics.bootstrap_interval(lambda s, y: float(next(figures)), [1, 2], [0, 1], **how) == pytest.approx(
        (5, 95)
    )
    # of each resample the first detector's figure is taken, then the second's: the gains are 0, -1, ..., -100
    figures = iter([*(figure for i in range(101) for figure in (i, 2 * i)), 7, 4])
    found = metrics.compare_scores(lambda s, y: float(next(figures)), [1, 2], [1, 2], [0, 1], **how)
    assert (found.gain, found.low, found.high) == pytest.approx((7 - 4, -95, -5)) and found.level == 0.9


def test_a_metric_of_resamples_gets_floats_and_whole_labels():
    def metric(scores, labels):
        assert scores.dtype == np.float64 and labels.dtype == np.int64
        return 0.0

    how = {"samples": 2, "level": 0.9, "seed": 0}
    metrics.bootstrap_interval(metric, [1, 2], [False, True], **how)
    metrics.compare_scores(metric, [1, 2], [1, 2], [False, True], **how)


def test_resampling_keeps_the_number_of_normals_and_anomalies():
    seen = []

    def metric(scores, labels):
        seen.append((labels == 0).sum())
        assert set(scores[labels == 0]) <= {1.0, 2.0} and set(scores[labels == 1]) <= {3.0, 4.0, 5.0}
        return 0.0

    metrics.bootstrap_interval(metric, [1, 2, 3, 4, 5], [0, 0, 1, 1, 1], samples=20, level=0.9, seed=0)
    assert seen == [2] * 20


@pytest.mark.parametrize(
    ("scores", "labels", "sentence"),
    [
        ([1, 2], [0], "as many scores as labels"),
        ([1, 2, np.nan], [0, 1, 1], "finite scores, got 1 NaN"),
        ([1, np.inf, -np.inf], [0, 1, 1], "finite scores, got 2 NaN or infinite ones"),
        ([1, 2], [0, 2], r"labels 0 \(normal\) and 1 \(anomalous\), got \[2\]"),
        ([1, 2, 3, 4, 5], [6, 5, 4, 3, 0], r"got \[3, 4, 5\]"),
        ([1, 2], [1, 1], "both normals and anomalies, got 0 normals and 2 anomalies"),
        ([], [], "got 0 normals and 0 anomalies"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.fpr_at_tpr])
def test_what_has_no_figure_is_refused(metric, scores, labels, sentence):
    with pytest.raises(KkaError, match=sentence):
        metric(scores, labels)


def test_what_two_detectors_have_in_common_cancels_out() -> None:
    """Both find the same pictures hard: their difference is far surer than either figure."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 100)
    common = rng.normal(size=200) + labels
    other = common + 0.1 * labels  # better by a little on each anomaly
    how = {"samples": 300, "level": 0.95, "seed": 0}
    found = metrics.compare_scores(metrics.auroc, other, common, labels, **how)
    assert found.gain == metrics.auroc(other, labels) - metrics.auroc(common, labels)
    assert 0 < found.low < found.gain < found.high and found.better and found.level == 0.95
    back = metrics.compare_scores(metrics.auroc, common, other, labels, **how)
    assert back.worse and (back.low, back.high) == pytest.approx((-found.high, -found.low))
    alone = metrics.bootstrap_interval(metrics.auroc, common, labels, **how)
    assert found.high - found.low < (alone[1] - alone[0]) / 3
    same = metrics.compare_scores(metrics.auroc, common, common, labels, **how)
    assert (same.gain, same.low, same.high, same.better, same.worse) == (0, 0, 0, False, False)


def test_a_verdict_names_its_level_and_takes_the_whole_interval() -> None:
    assert str(Comparison(0.02, 0.001, 0.04, 0.95)) == "+0.0200 (95% interval +0.0010 to +0.0400): better for sure"
    assert (
        Comparison(0.02, 0.0, 0.04, 0.9).verdict == Comparison(-0.02, -0.04, 0.0, 0.9).verdict == "no better for sure"
    )
    assert Comparison(-0.02, -0.04, -0.001, 0.9).verdict == "worse for sure"


@pytest.mark.parametrize("among", [1, 5])
def test_equals_are_called_better_as_seldom_as_the_level_says(among: int) -> None:
    """Of 4000 studies whose candidates are no better, the best candidate is called so in (1 - level) / 2 at most."""
    rng, calls = np.random.default_rng(0), 0
    for _ in range(4000):
        best = max(rng.normal(size=(among, 6)), key=np.mean)
        calls += metrics.compare_pairs(list(best), level=0.9, among=among).better
    assert 0.7 * 0.05 < calls / 4000 < 1.2 * 0.05


def test_the_interval_of_pairs_is_students() -> None:
    found = metrics.compare_pairs([0.01, 0.02, 0.03], level=0.95)
    reach = 4.302653 * 0.01 / 3**0.5  # t of two degrees of freedom
    assert (found.gain, found.low, found.high) == pytest.approx((0.02, 0.02 - reach, 0.02 + reach))
    wider = metrics.compare_pairs([0.01, 0.02, 0.03], level=0.95, among=2)
    assert wider.high == pytest.approx(0.02 + 6.205347 * 0.01 / 3**0.5)
    # the deviation of two gains is 0.02 / root 2, its error 0.01; t of one degree of freedom
    two = metrics.compare_pairs([0.01, 0.03], level=0.95)
    assert (two.low, two.high) == pytest.approx((0.02 - 12.706205 * 0.01, 0.02 + 12.706205 * 0.01))
    assert found.level == 0.95
    alone = metrics.compare_pairs([0.5], level=0.95)
    assert alone == Comparison(0.5, -np.inf, np.inf, 0.95) and not alone.better
