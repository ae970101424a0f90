"""The confusion evaluator, on numbers small enough to be worked out by hand."""

import numpy as np
import pytest

from kka.confusion import Verdict, check_contrast, grade, hard_proportion, judge, mixture, rated
from kka.errors import Collapse, KkaError
from kka.records import Anomaly, Description, sha256


def anomaly(i: int, score: float, grade: str = "hard", text: str | None = None) -> Anomaly:
    return Anomaly(f"{i:03d}", "r1", i, text or f"text number {i}", score, score, grade, "0" * 64)


class TestGrade:
    def test_hard_lies_inside_the_quantile_of_the_calibration_normals(self):
        calibration = np.arange(1, 101, dtype=float)  # its 0.95-quantile is 95.05
        assert grade(np.array([95.0, 95.1, 3.0, 500.0]), calibration, quantile=0.95, easy_share=1) == [
            "hard",
            "easy",
            "hard",
            "easy",
        ]

    def test_easy_is_the_share_of_the_others_that_scores_highest_and_a_band_is_left_between(self):
        scores = np.array([0.0, 10, 20, 30, 40])  # one hard, of the other four a half is easy
        assert grade(scores, np.array([1.0]), quantile=0.5, easy_share=0.5) == [
            "hard",
            "between",
            "between",
            "easy",
            "easy",
        ]

    def test_all_hard_and_none_hard_are_both_fine(self):
        assert set(grade(np.zeros(4), np.ones(3), quantile=0.9, easy_share=1)) == {"hard"}
        assert set(grade(np.ones(4), np.zeros(3), quantile=0.9, easy_share=1)) == {"easy"}

    def test_a_score_on_the_boundary_is_hard(self):
        assert grade(np.array([1.0, 1.1]), np.array([1.0]), quantile=0.5, easy_share=1) == ["hard", "easy"]

    def test_of_those_that_score_alike_the_first_are_easy(self):
        # of 100 beyond the boundary a quarter is easy: the first 25 of the 50 that score highest
        grades = grade(np.tile([2.0, 3.0], 50), np.array([1.0]), quantile=0.5, easy_share=0.25)
        assert [i for i, g in enumerate(grades) if g == "easy"] == list(range(1, 50, 2))

    def test_without_calibration_normals_there_is_no_boundary(self):
        with pytest.raises(
            KkaError, match="^assess: the boundary wants calibration normals, got none. Give the data set a calibration"
        ):
            grade(np.ones(2), np.zeros(0), quantile=0.9, easy_share=1)


class TestMixture:
    def pool(self, hard: int, easy: int) -> list[Anomaly]:
        return [anomaly(i, i, "hard" if i < hard else "easy") for i in range(hard + easy)]

    @pytest.mark.parametrize(
        ("hard", "easy", "wanted", "sizes"),
        [
            (20, 80, 0.5, (20, 80)),  # hard ones are scarce and stay so
            (80, 20, 0.5, (20, 20)),
            (80, 30, 0.25, (10, 30)),  # 10 of 40 are a quarter
            (30, 70, 0.3, (30, 70)),  # just right
            (50, 50, 0.0, (0, 50)),
            (50, 50, 1.0, (50, 50)),
        ],
    )
    def test_hard_ones_are_thinned_to_their_share_and_nothing_else_is_left_out_or_repeated(
        self, hard, easy, wanted, sizes
    ):
        chosen, reached = mixture(self.pool(hard, easy), wanted, np.random.default_rng(0))
        counts = sum(a.grade == "hard" for a in chosen), sum(a.grade != "hard" for a in chosen)
        assert counts == sizes and reached == pytest.approx(sizes[0] / sum(sizes))
        assert len({a.id for a in chosen}) == len(chosen)

    @pytest.mark.parametrize(("hard", "easy", "reached"), [(10, 0, 1.0), (1, 0, 1.0), (0, 10, 0.0)])
    def test_an_empty_side_is_reported_and_never_filled_up(self, hard, easy, reached):
        chosen, share = mixture(self.pool(hard, easy), 0.5, np.random.default_rng(0))
        assert len(chosen) == hard + easy and share == reached

    @pytest.mark.parametrize("pool", [[], [anomaly(0, 1.0, "between")]])
    def test_nothing_to_train_on_is_a_collapse_with_a_remedy(self, pool):
        with pytest.raises(Collapse, match=f"wanted hard and easy anomalies to train on, got none of {len(pool)}"):
            mixture(pool, 0.5, np.random.default_rng(0))

    def test_those_between_and_hopeless_ones_are_left_out(self):
        grades = ("hard", "between", "easy", "between", "hopeless")
        pool = [anomaly(i, float(i), grade) for i, grade in enumerate(grades)]
        chosen, reached = mixture(pool, 0.5, np.random.default_rng(0))
        assert [a.grade for a in chosen] == ["hard", "easy"] and reached == 0.5

    def test_the_schedule_rises_linearly_and_stays_at_its_end(self):
        wanted = [hard_proportion(k, start=0.2, end=0.8, rounds=4) for k in range(1, 7)]
        assert wanted == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
        assert hard_proportion(1, start=0.3, end=0.6, rounds=1) == 0.3
        assert hard_proportion(2, start=0.2, end=0.8, rounds=2) == pytest.approx(0.8)


