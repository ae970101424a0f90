"""What a detector takes of a frozen backbone: one vector a picture, or a map of patches, of large pictures from
tiles."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kka.detectors.shared.backbones import Backbone
from kka.detectors.shared.places import Cells, measured
from kka.errors import KkaError

_SHARED = 4  # a tile shares at least this fraction of its side with the next


class Features(nn.Module):
    """Pictures (b, 3, h, w) -> what a detector takes of the backbone."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone


class Pooled(Features):
    """The backbone's vector for the whole picture, (b, c)."""

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.backbone(x)[1]
        return pooled


class Patches(Features):
    """The maps of some layers, each the mean of its 3x3 neighbourhood, enlarged to the finest and side by side: (b, c,
    h', w')."""

    def __init__(self, backbone: Backbone, layers: list[int]) -> None:
        super().__init__(backbone)
        self.layers = layers
        self._cells: dict[tuple[int, int], tuple[Cells, Cells]] = {}  # by size of picture

    def forward(self, x: Tensor) -> Tensor:
        maps, _ = self.backbone(x)
        chosen = [F.avg_pool2d(maps[i], 3, stride=1, padding=1, count_include_pad=False) for i in self.layers]
        finest = max((m.shape[2:] for m in chosen), key=lambda side: side[0])
        return torch.cat(
            [m if m.shape[2:] == finest else F.interpolate(m, size=finest, mode="bilinear") for m in chosen], 1
        )

    def cells(self, size: tuple[int, int]) -> tuple[Cells, Cells]:
        """Where the cells of the map lie in pictures of (h, w) pixels, down and across; measured once for a size."""
        if size not in self._cells:
            self._cells[size] = self.measured_cells(size)
        return self._cells[size]

    def measured_cells(self, size: tuple[int, int]) -> tuple[Cells, Cells]:
        return measured(self, size)


class Tiles(Patches):
    """Patches of pictures of any size, from overlapping tiles of at most `side` pixels a side.

    The backbone sees one tile of each picture at a time: that bounds memory, and a backbone that resizes what it is
    given does not shrink the whole picture. Tiles begin on grid lines of the maps, so that cells lie on cells; where
    they overlap, their weights rise and fall linearly, so that there is no seam. What the last tile lacks, less than
    one grid line, repeats the picture's edge."""

    def __init__(self, backbone: Backbone, layers: list[int], side: int) -> None:
        """Raises KkaError where the maps of a tile have no common grid lines that are near enough to each other."""
        super().__init__(backbone, layers)
        self.side = side
        with torch.no_grad():
            maps, _ = backbone(torch.zeros(1, 3, side, side))
        counts = [maps[i].shape[2] for i in layers]
        self.count: int = max(counts)
        self.line = math.lcm(*(side // math.gcd(side, count) for count in counts))
        if self.line * _SHARED > side:
            raise KkaError(
                f"tile wants a side that the cells of the backbone's maps divide, such as 256, got {side} pixels for"
                f" {' and '.join(map(str, counts))} cells."
            )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        places = [(top, left) for top in self.starts(height) for left in self.starts(width)]
        if len(places) == 1:
            return super().forward(x)
        shape = (min(height, self.side), min(width, self.side))
        below, beside = (last + part - whole for last, part, whole in zip(places[-1], shape, x.shape[2:], strict=True))
        x = F.pad(x, (0, beside, 0, below), mode="replicate")
        tiles = (x[:, :, top : top + shape[0], left : left + shape[1]] for top, left in places)
        merged = self._merged(self._maps(tiles), places)
        rows, columns = merged.shape[2] - self._in_cells(below), merged.shape[3] - self._in_cells(beside)
        return merged[:, :, :rows, :columns]

    def starts(self, whole: int) -> list[int]:
        """Where tiles begin along a side of `whole` pixels: on grid lines, evenly spread."""
        if whole <= self.side:
            return [0]
        span = -(-whole // self.line) * self.line - self.side
        steps = math.ceil(span / (self.side - self.side / _SHARED))
        return [round(i * span / steps / self.line) * self.line for i in range(steps + 1)]

    def measured_cells(self, size: tuple[int, int]) -> tuple[Cells, Cells]:
        """As in a tile, and as many as the picture has."""
        height, width = size
        down, across = measured(super().forward, (min(height, self.side), min(width, self.side)))
        return self._continued(down, height), self._continued(across, width)

    def _continued(self, cells: Cells, whole: int) -> Cells:
        return cells if whole <= self.side else cells._replace(number=-(-whole * self.count // self.side))

    def _in_cells(self, pixels: int) -> int:
        return pixels * self.count // self.side

    def _maps(self, tiles: Iterator[Tensor]) -> Iterator[Tensor]:
        if torch.compiler.is_exporting():  # a graph has the backbone once, and all tiles of a picture as one batch
            batches = list(tiles)
            made = super().forward(torch.cat(batches))
            return iter(made.view(len(batches), -1, *made.shape[1:]))  # chunk and unflatten would fix their number
        return map(super().forward, tiles)

    def _merged(self, maps: Iterator[Tensor], places: list[tuple[int, int]]) -> Tensor:
        """The tiles' maps (b, c, h', w') at their places, in pixels, of the whole map."""
        sums, weights = torch.empty(0), torch.empty(0)
        for made, (top, left) in zip(maps, places, strict=True):
            (height, width), row, column = made.shape[2:], self._in_cells(top), self._in_cells(left)
            if not len(weights):  # the length of sums is the number of pictures, which a graph leaves open
                last = [self._in_cells(start) for start in places[-1]]
                sums = made.new_zeros(*made.shape[:2], last[0] + height, last[1] + width)
                weights = made.new_zeros(sums.shape[2:])
            weight = _rising_and_falling(height, made)[:, None] * _rising_and_falling(width, made)
            sums[:, :, row : row + height, column : column + width] += made * weight
            weights[row : row + height, column : column + width] += weight
        return sums / weights


def _rising_and_falling(cells: int, like: Tensor) -> Tensor:
    at = torch.arange(cells, device=like.device)
    return torch.minimum(at + 1, cells - at).to(like.dtype)
