"""Hopeless anomalies, on pictures whose levels are worked out by hand and a detector that is read at a glance."""

from typing import Any

import numpy as np
import pytest

from kka import detectors
from kka.confusion import Verdict
from kka.errors import Collapse, KkaError
from kka.hopeless import Taught, contrasts, judge_by_siblings, with_hopeless
from kka.records import Changes, Images

NORMALS = 100  # the level of normal pictures
FITS: list["Levels"] = []


class Levels:
    """Knows a level (0 to 255) as anomalous when a picture of that level was among its anomalies: it scores 10 there,
    and elsewhere the hundredth part of the level."""

    def __init__(self, seed: int, **options: Any) -> None:
        self.seed, self.options = seed, options

    def fit(self, normals: Images, anomalies: Images, *, generated_normals: Any, log: Any, changes: Any = None) -> Any:
        self.given = {"normals": normals, "generated": generated_normals, "changes": changes}
        self.taught = anomalies[:, 0, 0, 0].tolist()
        FITS.append(self)
        return self

    def score(self, images: Images) -> Any:
        levels = images[:, 0, 0, 0]
        return np.where(np.isin(levels, self.taught), 10.0, levels / 100)


@pytest.fixture(autouse=True)
def levels(monkeypatch: pytest.MonkeyPatch) -> None:
    FITS.clear()
    monkeypatch.setattr(detectors, "create", lambda name, seed, **options: Levels(seed, **options))


def pictures(*levels: int) -> Images:
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def judged(anomalies: Images, **options: Any) -> Taught:
    calibration = pictures(90, 100, 110)  # scores 0.9, 1.0, 1.1; of the deviation sqrt(0.02 / 3)
    how = {"quantile": 0.5} | options
    return judge_by_siblings("levels", 7, {"a": 1}, pictures(NORMALS), anomalies, calibration, **how)


class TestJudgeBySiblings:
    def test_what_siblings_teach_is_found_and_what_nobody_else_shows_is_hidden(self):
        # of 200 pictures of level 50 both halves hold some; 40 stands alone, and no detector that judges it has seen it
        taught = judged(pictures(*[50] * 200, 40))
        assert taught.hidden().tolist() == [False] * 200 + [True] and taught.effects is None

    def test_margins_are_in_deviations_of_the_calibration_scores(self):
        taught, deviation = judged(pictures(*[50] * 40, 40), quantile=0.5), np.sqrt(0.02 / 3)
        assert taught.margins == pytest.approx([9.0 / deviation] * 40 + [-0.6 / deviation])  # the boundary is 1.0
        strict = judged(pictures(*[50] * 40, 105), quantile=1.0)
        assert strict.margins[-1] == pytest.approx((1.05 - 1.1) / deviation) and strict.hidden()[-1]
        assert not judged(pictures(*[50] * 40, 105), quantile=0.5).hidden()[-1]

    def test_a_score_on_the_boundary_is_hidden(self):
        assert judged(pictures(*[50] * 9, 100)).hidden()[-1]

    def test_each_half_is_judged_by_a_detector_that_learnt_the_other_half_alone(self):
        judged(pictures(*range(20)), generated_normals=pictures(99))
        first, second = (sorted(fit.taught) for fit in FITS)
        assert sorted([*first, *second]) == list(range(20)) and len(first) == len(second) == 10
        assert first != list(range(10))  # drawn, for what stands side by side may be alike
        assert FITS[0].seed != FITS[1].seed and all(fit.options == {"a": 1} for fit in FITS)
        for fit in FITS:
            assert fit.given["normals"].max() == NORMALS and fit.given["generated"].max() == 99

    def test_the_same_seed_draws_the_same_halves(self):
        judged(pictures(*range(20))), judged(pictures(*range(20)))
        assert [fit.taught for fit in FITS[:2]] == [fit.taught for fit in FITS[2:]]
        assert [fit.seed for fit in FITS[:2]] == [fit.seed for fit in FITS[2:]]

    def test_the_effect_is_what_the_change_adds_to_the_score_of_its_source(self):
        masks = np.zeros((41, 16, 16), bool)
        changes = Changes(pictures(*[90] * 40, 60), masks)
        taught, deviation = judged(pictures(*[50] * 40, 80), changes=changes), np.sqrt(0.02 / 3)
        assert taught.effects == pytest.approx([(10 - 0.9) / deviation] * 40 + [0.2 / deviation])
        # by the boundary the last is hidden, and by its source it is not
        assert taught.hidden()[-1] and not taught.hidden(0.0)[-1] and taught.hidden(0.2 / deviation + 1e-9)[-1]
        for fit in FITS:
            assert len(fit.given["changes"]) == len(fit.taught)
            lone = [level == 60 for level in fit.given["changes"].sources[:, 0, 0, 0]]
            assert lone == [level == 80 for level in fit.taught]  # row by row

    def test_what_is_without_effect_teaches_nothing_and_is_judged(self):
        without = np.array([False] * 40 + [True] * 40)
        taught = judged(pictures(*[50] * 40, *[60] * 40), without_effect=without)
        assert all(set(fit.taught) == {50} for fit in FITS)
        assert taught.hidden().tolist() == without.tolist()

    @pytest.mark.parametrize(("anomalies", "without"), [((50,), [False]), ((50, 50, 50), [True, True, False])])
    def test_a_half_that_teaches_nothing_is_a_collapse_with_a_remedy(self, anomalies, without):
        with pytest.raises(Collapse, match=rf"^assess: .* got 1 of {len(without)} that teach .* Raise describe.count"):
            judged(pictures(*anomalies), without_effect=np.array(without))

    def test_a_detector_that_has_diverged_is_named(self, monkeypatch):
        monkeypatch.setattr(Levels, "score", lambda self, images: np.full(len(images), np.nan))
        with pytest.raises(Collapse, match="wanted finite scores, got NaN"):
            judged(pictures(50, 50))

    def test_by_source_without_sources_is_one_sentence(self):
        with pytest.raises(KkaError, match=r"^assess.hopeless_by source compares .* Set it to boundary.$"):
            Taught(np.zeros(2)).hidden(0.0)


