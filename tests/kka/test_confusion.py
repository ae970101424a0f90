"""The confusion evaluator, on numbers small enough to be worked out by hand."""

import numpy as np
import pytest

from kka.confusion import Guard, grade, hard_proportion, mixture, preference_pairs
from kka.errors import KkaError
from kka.records import Anomaly


def anomaly(i: int, score: float, grade: str = "hard", text: str | None = None) -> Anomaly:
    return Anomaly(f"{i:03d}", "r1", i, text or f"text number {i}", score, score, grade, "0" * 64)


CAPTIONS = ["a yellow flower with twelve petals", "a yellow flower before grey stone", "twelve yellow petals make a flower"]


def guard(calibration=CAPTIONS, likelihoods=(-2.0, -3.0), **options) -> Guard:
    defaults = {"normal_quantile": 0.0, "readable_quantile": 0.0, "readable_margin": 1.0}
    return Guard.fit(CAPTIONS, calibration, np.array(likelihoods), **{**defaults, **options})


class TestGrade:
    def test_hard_lies_inside_the_quantile_of_the_calibration_normals(self):
        calibration = np.arange(1, 101, dtype=float)  # its 0.95-quantile is 95.05
        assert grade(np.array([95.0, 95.1, 3.0, 500.0]), calibration, quantile=0.95, easy_share=1) == ["hard", "easy", "hard", "easy"]

    def test_easy_is_the_share_of_the_others_that_scores_highest_and_a_band_is_left_between(self):
        scores = np.array([0.0, 10, 20, 30, 40])  # one hard, of the other four a half is easy
        assert grade(scores, np.array([1.0]), quantile=0.5, easy_share=0.5) == ["hard", "between", "between", "easy", "easy"]

    def test_all_hard_and_none_hard_are_both_fine(self):
        assert set(grade(np.zeros(4), np.ones(3), quantile=0.9, easy_share=1)) == {"hard"}
        assert set(grade(np.ones(4), np.zeros(3), quantile=0.9, easy_share=1)) == {"easy"}

    def test_without_calibration_normals_there_is_no_boundary(self):
        with pytest.raises(KkaError, match="wants calibration normals, got none"):
            grade(np.ones(2), np.zeros(0), quantile=0.9, easy_share=1)


class TestMixture:
    def pool(self, hard: int, easy: int) -> list[Anomaly]:
        return [anomaly(i, i, "hard" if i < hard else "easy") for i in range(hard + easy)]

    @pytest.mark.parametrize(
        ("hard", "easy", "wanted", "sizes"),
        [
            (20, 80, 0.5, (20, 20)),  # hard ones are scarce: 20 / 0.5 = 40 in all
            (80, 20, 0.5, (20, 20)),  # easy ones are scarce: 20 / 0.5 = 40 in all
            (30, 70, 0.3, (30, 70)),  # just right: nothing is left out
            (50, 50, 0.0, (0, 50)),
            (50, 50, 1.0, (50, 0)),
        ],
    )
    def test_the_scarcer_side_decides_and_the_proportion_is_met(self, hard, easy, wanted, sizes):
        chosen, reached = mixture(self.pool(hard, easy), wanted, np.random.default_rng(0))
        counts = sum(a.grade == "hard" for a in chosen), sum(a.grade != "hard" for a in chosen)
        assert counts == sizes and reached == pytest.approx(sizes[0] / sum(sizes))
        assert len({a.id for a in chosen}) == len(chosen)

    @pytest.mark.parametrize(("hard", "easy", "reached"), [(10, 0, 1.0), (0, 10, 0.0), (0, 0, 0.0)])
    def test_an_empty_side_is_reported_and_never_filled_up(self, hard, easy, reached):
        chosen, share = mixture(self.pool(hard, easy), 0.5, np.random.default_rng(0))
        assert len(chosen) == hard + easy and share == reached

    def test_the_schedule_rises_linearly_and_stays_at_its_end(self):
        wanted = [hard_proportion(k, start=0.2, end=0.8, rounds=4) for k in range(1, 7)]
        assert wanted == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
        assert hard_proportion(1, start=0.3, end=0.6, rounds=1) == 0.3


