"""Where in a picture the cells of a feature map lie.

A cell of a map of stride s would lie in the middle of its s pixels, were it not for padding: symmetric padding before a
convolution of stride 2 draws cells towards the top and the left, by up to (s - 1) / 2 pixels in all; TensorFlow's draws
them the other way, or not at all, as sides are odd or even; and trained kernels may make up for either. So this is
measured: some pixels of a picture of noise are changed, and it is seen where the map changes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kka.records import seed_of

_PHASES = 4  # as many places a side for the change, which together fill one cell: its place in a cell is averaged out
_PICTURES = 2 * _PHASES  # each phase of one side meets two of the other


class Cells(NamedTuple):
    """The cells of a map along one side of a picture, in pixels: the centre of the first, their distance, and how many
    there are."""

    first: float
    stride: float
    number: int

    def resampling(self, side: int) -> Tensor:
        """What each cell is worth for each of `side` pixels, (side, number): linear between cells, beyond the outermost
        as those are."""
        at = ((torch.arange(side) - self.first) / self.stride).clamp(0, self.number - 1)
        return (1 - (at[:, None] - torch.arange(self.number)).abs()).clamp_min(0)


def measured(features: Callable[[Tensor], Tensor], size: tuple[int, int]) -> tuple[Cells, Cells]:
    """The cells, down and across, of `features`, float pictures (b, 3, h, w) -> maps (b, c, h', w'), in pictures of
    `size` (h, w).

    It is measured in the middle. Features all of which change with any pixel tell little of places: their cells are
    found where they would lie without padding."""
    noise = torch.Generator().manual_seed(seed_of("places"))
    before = torch.rand(_PICTURES, 3, *size, generator=noise) / 2
    with torch.no_grad():
        maps = _each(features, before)
        strides = [side / cells for side, cells in zip(size, maps.shape[2:], strict=True)]
        after, places = _changed(before, strides)
        change = (_each(features, after) - maps).norm(dim=1).double().cpu()
    down, across = (
        Cells(float(_first(change.sum(2 - axis), stride, places[:, axis])), stride, maps.shape[2 + axis])
        for axis, stride in enumerate(strides)
    )
    return down, across


def _each(features: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """One at a time: they may be large."""
    return torch.cat([features(picture[None]) for picture in pictures])


def _changed(pictures: Tensor, strides: list[float]) -> tuple[Tensor, Tensor]:
    """The pictures, each with some pixels made brighter, a quarter of a cell wide, in its own phase of the cell in the
    middle; and the middle of those pixels, (b, 2)."""
    pictures, places = pictures.clone(), []
    for i, picture in enumerate(pictures):
        box = []
        for side, stride, phase in zip(picture.shape[1:], strides, (i, i + i // _PHASES + 1), strict=True):
            start = int(side / 2 + (phase % _PHASES / _PHASES - 0.5) * stride)
            width = max(1, round(stride / _PHASES))
            box.append((start, start + width))
        (top, bottom), (left, right) = box
        picture[:, top:bottom, left:right] += 0.5
        places.append([(top + bottom - 1) / 2, (left + right - 1) / 2])
    return pictures, torch.tensor(places, dtype=torch.float64)


def _first(change: Tensor, stride: float, places: Tensor) -> Tensor:
    """Where the first cell lies when the changes (b, cells) lie, on average, at the places (b,) that they come from."""
    middle = (stride - 1) / 2
    seen = torch.arange(change.shape[1]) * stride + middle
    away = (change * (places[:, None] - seen)).sum(1) / change.sum(1).clamp_min(1e-30)
    return middle + away.mean()
