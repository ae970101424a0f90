"""What the detectors on frozen features share: a backbone's patches or whole pictures, and a bank of rows with nearest
neighbours."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from kka.detectors.shared import backbones, state
from kka.detectors.shared.base import Base, Share, Whole
from kka.detectors.shared.patches import Features, Patches, Pooled, Tiles
from kka.errors import KkaError, StaleFile
from kka.records import Images

# rows against rows at a time: their distances stay in the processor's cache, and take 1 MB whatever the bank holds
_TILE = 512
_VARIANCE = 0.99  # of normal patches, that whitening keeps


class Head(nn.Module):
    """Features -> scores. It remembers which backbone it was fitted on, whose weights are not saved with it."""

    fingerprint: Tensor

    def __init__(self, fingerprint: Tensor) -> None:
        super().__init__()
        self.register_buffer("fingerprint", fingerprint)


@dataclass
class Frozen(Base):
    """`backbone` is a Hugging Face id, a path, or a factory as `backbones` tells; it is not trained and not saved."""

    backbone: str = backbones.BUILT_IN

    @cached_property
    def features(self) -> Features:
        """What the detector takes of the frozen backbone, loaded when it is first needed."""
        return Pooled(backbones.load(self.backbone))

    def scorer(self) -> nn.Module:
        return nn.Sequential(self.features, super().scorer()).eval()

    @classmethod
    def load(cls, folder: Path, **options: Any) -> Self:
        """The detector that `save` wrote. Raises BrokenFile where the folder is broken, and StaleFile where the
        backbone has other weights now."""
        detector = super().load(folder, **options)
        assert isinstance(detector.network_, Head)
        if not torch.equal(detector.network_.fingerprint, detector._fingerprint()):
            raise StaleFile(
                f"{folder} was fitted on other weights than the backbone '{detector.backbone}' has now. Fit it again."
            )
        return detector

    def width(self, size: tuple[int, int]) -> int:
        """How many features there are of pictures of (h, w) pixels."""
        return int(self.features(torch.zeros(1, 3, *size)).shape[1])

    def _fingerprint(self) -> Tensor:
        return self.features.backbone.fingerprint.clone()


class PatchHead(Head):
    """Features (b, c, h', w') -> scores (b,): the mean over the `top_share` of patches that score highest, at least
    one. `patches` gives all of them, (b, h', w')."""

    def __init__(self, fingerprint: Tensor, top_share: float) -> None:
        super().__init__(fingerprint)
        self.top_share = top_share

    def patches(self, features: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        return self.pooled(features, self.patches(features))

    def pooled(self, features: Tensor, patches: Tensor) -> Tensor:
        """The pictures' scores (b,) from those of their patches."""
        return self.top(patches.flatten(1))

    def top(self, scores: Tensor) -> Tensor:
        """Of scores (b, p), shape (b,)."""
        return top(scores, self.top_share)

    def highest(self, scores: Tensor) -> Tensor:
        """Those of scores (b, p) that count, (b, k)."""
        return highest(scores, self.top_share)


def highest(scores: Tensor, share: float) -> Tensor:
    """The share of scores (b, p) that is highest, at least one of each row, (b, k)."""
    return scores.topk(max(1, round(share * scores.shape[1])), 1).values


def top(scores: Tensor, share: float) -> Tensor:
    """The mean of the highest, (b,)."""
    return highest(scores, share).mean(1)


class Mapped(nn.Module):
    """Float pictures (b, 3, h, w) -> their scores (b,), and maps (b, h, w) in the unit of the score, from one look at
    the features."""

    down: Tensor
    across: Tensor

    def __init__(self, features: Patches, head: PatchHead, size: tuple[int, int]) -> None:
        super().__init__()
        self.features, self.head = features, head
        for name, cells, side in zip(("down", "across"), features.cells(size), size, strict=True):
            self.register_buffer(name, cells.resampling(side))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        patches = self.head.patches(features)
        return self.head.pooled(features, patches), self.down @ patches @ self.across.T