class TestContrasts:
    def changed(self, by: int, grain: int = 0, mask: tuple[slice, slice] = (slice(12, 20), slice(12, 20))) -> Any:
        """A picture of level 100 with a chessboard of +- `grain`, changed by `by` in a square of 8."""
        board = np.where(np.indices((32, 32)).sum(axis=0) % 2, grain, -grain)
        source = np.repeat((100 + board)[None, ..., None], 3, axis=3)
        masks = np.zeros((1, 32, 32), bool)
        masks[0][mask] = True
        anomaly = np.where(masks[..., None], source + by, source).astype(np.uint8)
        return contrasts(anomaly, Changes(source.astype(np.uint8), masks))

    @pytest.mark.parametrize(("by", "grain", "wanted"), [(6, 2, 3.0), (-6, 2, 3.0), (6, 12, 0.5), (0, 12, 0.0)])
    def test_a_change_is_measured_by_the_grain_around_it(self, by, grain, wanted):
        # half of the chessboard's squares lie one grain above its mean and half below: that is its deviation
        assert self.changed(by, grain) == pytest.approx([wanted], rel=0.01)

    def test_a_flat_picture_is_measured_in_grey_levels(self):
        assert self.changed(5, 0) == pytest.approx([5.0])

    def test_an_empty_mask_is_no_change(self):
        assert self.changed(0, 2, mask=(slice(0), slice(0))).tolist() == [0.0]

    def test_what_lies_far_off_does_not_count(self):
        source = np.full((1, 64, 64, 3), 100, np.uint8)
        source[:, :, 40:] = 250  # another part of the picture
        masks = np.zeros((1, 64, 64), bool)
        masks[:, 20:28, 8:16] = True
        anomaly = np.where(masks[..., None], 104, source).astype(np.uint8)
        assert contrasts(anomaly, Changes(source, masks)) == pytest.approx([4.0])

    def test_whole_pictures_may_be_changed(self):
        source = np.zeros((1, 16, 16, 3), np.uint8)
        source[:, 8:] = 20  # of the deviation 10
        assert contrasts(source + np.uint8(15), Changes(source, np.ones((1, 16, 16), bool))) == pytest.approx([1.5])


class TestWithHopeless:
    def test_hidden_ones_are_hopeless_where_they_are_hard_and_those_without_effect_always(self):
        verdict = Verdict(np.arange(5.0), ["hard", "hard", "between", "easy", "easy"], 0.5)
        hidden, without = np.array([1, 0, 1, 1, 0], bool), np.array([0, 0, 0, 0, 1], bool)
        found = with_hopeless(verdict, hidden, without)
        assert found.grades == ["hopeless", "hard", "between", "easy", "hopeless"]
        assert found.gap == 0.5 and verdict.grades[0] == "hard"

    def test_where_nothing_is_hidden_all_stays_as_it_was(self):
        verdict, none = Verdict(np.zeros(2), ["hard", "easy"]), np.zeros(2, bool)
        assert with_hopeless(verdict, none, none).grades == verdict.grades
