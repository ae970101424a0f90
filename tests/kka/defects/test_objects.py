"""Objects are found on plain and unevenly lit backgrounds, and none where there is none."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kka.defects.objects import Mask, foreground, interest
from kka.errors import KkaError

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:200, :200]


def photograph(mask: Mask, object_level: float = 90, background: float = 180, slope: float = 0.0) -> np.ndarray:
    """A grey object on a grey background that becomes brighter to the right, with noise."""
    levels = np.where(mask, object_level, background + slope * (X - 100)) + RNG.normal(0, 3, mask.shape)
    return np.repeat(levels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def disc(radius: float, y: float = 100, x: float = 100) -> Mask:
    return np.hypot(Y - y, X - x) < radius


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("slope", [0.0, 0.4])
@pytest.mark.parametrize("level", [40, 130, 250])
def test_an_object_on_a_lit_background_is_found_with_its_side(level: float, slope: float) -> None:
    found = foreground(photograph(disc(60, 90, 110), level, slope=slope))
    assert not found.whole and overlap(found.mask, disc(60, 90, 110)) > 0.95
    assert found.side == pytest.approx(120, rel=0.06)
    top, bottom, left, right = found.box
    assert abs(top - 30) < 6 and abs(bottom - 150) < 6 and abs(left - 50) < 6 and abs(right - 170) < 6


def test_a_hole_that_shows_the_background_is_no_part_of_the_object() -> None:
    washer = disc(80) & ~disc(35)
    assert overlap(foreground(photograph(washer)).mask, washer) > 0.95


def test_a_part_that_looks_like_the_background_is_found_by_its_outline() -> None:
    """A ring around a dark middle that gets the background's brightness to the left: there its outline alone tells
    where it ends."""
    picture = photograph(disc(40), 40)
    ring = disc(79) & ~disc(40)
    picture[ring] -= (np.clip(X, 60, 180) - 60).astype(np.uint8)[ring, None]
    picture[disc(82) & ~disc(79)] = 60
    assert overlap(foreground(picture).mask, disc(82)) > 0.9


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.full((64, 48, 3), 255, np.uint8),
        RNG.integers(0, 256, (200, 120, 3), dtype=np.uint8),
        photograph(disc(0)),
        photograph(disc(4), 0),  # too small to be the object
        photograph(disc(300)),
    ],
    ids=["black", "white", "texture", "background", "speck", "nothing else"],
)
def test_a_picture_without_a_clear_object_is_foreground_as_a_whole(picture: np.ndarray) -> None:
    found = foreground(picture)
    assert found.whole and found.mask.all() and found.allowed.all()
    assert found.side == pytest.approx(np.sqrt(picture.shape[0] * picture.shape[1]))


@pytest.mark.parametrize("size", [16, 17, 33])
def test_small_pictures_have_objects_too(size: int) -> None:
    y, x = np.mgrid[:size, :size]
    mask = np.hypot(y - size / 2, x - size / 2) < size / 4
    found = foreground(np.where(mask[..., None], np.uint8([200, 60, 60]), np.uint8([40, 40, 40])))
    assert not found.whole and found.mask[mask].all() and overlap(found.mask, mask) > 0.4


def test_a_region_of_interest_limits_where_defects_may_be_and_not_what_the_object_is() -> None:
    picture, left = photograph(disc(60)), X < 100
    found = foreground(picture, left)
    assert (found.allowed == found.mask & left).all() and found.side == foreground(picture).side
    corner = (X > 180) & (Y > 180)  # nothing of the object lies there
    missed = foreground(picture, corner)
    assert missed.whole and (missed.allowed == corner).all()


def test_a_polygon_is_given_in_fractions_of_the_picture() -> None:
    mask = interest([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], (40, 80))
    assert mask is not None and mask.shape == (40, 80)
    assert mask[:, :39].all() and not mask[:, 41:].any()
    assert interest(None, (40, 80)) is None


def test_a_mask_is_cut_and_resized_as_the_pictures_were(tmp_path: Path) -> None:
    wide = np.zeros((100, 300), np.uint8)
    wide[:50, 100:200] = 7  # any value but black; the square in the middle is columns 100 to 200
    Image.fromarray(wide).save(tmp_path / "mask.png")
    mask = interest(str(tmp_path / "mask.png"), (20, 20))
    assert mask is not None and mask[:10].all() and not mask[10:].any()


def test_a_region_outside_the_picture_is_one_sentence(tmp_path: Path) -> None:
    who = "^synthesize.options.region_of_interest: wanted"
    for polygon in ([[0, 0], [1.2, 0], [1, 1]], [[0, 0], [1, 1]], [[0.1], [0.2], [0.3]], [[-0.1, 0], [1, 0], [1, 1]]):
        with pytest.raises(KkaError, match=f"{who} three or more corners .* 0 to 1, got .*\\.$"):
            interest(polygon, (32, 32))
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    with pytest.raises(KkaError, match=f"{who} a part of the picture, got none of it"):
        interest(str(tmp_path / "black.png"), (32, 32))
    with pytest.raises(KkaError, match="nowhere.png"):
        interest(str(tmp_path / "nowhere.png"), (32, 32))


@pytest.mark.parametrize(("folder", "share"), [("castings/ok", 0.0), ("commutators/good", 1.0)])
def test_real_parts_have_an_object_and_textures_none(folder: str, share: float) -> None:
    place = Path(os.environ.get("KKA_DATA", "")) / folder
    if not os.environ.get("KKA_DATA") or not place.is_dir():
        pytest.skip(f"the real photographs are not here: KKA_DATA names no folder with {folder}")
    files = sorted(place.iterdir())[::30][:12]
    found = [foreground(np.asarray(Image.open(file).convert("RGB"))) for file in files]
    assert np.mean([f.whole for f in found]) == share
    if not share:  # impellers fill three fifths of the picture
        assert 0.4 < np.mean([f.mask.mean() for f in found]) < 0.75
