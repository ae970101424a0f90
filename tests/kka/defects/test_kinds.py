"""Each family looks like its words: where it lies, which way it goes, how it changes the picture."""

import numpy as np
import pytest
from scipy import ndimage

from kka.defects.kinds import PAINTERS, draw
from kka.defects.language import Defect
from kka.defects.objects import Floats, Foreground, foreground
from kka.defects.regions import MANNERS, region
from kka.defects.spots import LEAST
from kka.defects.vocabulary import FAMILIES, PLACES

SIDE = 160
Y, X = np.mgrid[:SIDE, :SIDE]
DISC = np.hypot(Y - 80, X - 80) < 60
GRAIN = np.random.default_rng(0).normal(0, 2, (SIDE, SIDE, 1))
SEEDS = range(6)


def defect(family: str, **values: object) -> Defect:
    usual = {
        "count": 1,
        "size": 0.2,
        "contrast": 4.0,
        "colour": None,
        "tone": 0,
        "direction": None,
        "elongation": 1.5,
        "place": "any",
        "sharpness": 1.0,
    }
    return Defect(kind=family, **(usual | values))  # type: ignore[arg-type]


def plate(level: float = 128, grain: float = 1.0) -> Floats:
    """A grey surface that fills the picture."""
    return np.broadcast_to(level + grain * GRAIN, (SIDE, SIDE, 3)).astype(np.float32)


def part() -> np.ndarray:
    """A round part, brown on a light ground."""
    colours = np.where(DISC[..., None], np.array([150, 110, 80]), np.array([225, 230, 235])) + GRAIN
    return colours.clip(0, 255).astype(np.uint8)


WHOLE = Foreground(np.ones((SIDE, SIDE), bool), np.ones((SIDE, SIDE), bool), True)


def change(wanted: Defect, seed: int = 0, picture: Floats | None = None, where: Foreground = WHOLE) -> Floats:
    """What drawing the defect adds to a picture (h, w, 3)."""
    before = plate() if picture is None else picture
    return draw(before, wanted, where, np.random.default_rng(seed)) - before


def touched(wanted: Defect, seed: int = 0, where: Foreground = WHOLE) -> np.ndarray:
    return np.abs(change(wanted, seed, where=where)).max(axis=-1) >= 2


