"""What is drawn to be looked at."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kka.drawing import contact_sheet, heat_map, silhouettes
from kka.errors import KkaError


def pictures(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_a_contact_sheet_shows_each_picture_enlarged_and_is_the_same_each_time(tmp_path: Path) -> None:
    rows = [list(pictures(3, 32)), list(pictures(2, 32, seed=1)), []]
    notes = [["1.25  a small yellow flower with twelve pointed petals and a brown centre", "b", "c"], ["d", "e"], []]
    for name in "ab":
        contact_sheet(rows, ["hard", "easy", "rejected (none)"], notes, tmp_path / f"{name}.png", scale=4)
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    blown_up = rows[0][0].repeat(4, axis=0).repeat(4, axis=1)
    assert any((sheet[y : y + 128, 10:138] == blown_up).all() for y in range(60))
    with pytest.raises(KkaError, match="at least one picture"):
        contact_sheet([[]], ["none"], [[]], tmp_path / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_heat_map_goes_from_blue_to_red_over_a_grey_picture() -> None:
    share = np.array([[[0.0, 1.0], [-5.0, 5.0]]])
    (cold, hot), clipped = heat_map(np.full((1, 2, 2, 3), 100, np.uint8), share)[0]
    assert cold.tolist() == [50, 50, 114] and hot.tolist() == [114, 50, 50]
    assert clipped.tolist() == [cold.tolist(), hot.tolist()]


def test_a_silhouette_is_white_where_its_mask_is() -> None:
    masks = np.array([[[True, False], [False, True]]])
    drawn = silhouettes(masks)
    assert drawn.dtype == np.uint8 and drawn.shape == (1, 2, 2, 3)
    assert (drawn[masks] == 255).all() and (drawn[~masks] == 0).all()