@dataclass
class Patchwise(Frozen):
    """`layers` are places in the backbone's list of maps, from 0. A picture's score is the mean over the `top_share` of
    its patches that score highest: 0 is the highest alone, for small defects; 1 is for pictures that are odd as a
    whole. At most `most_patches` of all normals', and of all anomalies', are looked at in a fit, as many of each
    picture: they bound memory. Where it is known what an anomaly was made from, those of its patches count that differ
    from it by more than the share `usual_share` of normal patches differ from the one most like them. Pictures larger
    than `tile` pixels are looked at in overlapping tiles of that side."""

    layers: list[int] = field(default_factory=lambda: [1, 2])
    top_share: Share = 0.1
    most_patches: Whole = 100_000
    usual_share: Share = 0.9
    tile: Annotated[int, Field(ge=16)] | None = None

    @cached_property
    def features(self) -> Patches:
        backbone = backbones.load(self.backbone)
        if not self.layers or not all(0 <= i < backbone.depth for i in self.layers):
            raise KkaError(
                f"the detector '{self.name}': layers wants places from 0 to {backbone.depth - 1} in the backbone's"
                f" maps, got {self.layers}."
            )
        if self.tile is None:
            return Patches(backbone, self.layers)
        try:
            return Tiles(backbone, self.layers, self.tile)
        except KkaError as error:
            raise KkaError(f"the detector '{self.name}': {error}") from None

    def mapper(self) -> Mapped:
        """The fitted module from float pictures (b, 3, h, w) in 0 to 1 to scores (b,) and maps (b, h, w); plain enough
        for torch.export."""
        if self.size_ is None or not isinstance(self.network_, PatchHead):
            raise KkaError(f"{self.name} wants a fitted detector, got one that is not. Call fit or load first.")
        return Mapped(self.features, self.network_, self.size_).eval()

    def score_with_map(self, images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`score` and `score_map` at once, for the price of one."""
        state.check_score(self.name, images, self.size_)
        scores, maps = state.batched_all(images, self.mapper())
        return scores.double().numpy(), maps.double().numpy()

    def score_map(self, images: Images) -> NDArray[np.float64]:
        """How anomalous each place of the pictures is, shape (n, h, w), in the unit of the score; images uint8 (n, h,
        w, 3)."""
        return self.score_with_map(images)[1]

    def patches_each(self, n: int) -> int:
        """How many patches of each of n pictures are looked at, if it has as many."""
        return max(1, self.most_patches // n)

    def rows(self, images: Tensor) -> Tensor:
        """Patches of uint8 pictures (n, 3, h, w), at random as many of each: (n, patches, c)."""
        if not len(images):
            return self._flat(torch.zeros(1, 3, *images.shape[2:]))[:0]
        each = self.patches_each(len(images))

        def some(x: Tensor) -> Tensor:
            patches = self._flat(x)
            if each >= patches.shape[1]:
                return patches
            chosen = torch.rand(patches.shape[:2]).argsort(1)[:, :each]
            return patches.gather(1, chosen[:, :, None].expand(-1, -1, patches.shape[2]))

        return state.batched(images, some)

    def _flat(self, x: Tensor) -> Tensor:
        """Patches of float pictures (b, 3, h, w): (b, patches, c)."""
        maps: Tensor = self.features(x)
        return maps.flatten(2).transpose(1, 2)


class Bank(nn.Module):
    """Stored rows (m, d). `forward` gives the squared distance of rows (n, d) to their k nearest, (n, k), nearest
    first."""

    stored: Tensor

    def __init__(self, stored: Tensor) -> None:
        super().__init__()
        self.register_buffer("stored", stored)

    def forward(self, rows: Tensor, k: int = 1) -> Tensor:
        squares = self.stored.square().sum(1)
        if torch.compiler.is_exporting():  # a graph for any number of rows has no number of tiles
            return self._nearest(rows, squares, k)
        return torch.cat([self._nearest(part, squares, k) for part in rows.split(_TILE)])

    def _nearest(self, rows: Tensor, squares: Tensor, k: int) -> Tensor:
        parts = []
        for stored, square in zip(self.stored.split(_TILE), squares.split(_TILE), strict=True):
            # what is the same for all stored rows is added last, so that only one matrix is held
            distances = torch.addmm(square[None], rows, stored.T, alpha=-2)
            parts.append(
                distances.amin(1, keepdim=True)
                if k == 1
                else distances.topk(min(k, distances.shape[1]), largest=False).values
            )
        nearest = torch.cat(parts, 1)
        nearest = nearest.topk(min(k, nearest.shape[1]), largest=False).values
        return (nearest + rows.square().sum(1, keepdim=True)).clamp_min(0)

    def places(self, rows: Tensor) -> Tensor:
        """Which of the stored rows is the nearest to each of rows (n, d), (n,)."""
        squares = self.stored.square().sum(1)
        parts = [rows] if torch.compiler.is_exporting() else rows.split(_TILE)
        return torch.cat([torch.addmm(squares[None], part, self.stored.T, alpha=-2).argmin(1) for part in parts])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """A bank takes as many rows as were saved."""
        self.stored = state_dict.get(prefix + "stored", self.stored).clone()
        super()._load_from_state_dict(state_dict, prefix, *rest)


def spread(rows: Tensor) -> Tensor:
    """The deviation of each channel of rows (n, c), shape (c,). One that is nearly constant counts as a tenth of the
    average, lest a picture that moves it scores beyond all others."""
    deviation = rows.std(0, unbiased=False)
    return deviation.clamp_min(0.1 * float(deviation.mean()) + 1e-6)


def whitening(rows: Tensor) -> Tensor:
    """A linear measure (c, c) of rows (n, c) around their mean, in which their principal components have a variance of
    one; the last of them, which hold what is left of the variance, become zero."""
    values, vectors = torch.linalg.eigh(torch.cov(rows.T.double()))
    held = values.clamp_min(0).flip(0).cumsum(0) / values.clamp_min(0).sum()
    kept = ((held.roll(1) < _VARIANCE) | (torch.arange(len(held)) == 0)).flip(0)
    scale = torch.where(kept, values.clamp_min(1e-12).rsqrt(), 0.0)
    return torch.as_tensor(vectors * scale, dtype=torch.float32)
