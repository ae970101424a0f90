"""Preference pairs and the surrogate that ranks descriptions, on numbers small enough to be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from kka.datasets import blossom
from kka.describing.guard import Guard, Thresholds
from kka.errors import Collapse, KkaError
from kka.preferences import preference_pairs, preferences, surrogate
from kka.records import Anomaly, Description


def anomaly(i: int, score: float, grade: str = "hard", text: str | None = None) -> Anomaly:
    return Anomaly(f"{i:03d}", "r1", i, text or f"text number {i}", score, score, grade, "0" * 64)


CAPTIONS = [
    "a yellow flower with twelve petals",
    "a yellow flower before grey stone",
    "twelve yellow petals make a flower",
]


def guard(calibration=CAPTIONS, likelihoods=(-2.0, -3.0), **options) -> Guard:
    defaults = {"normal_quantile": 0.0, "readable_quantile": 0.0, "readable_margin": 1.0}
    return Guard.fit(CAPTIONS, calibration, np.array(likelihoods), Thresholds(**{**defaults, **options}))


def nothing_alike(texts):
    return np.zeros(len(texts))


class TestSurrogate:
    def test_it_learns_what_words_are_worth_and_rates_texts_that_nobody_has_rendered(self):
        rng = np.random.default_rng(0)
        rows = blossom.flowers(300, None, rng)
        texts, distances = blossom.captions(rows, rng), blossom.distances(rows).astype(float)
        noisy = distances + rng.normal(0, 1, 300)
        rated = [anomaly(i, score, text=t) for i, (score, t) in enumerate(zip(noisy[:150], texts, strict=False))]
        found = surrogate(rated, texts[150:], guard(calibration=texts[:9]).similarity)
        # one noisy verdict agrees with the truth to about 0.65; words in common take most of the noise away
        assert np.corrcoef(found, distances[150:])[0, 1] > 0.8 > np.corrcoef(noisy, distances)[0, 1]

    def test_what_a_word_is_worth_is_shrunk_by_the_penalty(self):
        # Scores 1 and 2, capped at their median 1.5, are deviations of -1 and 1. With words worth -w and w the squared
        # error of 40 texts and the penalty a on two words, 40 (1 - w)^2 + 2 a w^2, are least at w = 40 / (40 + 2 a).
        # Where nothing is left to noise, the smallest penalty is the best: 0.1.
        pairs = [("x red red", 1.0), ("x blue", 2.0)] * 20
        rated = [anomaly(i, score, text=t) for i, (t, score) in enumerate(pairs)]
        found = surrogate(rated, ["red", "blue", "blue blue", "x", "y"], nothing_alike)
        assert found == pytest.approx(np.array([-1, 1, 1, 0, 0]) * 40 / 40.2)  # a word is there or not; letters count
        # Scores by a letter alone, which is a word too.
        rated = [replace(a, text=a.text.replace("x red red", "r").replace("x blue", "b")) for a in rated]
        assert surrogate(rated, ["r", "b"], nothing_alike) == pytest.approx(np.array([-1, 1]) * 40 / 40.2)

    def test_where_all_is_noise_the_largest_penalty_is_taken(self):
        # 11 of 20 red ones score low and 9 of 20 blue ones: -1 and 1 agree with the word in 22 of 40, so their product
        # has the sum 4, and w = 4 / (40 + 2 a) with the largest penalty, 1000
        rated = [
            anomaly(i, 1.0 if k < low else 2.0, text=t)
            for i, (t, low, k) in enumerate((t, low, k) for t, low in (("red", 11), ("blue", 9)) for k in range(20))
        ]
        assert surrogate(rated, ["red", "blue"], nothing_alike) == pytest.approx(np.array([-4, 4]) / 2040)

    def test_the_similarity_weighs_as_two_words(self):
        # In deviations it is -1 and 1, its column -2 and 2. 40 (1 - 2 w)^2 + a w^2 is least at w = 80 / (160 + a),
        # and texts score -2 w and 2 w. The unit of similarities does not count.
        rated = [anomaly(i, score, text="gear") for i, score in enumerate([1.0, 2.0] * 20)]
        for unit in (1.0, 0.1):
            likenesses = iter([unit * np.array([0.2, 0.6] * 20), unit * np.array([0.2, 0.6, 0.4])])
            found = surrogate(rated, ["gear"] * 3, lambda texts, of=likenesses: next(of))
            assert found == pytest.approx(np.array([-1, 1, 0]) * 160 / 160.1)

    def test_each_rounds_scores_count_in_their_own_deviations(self):
        # the second evaluator scores a hundred times higher and the other way round in level, not in what the words are
        # worth
        first = [anomaly(i, score, text=t) for i, (t, score) in enumerate([("red", 1.0), ("blue", 2.0)] * 20)]
        second = [replace(a, round="r2", score=500 + 100 * a.score) for a in first]
        red, blue = surrogate([*first, *second], ["red", "blue"], nothing_alike)
        assert red == pytest.approx(-80 / 80.2) and blue == pytest.approx(80 / 80.2)  # as below, of 80 texts

    def test_how_far_beyond_the_median_a_picture_scores_counts_for_nothing(self):
        rated = [
            anomaly(i, score, text=t)
            for i, (t, score) in enumerate([("red", 1.0), ("red", 1.0), ("blue", 3.0), ("blue", 3.0)] * 9)
        ]
        far = [replace(a, score=a.score * (50 if a.text == "blue" else 1)) for a in rated]
        assert surrogate(far, ["red", "blue"], nothing_alike) == pytest.approx(
            surrogate(rated, ["red", "blue"], nothing_alike)
        )

    def test_what_is_hopeless_counts_as_the_highest_of_its_round_however_low_it_scores(self):
        # Of those that are not hopeless the median is 2, which is the cap: red counts 1, blue 2, and green, the lowest
        # of all, 2 like blue.
        pairs = [("red", 1.0, "hard"), ("blue", 3.0, "easy"), ("green", -50.0, "hopeless")] * 20
        rated = [anomaly(i, score, grade, text=t) for i, (t, score, grade) in enumerate(pairs)]
        red, blue, green = surrogate(rated, ["red", "blue", "green"], nothing_alike)
        assert blue == pytest.approx(green) and red < blue - 2
        mended = [replace(a, score=3.0, grade="easy") if a.text == "green" else a for a in rated]
        level = surrogate(mended, ["red", "blue", "green"], nothing_alike)
        assert level[1] == pytest.approx(level[2]) and level[0] < level[1]

    def test_a_round_that_is_hopeless_as_a_whole_teaches_nothing_and_harms_nothing(self):
        rated = [anomaly(i, s, text=t) for i, (t, s) in enumerate([("red", 1.0), ("blue", 2.0)] * 20)]
        lost = [replace(a, round="r2", grade="hopeless", score=-9.0) for a in rated]
        red, blue = surrogate([*rated, *lost], ["red", "blue"], nothing_alike)
        assert red < blue and np.isfinite([red, blue]).all()

    def test_what_nears_a_text_to_normal_captions_is_learnt_from_the_scores_and_holds_for_words_never_rated(self):
        likeness = {f"w{i}": i / 40 for i in range(40)}
        rated = [anomaly(i, -10 * likeness[t], text=t) for i, t in enumerate(likeness)]
        near, far = surrogate(
            rated, ["new", "other"], lambda texts: np.array([likeness.get(t, float(t == "new")) for t in texts])
        )
        assert near < far - 1

    def test_texts_without_words_are_refused(self):
        with pytest.raises(KkaError, match="the surrogate wants rated descriptions with words"):
            surrogate([anomaly(0, 1.0, text="!"), anomaly(1, 2.0, text="?")], ["x"], nothing_alike)


class TestPairs:
    def pairs(self, n=20, refused=("garbled garbled",), texts=None, **options):
        texts = texts or [f"text number {i}" for i in range(n)]
        defaults = {
            "chosen_share": 0.2,
            "rejected_share": 0.5,
            "refused_share": 0.3,
            "count": 200,
            "validation_share": 0.2,
        }
        return preference_pairs(
            texts, np.arange(len(texts), dtype=float), refused, **{**defaults, **options}, rng=np.random.default_rng(0)
        )

    @pytest.mark.parametrize(("share", "least"), [(0.5, 10), (0.25, 15), (0.8, 4)])
    def test_chosen_score_low_and_rejected_score_high(self, share, least):
        pairs = self.pairs(refused=(), rejected_share=share)
        assert {int(p.chosen.split()[-1]) for p in pairs} == {0, 1, 2, 3}
        assert min(int(p.rejected.split()[-1]) for p in pairs) >= least

    def test_of_those_that_score_alike_the_first_are_chosen(self):
        texts = [f"text number {i}" for i in range(100)]
        shares = {"chosen_share": 0.1, "rejected_share": 0.1, "refused_share": 0.0, "validation_share": 0.0}
        rng = np.random.default_rng(0)
        pairs = preference_pairs(texts, np.tile([1.0, 0.0], 50), (), count=300, rng=rng, **shares)
        assert {p.chosen for p in pairs} == {f"text number {i}" for i in range(1, 20, 2)}
        assert {p.rejected for p in pairs} <= {f"text number {i}" for i in range(80, 100, 2)}

    @pytest.mark.parametrize("shares", [(0.0, 0.5), (0.5, 0.0), (0.6, 0.6)])
    def test_shares_that_leave_a_side_empty_or_overlap_are_refused(self, shares):
        with pytest.raises(Collapse, match=f"got 20 graded ones for shares {shares[0]} and {shares[1]}"):
            self.pairs(chosen_share=shares[0], rejected_share=shares[1])

    @pytest.mark.parametrize(("chosen", "rejected"), [(0.2, 0.5), (0.5, 0.2)])
    def test_too_few_texts_to_hold_any_back_make_no_validation_pairs(self, chosen, rejected):
        # of 10 texts a fifth is 2, of which a fifth is none; a half is 5, of which a fifth is one
        pairs = self.pairs(n=10, refused=(), chosen_share=chosen, rejected_share=rejected)
        assert len(pairs) == 160 and {p.part for p in pairs} == {"train"}

    def test_no_text_is_both_chosen_and_rejected(self):
        pairs = self.pairs(refused=["text number 0", "bad"])
        assert not {p.chosen for p in pairs} & {p.rejected for p in pairs}

    def test_a_text_that_stands_twice_counts_once(self):
        pairs = self.pairs(texts=["twice", "twice", *(f"text number {i}" for i in range(18))], validation_share=0.0)
        assert {p.chosen for p in pairs} == {"twice", "text number 0", "text number 1", "text number 2"}

    def test_hopeless_texts_are_rejected_beside_those_that_score_highest(self):
        # no two texts have a word in common, so all partners are equally good
        texts, lost = [f"w{i}" for i in range(20)], [f"lost{i}" for i in range(30)]  # more than there are others
        pairs = self.pairs(texts=texts, refused=[lost[0]], hopeless=lost, count=1000, validation_share=0.0)
        assert {p.chosen for p in pairs} == {"w0", "w1", "w2", "w3"}
        assert {p.rejected for p in pairs} == {*texts[10:], *lost}
        # as often as the others, one of 40, though the guard refused it as well
        assert np.mean([p.rejected == lost[0] for p in pairs]) < 0.06

    def test_too_few_beside_hopeless_ones_are_counted_apart(self):
        with pytest.raises(Collapse, match=r"got 2 graded ones for shares 0.2 and 0.5, and 3 hopeless ones\. Ask"):
            self.pairs(n=2, hopeless=["a", "b", "c"])

    def test_training_and_validation_share_no_text(self):
        pairs = self.pairs(n=60)
        sides = {
            part: {t for p in pairs if p.part == part for t in (p.chosen, p.rejected)}
            for part in ("train", "validation")
        }
        assert [p.part for p in pairs] == ["train"] * 160 + ["validation"] * 40
        assert sides["validation"] and not (sides["train"] & sides["validation"]) - {"garbled garbled"}

    def test_refused_texts_make_up_their_share_of_the_rejected(self):
        refused = [f"refused {i}" for i in range(30)]
        pairs = self.pairs(refused=refused, count=1000)
        assert 0.25 < np.mean([p.rejected in refused for p in pairs]) < 0.35

    def test_a_few_refused_texts_do_not_crowd_out_the_easy_ones(self):
        pairs = self.pairs(
            n=40, refused=["bad"], count=1000, validation_share=0.0
        )  # 1 of 21 texts on the rejected side
        assert np.mean([p.rejected == "bad" for p in pairs]) == pytest.approx(1 / 21, abs=0.02)

    def test_partners_share_as_many_words_as_can_be(self):
        texts = [
            f"{word} {manner} {i}" for i, (word, manner) in enumerate([("near", "loud song"), ("near", "low tune")] * 5)
        ]
        texts += [f"far {manner} {i}" for i, manner in enumerate(["loud song", "low tune"] * 20)]
        pairs = self.pairs(texts=texts, refused=(), validation_share=0.0, count=300)
        assert np.mean([p.chosen.split()[1] == p.rejected.split()[1] for p in pairs]) > 0.95

    def test_partners_are_alike_in_length(self):
        rng = np.random.default_rng(0)
        texts = [" ".join(["w"] * int(rng.integers(3, 30))) + f" {i}" for i in range(200)]
        pairs = self.pairs(texts=texts, chosen_share=0.3, refused_share=0.0, count=500, validation_share=0.0)
        gaps = [len(p.chosen.split()) - len(p.rejected.split()) for p in pairs]
        assert np.mean(np.abs(gaps)) < 4  # partners drawn blindly would differ by a third of the range, 9 words
        assert abs(np.mean(gaps)) < 1.5

    def test_too_few_descriptions_are_refused_in_one_sentence(self):
        with pytest.raises(KkaError, match=r"preference pairs want .* got 2 graded ones"):
            self.pairs(n=2)


class TestPreferences:
    shares = {"chosen_share": 0.5, "rejected_share": 0.5, "refused_share": 0.0, "validation_share": 0.0}

    def attempts(self, *pairs):
        return [Description(str(i), text, outcome, 0.0, 0.0) for i, (text, outcome) in enumerate(pairs)]

    def pairs(self, pool, candidates=(), descriptions=(), **options):
        rng = np.random.default_rng(0)
        how = self.shares | {"count": 8, "rng": rng} | options
        return preferences(pool, "r2", descriptions, candidates, nothing_alike, **how)

    def test_without_candidates_the_rounds_own_anomalies_are_ranked_by_their_scores(self):
        pool = [replace(anomaly(0, -9.0, text="of another round"), round="r1")]
        pool += [replace(anomaly(i, i, text=f"text {i}"), round="r2") for i in range(4)]
        made = self.pairs(pool)
        assert {p.chosen for p in made} == {"text 0", "text 1"} and {p.rejected for p in made} == {"text 2", "text 3"}

    def test_without_candidates_what_words_are_worth_counts_for_nothing(self):
        scores = {"red wheel": 0.0, "blue wheel": 1.0, "red gear": 8.0, "blue gear": 9.0}
        pool = [replace(anomaly(i, score, text=t), round="r2") for i, (t, score) in enumerate(scores.items())]
        pool += [anomaly(i, 100.0 * (i % 2), text=("gear", "wheel")[i % 2]) for i in range(40)]  # gears are hard
        assert {p.chosen for p in self.pairs(pool)} == {"red wheel", "blue wheel"}
        made = self.pairs(pool, self.attempts(("gear", "kept"), ("wheel", "kept")))
        assert {p.chosen for p in made} == {"red gear", "blue gear", "gear"}

    def test_candidates_are_ranked_beside_them_by_the_surrogate(self):
        texts = [f"a {colour} gear" for colour in ("red", "red", "blue", "blue")]
        pool = [replace(anomaly(i, [0, 0, 9, 9][i], text=t), round="r2") for i, t in enumerate(texts)]
        made = self.pairs(pool, self.attempts(("a red wheel", "kept"), ("a blue wheel", "kept"), ("a wheel", "normal")))
        assert "a red wheel" in {p.chosen for p in made} and "a blue wheel" in {p.rejected for p in made}

    def test_what_the_guard_refused_of_both_is_rejected(self):
        pool = [replace(anomaly(i, i, text=f"text {i}"), round="r2") for i in range(4)]
        refused = self.attempts(("garbled", "unreadable"), ("text 0", "duplicate"))
        made = self.pairs(pool, self.attempts(("normal one", "normal")), refused, refused_share=0.5, count=40)
        assert {"garbled", "normal one"} <= {p.rejected for p in made}
        assert "text 0" not in {p.rejected for p in made}

    @pytest.mark.parametrize("candidates", [False, True])
    def test_a_hopeless_one_is_never_chosen_however_low_it_scores_and_rejected(self, candidates):
        pool = [replace(anomaly(i, i, text=f"w{i}"), round="r2") for i in range(4)]
        pool += [replace(anomaly(9 + i, -9.0, "hopeless", text=f"lost{i}"), round="r2") for i in range(6)]
        pool += [anomaly(20, -9.0, "hopeless", text="before")]
        # two of the candidates are known to be hopeless
        fresh = self.attempts(("new", "kept"), ("lost0", "kept"), ("before", "kept")) if candidates else ()
        made = self.pairs(pool, fresh, count=200)
        assert {p.chosen for p in made} <= {"new", *(f"w{i}" for i in range(4))}
        assert {f"lost{i}" for i in range(6)} < {p.rejected for p in made}
        assert not any("before" in (p.chosen, p.rejected) for p in made)