class TestPairs:
    def pairs(self, n=20, earlier=(), refused=("garbled garbled",), **options):
        new = [anomaly(i, score=i) for i in range(n)]
        defaults = {"chosen_share": 0.2, "rejected_share": 0.5, "refused_share": 0.3, "count": 200, "validation_share": 0.2}
        return preference_pairs(new, earlier, refused, **{**defaults, **options}, rng=np.random.default_rng(0))

    def test_chosen_score_low_and_rejected_score_high(self):
        for pair in self.pairs(refused=()):
            assert int(pair.chosen.split()[-1]) < 4 and int(pair.rejected.split()[-1]) >= 10

    def test_no_text_is_both_chosen_and_rejected(self):
        pairs = self.pairs(earlier=["text number 19", "an old hard one"], refused=["text number 0", "bad"])
        assert not {p.chosen for p in pairs} & {p.rejected for p in pairs}
        assert "an old hard one" in {p.chosen for p in pairs}

    def test_training_and_validation_share_no_text(self):
        pairs = self.pairs(n=60)
        sides = {part: {t for p in pairs if p.part == part for t in (p.chosen, p.rejected)} for part in ("train", "validation")}
        assert len(pairs) == 200 and sum(p.part == "validation" for p in pairs) == 40
        assert sides["validation"] and not (sides["train"] & sides["validation"]) - {"garbled garbled"}

    def test_refused_texts_make_up_their_share_of_the_rejected(self):
        refused = [f"refused {i}" for i in range(30)]
        pairs = self.pairs(refused=refused, count=1000)
        assert 0.25 < np.mean([p.rejected in refused for p in pairs]) < 0.35

    def test_partners_are_alike_in_length(self):
        rng = np.random.default_rng(0)
        new = [anomaly(i, i, text=" ".join(["w"] * int(rng.integers(3, 30))) + f" {i}") for i in range(200)]
        options = {"chosen_share": 0.3, "rejected_share": 0.5, "refused_share": 0.0, "count": 500, "validation_share": 0.0}
        pairs = preference_pairs(new, [], [], **options, rng=rng)
        gap = np.mean([abs(len(p.chosen.split()) - len(p.rejected.split())) for p in pairs])
        assert gap < 4  # partners drawn blindly would differ by a third of the range, 9 words
        assert abs(np.mean([len(p.chosen.split()) - len(p.rejected.split()) for p in pairs])) < 1.5

    def test_too_few_descriptions_are_refused_in_one_sentence(self):
        with pytest.raises(KkaError, match=r"preference pairs want .* got 2 graded ones"):
            self.pairs(n=2)


class TestGuard:
    def test_a_normal_caption_is_as_similar_as_can_be_and_a_new_word_takes_from_it(self):
        same, changed, foreign, empty = guard().similarity([CAPTIONS[0], "a purple flower with twelve petals", "rust on steel", ""])
        assert same == pytest.approx(1) and 0.2 < changed < 0.8 and foreign == empty == 0

    def test_the_threshold_catches_all_but_the_quantile_of_real_normal_captions(self):
        fitted = guard(calibration=[CAPTIONS[0]] * 19 + ["a bent flower"], normal_quantile=0.1)
        assert (fitted.similarity([CAPTIONS[0]]) >= fitted.least_similarity).all()
        assert fitted.similarity(["a bent flower"])[0] < fitted.least_similarity

    def test_the_readable_threshold_lies_a_margin_below_the_quantile(self):
        assert guard(likelihoods=[-2.0, -3.0, -4.0], readable_quantile=0.5, readable_margin=2.5).least_likelihood == pytest.approx(-5.5)

    def test_no_captions_at_all_is_a_mistake_with_a_remedy(self):
        with pytest.raises(KkaError, match="wants captions of normal images, got none"):
            Guard.fit([], [], np.zeros(0), normal_quantile=0, readable_quantile=0, readable_margin=0)
