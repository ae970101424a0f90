"""The drawn flowers: what their splits hold, that captions say what is drawn, and that a seed fixes every byte."""

import time

import numpy as np
import pytest

from kka.datasets import blossom


@pytest.fixture(scope="module")
def splits():
    return blossom.load(seed=3)


def test_the_splits_have_the_promised_sizes_and_kinds(splits):
    assert [len(s) for s in (splits.train, splits.calibration, splits.validation, splits.test)] == [400, 150, 200, 900]
    assert splits.train.labels.sum() == splits.calibration.labels.sum() == 0
    assert splits.validation.labels.sum() == 100 and splits.test.labels.sum() == 600
    groups = {g: splits.test.groups.count(g) for g in set(splits.test.groups)}
    assert groups == {"normal": 300, "distance 1": 300, "distance 2": 100, "distance 3": 100, "distance 4": 100}


def test_a_group_is_the_number_of_defining_attributes_that_differ(splits):
    for caption, group in zip(splits.test.captions, splits.test.groups, strict=True):
        row = blossom.parse(caption)
        differing = sum(a != b for a, b in zip(row[:4], (0, 0, 2, 0), strict=True))
        assert group == (f"distance {differing}" if differing else "normal")


def test_every_template_is_read_back_to_the_attributes_it_states():
    rng = np.random.default_rng(0)
    rows = blossom.flowers(2000, None, rng)
    texts = blossom.captions(rows, rng)
    assert len(blossom.TEMPLATES) >= 6
    assert [blossom.parse(t) for t in texts] == [tuple(r) for r in rows.tolist()]
    assert blossom.parse("a large yellow flower with petals petals") is None
    assert blossom.text_distances([texts[0], "no flower"])[1] is None


@pytest.mark.parametrize("distance", range(5))
def test_flowers_stand_at_the_asked_distance(distance):
    rows = blossom.flowers(300, distance, np.random.default_rng(1))
    assert (blossom.distances(rows) == distance).all()
    if 0 < distance < 4:  # which attributes differ is left to chance, not to their order
        assert ((rows[:, :4] != np.array(blossom.NORMAL)).mean(0) > 0.5 * distance / 4).all()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(splits):
    again, other = blossom.load(seed=3), blossom.load(seed=4)
    assert again.test.images.tobytes() == splits.test.images.tobytes() and again.test.captions == splits.test.captions
    assert other.test.images.tobytes() != splits.test.images.tobytes()


def test_no_picture_stands_in_two_splits(splits):
    pictures = [
        image.tobytes()
        for s in (splits.train, splits.calibration, splits.validation, splits.test)
        for image in s.images
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_pictures_come_in_the_asked_size_and_differ_although_their_attributes_do_not(size):
    pictures = blossom.draw(np.repeat(np.array([[0, 0, 2, 0, 1, 0]]), 20, axis=0), np.random.default_rng(0), size)
    assert pictures.shape == (20, size, size, 3) and pictures.dtype == np.uint8
    assert len({p.tobytes() for p in pictures}) == 20


def test_colours_are_what_their_names_say():
    row = np.array([[2, 1, 0, 0, 1, 0]])  # red, round, five, large
    red, green, blue = blossom.draw(row, np.random.default_rng(0))[0, 16, 4:28].max(0)
    assert red > 150 and red > 1.5 * blue


def test_a_tenth_of_the_species_is_withheld_and_the_normal_one_is_not():
    rows = blossom.flowers(20_000, None, np.random.default_rng(0))
    assert 0.07 < blossom.withheld(rows).mean() < 0.13
    assert not blossom.withheld(np.array([[*blossom.NORMAL, 0, 0]]))[0]


def test_drawing_is_fast_enough_to_be_no_matter():
    rows = blossom.flowers(512, None, np.random.default_rng(0))
    began = time.perf_counter()
    blossom.draw(rows, np.random.default_rng(0))
    assert time.perf_counter() - began < 512 / 300 * 5  # 300 a second with room for a busy machine
