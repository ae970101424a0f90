"""Where regions begin, what belongs to one, and where they lie in the picture that a map was made from."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from kka import regions as regions_module
from kka.images import open_picture, prepare
from kka.images.crops import crop
from kka.regions import Region, calibrate, in_picture, pixel_threshold, regions


class Maps:
    """A detector whose map is the grey value, and whose score is its mean; it notes how many pictures it is given."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def score(self, images: Any) -> Any:
        return images.mean((1, 2, 3))

    def score_map(self, images: Any) -> Any:
        self.asked.append(len(images))
        return images[..., 0].astype(float)


def grey(*values: int) -> Any:
    """Pictures that are 0 but for one pixel each."""
    images = np.zeros((len(values), 16, 16, 3), np.uint8)
    images[:, 3, 5] = np.array(values, np.uint8)[:, None]
    return images


def test_the_threshold_is_what_one_in_twenty_normals_exceeds_somewhere() -> None:
    detector: Any = Maps()
    scores, threshold = calibrate(detector, grey(*range(101)))
    assert threshold == pytest.approx(95)  # of the maxima 0 to 100
    np.testing.assert_allclose(scores, np.arange(101) / 256)
    assert pixel_threshold(detector, grey(7, 7)) == 7
    without: Any = type("Scores", (), {"score": lambda self, images: images.mean((1, 2, 3))})()
    assert pixel_threshold(without, grey(7, 7)) is None


def test_maps_of_few_normals_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions_module, "_PART", 20)
    detector: Any = Maps()
    assert pixel_threshold(detector, grey(*range(101))) == pytest.approx(95)
    # even parts: a last one of a single picture would be computed alone, and rounded otherwise than the rest
    assert sum(detector.asked) == 101 and {16, 17} == set(detector.asked)


def test_regions_touch_by_corners_and_the_highest_comes_first() -> None:
    scores = np.array(
        [
            [5.0, 1, 1, 1, 1, 1],
            [1, 6, 1, 1, 1, 9],
            [1, 1, 1, 1, 1, 8],
            [1, 2, 2, 1, 7, 1],
        ]
    )
    assert regions(scores, 4.0) == [Region(4, 1, 2, 3, 3, 9.0), Region(0, 0, 2, 2, 2, 6.0)]
    assert regions(scores, 9.0) == []  # above, not at
    assert regions(scores, 0.0) == [Region(0, 0, 6, 4, 24, 9.0)]


def test_a_region_lies_where_it_does_in_the_picture() -> None:
    """A map of 10x10 of the square in the middle of 400x200 pixels: each of its pixels stands for 20x20 of them."""
    found = in_picture(Region(0, 3, 2, 1, 2, 9.0), crop(400, 200, squeeze=False), 10)
    assert found == Region(100, 60, 40, 20, 800, 9.0)
    squeezed = in_picture(Region(0, 3, 2, 1, 2, 9.0), crop(400, 200, squeeze=True), 10)
    assert squeezed == Region(0, 60, 80, 20, 2 * 40 * 20, 9.0)


@pytest.mark.parametrize("sides", [(7, 5), (1, 1), (33, 100), (100, 99), (1000, 37)])
@pytest.mark.parametrize("squeeze", [False, True])
def test_the_whole_map_is_the_whole_crop_and_no_pixel_leaves_it(sides: tuple[int, int], squeeze: bool) -> None:
    seen = crop(*sides, squeeze=squeeze)
    whole = in_picture(Region(0, 0, 32, 32, 1024, 1.0), seen, 32)
    assert (whole.x, whole.y, whole.width, whole.height) == seen and whole.area == seen.width * seen.height
    for place in range(32):
        pixel = in_picture(Region(place, 31 - place, 1, 1, 1, 1.0), seen, 32)
        assert pixel.width >= 1 and pixel.height >= 1 and pixel.area >= 1
        assert seen.left <= pixel.x and pixel.x + pixel.width <= seen.left + seen.width
        assert seen.top <= pixel.y and pixel.y + pixel.height <= seen.top + seen.height


@pytest.mark.parametrize("squeeze", [False, True])
def test_what_is_marked_in_a_picture_is_found_there_again(squeeze: bool) -> None:
    picture = np.zeros((300, 500, 3), np.uint8)
    picture[60:90, 210:270] = 255
    prepared = prepare([picture], 50, squeeze=squeeze)[0, :, :, 0].astype(float)
    (found,) = (in_picture(r, crop(500, 300, squeeze=squeeze), 50) for r in regions(prepared, 100.0))
    wide = 500 / 50 if squeeze else 300 / 50
    assert abs(found.x - 210) <= wide and abs(found.x + found.width - 270) <= wide
    assert abs(found.y - 60) <= 6 and abs(found.y + found.height - 90) <= 6
    assert found.area == pytest.approx(60 * 30, rel=0.25)


def test_a_picture_that_was_turned_has_the_sides_it_stands_upright_with(tmp_path: Any) -> None:
    for orientation, sides in ((1, (400, 90)), (3, (400, 90)), (6, (90, 400)), (8, (90, 400))):
        image = Image.new("RGB", (400, 90))
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif)
        for side in (None, 16):  # of a large jpg fewer pixels are decoded
            found = open_picture(tmp_path / "a.jpg", side=side)
            assert found.upright == sides and (found.width, found.height) == (400, 90)
            assert (found.rgb.width > found.rgb.height) == (sides[0] > sides[1])
