"""The guard, on captions small enough to be looked through."""

import numpy as np
import pytest

from kka.describing.guard import Guard, Thresholds
from kka.errors import KkaError

CAPTIONS = [
    "a yellow flower with twelve petals",
    "a yellow flower before grey stone",
    "twelve yellow petals make a flower",
]


def guard(calibration=CAPTIONS, likelihoods=(-2.0, -3.0), **options) -> Guard:
    defaults = {"normal_quantile": 0.0, "readable_quantile": 0.0, "readable_margin": 1.0}
    return Guard.fit(CAPTIONS, calibration, np.array(likelihoods), Thresholds(**{**defaults, **options}))


class TestGuard:
    def test_a_normal_caption_is_as_similar_as_can_be_and_a_new_word_takes_from_it(self):
        same, changed, foreign, empty = guard().similarity(
            [CAPTIONS[0], "a purple flower with twelve petals", "rust on steel", ""]
        )
        assert same == pytest.approx(1) and 0.2 < changed < 0.8 and foreign == empty == 0

    def test_the_threshold_catches_all_but_the_quantile_of_real_normal_captions(self):
        fitted = guard(calibration=[CAPTIONS[0]] * 19 + ["a bent flower"], normal_quantile=0.1)
        assert (fitted.similarity([CAPTIONS[0]]) >= fitted.least_similarity).all()
        assert fitted.similarity(["a bent flower"])[0] < fitted.least_similarity

    def test_the_readable_threshold_lies_a_margin_below_the_quantile(self):
        assert guard(
            likelihoods=[-2.0, -3.0, -4.0], readable_quantile=0.5, readable_margin=2.5
        ).least_likelihood == pytest.approx(-5.5)

    def test_no_captions_at_all_is_a_mistake_with_a_remedy(self):
        with pytest.raises(KkaError, match="wants captions of normal images, got none"):
            Guard.fit([], [], np.zeros(0), Thresholds())