class Brightness:
    """A detector whose score is the mean level of a picture."""

    seed = 0

    def score(self, images):
        return images.mean(axis=(1, 2, 3))


def pictures(*levels):
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


class TestJudge:
    def test_scores_grades_and_the_gap_are_those_of_the_detector(self):
        anomalies, calibration, controls = pictures(1, 50, 200), pictures(10, 20, 30, 40), pictures(15, 60)
        verdict = judge(Brightness(), anomalies, calibration, controls, quantile=0.5, easy_share=0.5)
        assert verdict.scores.tolist() == [1, 50, 200]
        assert verdict.grades == ["hard", "between", "easy"]  # the boundary is 25; one of the two beyond it is easy
        assert verdict.gap == (1 + 4) / 8  # 15 lies above one of four normals, 60 above all of them

    def test_without_controls_there_is_no_gap(self):
        verdict = judge(Brightness(), pictures(1, 50), pictures(10), quantile=0.5, easy_share=1)
        assert verdict.gap is None and verdict.figures() == {"hard_rate": 0.5}

    @pytest.mark.parametrize(("anomalies", "calibration"), [(np.nan, 1.0), (1.0, np.inf)])
    def test_a_detector_that_has_diverged_is_named(self, anomalies, calibration):
        class Diverged:
            def score(self, images):
                return np.array([0.0, anomalies if len(images) == 2 else calibration])

        message = r"^assess: wanted finite scores, got NaN or .* Lower its learning rate \(detect.options\)\.$"
        with pytest.raises(Collapse, match=message):
            judge(Diverged(), pictures(1, 2), pictures(1, 2, 3), quantile=0.5, easy_share=1)

    def test_figures_carry_their_suffix(self):
        verdict = Verdict(np.zeros(4), ["hard", "easy", "between", "easy"], 0.75)
        assert verdict.figures("_r0") == {"hard_rate_r0": 0.25, "controls_auroc_r0": 0.75}

    def test_records_tie_texts_pictures_and_both_verdicts_together(self):
        images = pictures(3, 9)
        texts = [Description("00004", "bent", "kept", 0.5, -1.0), Description("00007", "torn", "kept", 0.5, -1.0)]
        now, zero = Verdict(np.array([3.0, 9.0]), ["hard", "easy"]), Verdict(np.array([0.5, 0.25]), ["easy", "easy"])
        assert rated("r2", texts, images, now, zero) == [
            Anomaly("r2-00004", "r2", 0, "bent", 3.0, 0.5, "hard", sha256(images[0])),
            Anomaly("r2-00007", "r2", 1, "torn", 9.0, 0.25, "easy", sha256(images[1])),
        ]

    def test_a_record_holds_the_effect_where_it_was_measured(self):
        texts = [Description(str(i), "bent", "kept", 0.5, -1.0) for i in range(2)]
        zero, effects = Verdict(np.zeros(2), ["easy", "easy"]), np.array([0.5, -2.0])
        now = Verdict(np.zeros(2), ["hard", "hopeless"], effects=effects)
        assert [a.effect for a in rated("r1", texts, pictures(3, 9), now, zero)] == [0.5, -2.0]
        assert [a.effect for a in rated("r1", texts, pictures(3, 9), zero, zero)] == [None, None]

    def test_a_description_without_its_score_is_no_record(self):
        texts = [Description("0", "bent", "kept", 0.5, -1.0)]
        one, two = Verdict(np.zeros(1), ["hard"]), Verdict(np.zeros(2), ["hard", "hard"])
        for verdicts in ((one, two), (two, one), (two, two)):
            with pytest.raises(ValueError, match="zip"):
                rated("r2", texts, pictures(3, 9), *verdicts)

    def test_a_pool_of_hard_ones_only_is_refused(self):
        with pytest.raises(
            Collapse,
            match="wanted hard and easy anomalies, got 2 hard ones of 2: .* takes all of them .*Lower assess.quantile",
        ):
            check_contrast([anomaly(0, 1.0), anomaly(1, 2.0)])
        check_contrast([anomaly(0, 1.0), anomaly(1, 2.0, "between")])

    def test_hopeless_ones_are_no_contrast_to_hard_ones(self):
        with pytest.raises(Collapse, match="got 1 hard ones of 3, and 2 hopeless: the detector takes all of them"):
            check_contrast([anomaly(0, 1.0), anomaly(1, 2.0, "hopeless"), anomaly(2, 2.0, "hopeless")])
        check_contrast([anomaly(0, 1.0, "hopeless"), anomaly(1, 2.0, "easy")])