def test_every_family_of_the_language_has_a_manner_and_a_painter() -> None:
    assert set(FAMILIES) == set(MANNERS) == set(PAINTERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_defect_is_local_visible_and_the_same_each_time(family: str) -> None:
    for seed in SEEDS:
        one, other = (change(defect(family, place="centre" if family != "chip" else "any"), seed) for _ in range(2))
        assert np.array_equal(one, other)
        share = (np.abs(one).max(axis=-1) >= 2).mean()
        assert 0.0005 < share < 0.12, f"seed {seed} changes {share:.2%} of the picture"
    assert not np.array_equal(change(defect(family), 0), change(defect(family), 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_more_contrast_changes_more(family: str) -> None:
    """By seed, so that places and outlines are the same."""
    if family in ("misprint", "chip", "missing"):
        faint, strong = 0.75, 6.0  # above a clear contrast these hardly change: something else is seen there
    else:
        faint, strong = 1.5, 3.0
    by_contrast = [
        np.mean([np.abs(change(defect(family, contrast=c), seed)).mean() for seed in SEEDS]) for c in (faint, strong)
    ]
    assert by_contrast[1] > 1.3 * by_contrast[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_on_size_place_and_direction_leave_no_pixel_outside_the_object(family: str) -> None:
    picture = part()
    found = foreground(picture)
    corner = Foreground(found.mask, found.mask & (X < 80), False)
    for place in PLACES:
        for where in (found, corner):
            wanted = defect(family, place=place, contrast=8.0, count=2)
            drawn = np.abs(change(wanted, 3, picture.astype(np.float32), where)).max(axis=-1) >= 2
            assert drawn.any()
            mask = region(wanted, picture, where, np.random.default_rng(3))
            assert mask.any() and not (mask & ~where.allowed).any()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "chip"])
@pytest.mark.parametrize("place", [p for p in PLACES if p not in ("any", "edge")])
def test_a_place_is_a_cell_of_the_object(family: str, place: str) -> None:
    """The middle of what is drawn lies in the third that each word names, or close by it."""
    third, slack = SIDE / 3, 0.1 * SIDE
    for seed in SEEDS[:3]:
        mask = region(defect(family, place=place, size=0.08), part(), WHOLE, np.random.default_rng(seed))
        y, x = ndimage.center_of_mass(mask)
        for word, at, low in (("top", y, 0), ("bottom", y, 2), ("left", x, 0), ("right", x, 2)):
            if word in place:
                assert low * third - slack <= at <= (low + 1) * third + slack
        if place == "centre":
            assert all(third - slack <= at <= 2 * third + slack for at in (y, x))


def test_the_edge_is_that_of_the_object_or_else_of_the_picture() -> None:
    found = foreground(part())
    for seed in SEEDS:
        mask = region(defect("pit", place="edge", size=0.04), part(), found, np.random.default_rng(seed))
        y, x = ndimage.center_of_mass(mask)
        assert 60 - 14 < np.hypot(y - 80, x - 80) <= 62
        y, x = ndimage.center_of_mass(touched(defect("pit", place="edge", size=0.04), seed))
        assert min(y, x, SIDE - y, SIDE - x) < 0.1 * SIDE


@pytest.mark.parametrize("family", ["scratch", "crack", "fold", "stain", "pit", "abrasion", "dark_area", "dent"])
def test_directions_are_as_one_says_them(family: str) -> None:
    """0 lies, 90 stands, 45 rises to the right: rows grow downwards, so they fall where columns grow."""
    for seed in SEEDS[:3]:
        spreads = {}
        for angle in (0.0, 90.0, 45.0):
            wanted = defect(family, direction=angle, size=0.4, elongation=8.0, place="centre")
            points = np.argwhere(touched(wanted, seed))
            spreads[angle] = np.cov(points.T)
        assert spreads[0.0][1, 1] > 3 * spreads[0.0][0, 0]
        assert spreads[90.0][0, 0] > 3 * spreads[90.0][1, 1]
        if family != "dark_area":  # its sides are those of the picture
            assert spreads[45.0][0, 1] < -0.3 * np.sqrt(np.linalg.det(spreads[45.0]) + 1)


@pytest.mark.parametrize("size", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("family", ["scratch", "stain", "dark_area", "missing"])
def test_a_size_is_a_share_of_the_objects_side(family: str, size: float) -> None:
    """A defect of size s is s times the side long: within a quarter, for outlines are irregular."""
    wanted = defect(family, size=size, direction=0.0, elongation=2.0, place="centre", contrast=8.0)
    lengths = [np.ptp(np.argwhere(touched(wanted, seed))[:, 1]) + 1 for seed in SEEDS]
    assert np.mean(lengths) == pytest.approx(size * SIDE, rel=0.25, abs=5)


def test_a_count_is_so_many_places() -> None:
    wanted = defect("pit", count=5, size=0.03)
    found = [ndimage.label(ndimage.binary_dilation(touched(wanted, seed)))[1] for seed in SEEDS]
    assert max(found) == 5 and min(found) >= 3  # two may touch


def test_contrast_counts_deviations_of_the_surroundings() -> None:
    """A dark area of contrast 2 on a smooth plate of level 128 is darker by 1.5 times 2 of the least deviation."""
    darker = change(defect("dark_area", contrast=2.0, tone=-1), picture=plate(grain=0)).min()
    assert darker == pytest.approx(-1.5 * 2 * LEAST, abs=0.5)
    coarse = plate() + np.random.default_rng(1).normal(0, 15, (SIDE, SIDE, 1))  # robust deviation 15
    darker = change(defect("dark_area", contrast=2.0, tone=-1), picture=coarse.astype(np.float32)).min(axis=-1)
    assert np.median(darker[darker < -1]) == pytest.approx(-1.5 * 2 * 15, rel=0.2)


@pytest.mark.parametrize("family", ["scratch", "crack", "pit", "stain", "thread", "abrasion", "burn", "dark_area"])
def test_tones_are_lighter_or_darker(family: str) -> None:
    for tone in (-1, 1):
        for seed in SEEDS[:3]:
            assert np.sign(change(defect(family, tone=tone), seed).sum()) == tone


def test_a_particle_has_its_tone_and_casts_a_shadow() -> None:
    for tone in (-1, 1):
        added = change(defect("particle", tone=tone, contrast=6.0), picture=plate(grain=0))[..., 0]
        assert (tone * added).max() > 40 and added.min() < -15


def test_usual_tones() -> None:
    for family, tone in {"crack": -1, "pit": -1, "burn": -1, "stain": -1, "dark_area": -1, "scratch": 1}.items():
        assert np.sign(change(defect(family)).sum()) == tone
    white = plate(255, grain=0)
    assert change(defect("scratch"), picture=white).sum() < 0  # a bright scratch would be seen by nobody
    assert change(defect("stain"), picture=plate(0, grain=0)).sum() > 0


@pytest.mark.parametrize("family", ["stain", "particle", "thread", "scratch"])
def test_a_colour_shows_on_pictures_in_colour_and_is_a_tone_on_grey_ones(family: str) -> None:
    red = defect(family, colour=(200, 20, 20), contrast=6.0, size=0.3, place="centre")
    picture = part().astype(np.float32)
    added = change(red, 1, picture, foreground(part()))
    seen = np.abs(added).max(axis=-1) > 10
    assert added[seen][:, 0].mean() > added[seen][:, 1].mean() + 10
    grey = change(red, 1)
    assert np.ptp(grey, axis=-1).max() < 0.01 and grey.sum() < 0  # red is darker than a plate of level 128


def test_a_burn_is_brown_where_the_picture_has_colour() -> None:
    picture = part().astype(np.float32)
    drawn = picture + change(defect("burn", contrast=6.0, tone=-1), 2, picture, foreground(part()))
    darkest = drawn.reshape(-1, 3)[drawn.sum(axis=-1).argmin()]
    assert darkest[0] > darkest[2] and darkest.sum() < 200


def test_soft_edges_are_less_steep_than_sharp_ones() -> None:
    for family in ("stain", "pit", "dark_area", "particle"):
        steep = [
            np.abs(np.diff(change(defect(family, sharpness=s, size=0.3), picture=plate(grain=0))[..., 0])).max()
            for s in (0.0, 1.0)
        ]
        assert steep[0] < 0.7 * steep[1]


def test_a_chip_shows_the_background_within_the_object() -> None:
    picture, found = part(), foreground(part())
    drawn = draw(picture.astype(np.float32), defect("chip", size=0.3, contrast=3.0), found, np.random.default_rng(1))
    changed = np.abs(drawn - picture).max(axis=-1) >= 2
    assert (changed & DISC).sum() > 100
    like = np.abs(drawn[changed] - (225, 230, 235)).max(axis=-1) < 25
    assert like.mean() > 0.3
    edge = ndimage.binary_dilation(~DISC, iterations=3)
    assert (changed & edge).any()


def test_a_dent_is_light_on_one_side_and_dark_on_the_other() -> None:
    added = change(defect("dent", size=0.4, contrast=4.0, place="centre"), picture=plate(grain=0))[..., 0]
    assert abs(added.sum()) < 0.1 * np.abs(added).sum()
    bright, dark = np.argwhere(added > 5).mean(axis=0), np.argwhere(added < -5).mean(axis=0)
    assert (bright > dark).all()  # light comes from the upper left and meets the far slope of the hollow


def test_a_pit_has_a_lit_rim_and_a_crack_none_that_bright() -> None:
    added = change(defect("pit", size=0.2, contrast=5.0), picture=plate(grain=0))[..., 0]
    rim, hollow = np.argwhere(added > 10), np.argwhere(added < -20)
    assert len(rim) > 5 and (rim.mean(axis=0) > hollow.mean(axis=0)).all()


def test_thin_lines_stay_thin_on_large_pictures() -> None:
    for side in (64, 512):
        whole = np.ones((side, side), bool)
        picture = np.full((side, side, 3), 128, np.float32)
        wanted = defect("scratch", size=0.3, elongation=30.0, direction=0.0, place="centre")
        mask = np.abs(change(wanted, 0, picture, Foreground(whole, whole, True))).max(axis=-1) > 10
        assert 0.15 * side < np.ptp(np.argwhere(mask)[:, 1]) < 0.4 * side
        assert mask.sum(axis=0).max() <= max(4, 0.03 * side)


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (40, 23)])
@pytest.mark.parametrize("level", [0, 127, 255])
def test_any_size_and_level_gives_a_picture(shape: tuple[int, int], level: int) -> None:
    picture = np.full((*shape, 3), level, np.uint8)
    where, rng = foreground(picture), np.random.default_rng(0)
    for family in FAMILIES:
        for size, slim, sharp in ((0.001, 1.0, 0.0), (1.0, 200.0, 0.5), (0.5, 1.0, 1.0)):
            wanted = defect(family, size=size, elongation=slim, sharpness=sharp, contrast=50.0, colour=(9, 200, 9))
            drawn = draw(picture.astype(np.float32), wanted, where, rng)
            assert drawn.shape == picture.shape and 0 <= drawn.min() <= drawn.max() <= 255
            assert region(wanted, picture, where, rng).any()
