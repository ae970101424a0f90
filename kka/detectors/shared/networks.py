"""The small networks behind the detectors, and how they are trained and run on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kka.records import seed_of


class ConvNet(nn.Module):
    """Float pictures (b, 3, h, w) in 0 to 1 -> `outputs` numbers each, (b, outputs), or (b,) for one. Pools over the
    whole picture at last, so any side from 16 on goes."""

    def __init__(self, width: int, outputs: int = 1) -> None:
        super().__init__()
        c = width
        self.body = nn.Sequential(
            *_block(3, c), nn.MaxPool2d(2),
            *_block(c, 2 * c), *_block(2 * c, 2 * c), nn.MaxPool2d(2),
            *_block(2 * c, 4 * c), *_block(4 * c, 4 * c),
        )  # fmt: skip
        self.head = nn.Linear(8 * c, outputs)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it; a third faster

    def forward(self, x: Tensor) -> Tensor:
        x = self.body((x * 4 - 2).contiguous(memory_format=torch.channels_last))
        made: Tensor = self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        return made.squeeze(1) if made.shape[1] == 1 else made  # ONNX cannot squeeze a side of more than one


def _block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """Torch's global generator seeded for the time of the block, and as it was thereafter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*names))
        yield


def autocast() -> torch.autocast:
    """bfloat16 where the processor computes in it (nearly twice as fast), else plain float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


class LeNet(nn.Module):
    """Float pictures (b, 3, h, w) in 0 to 1 -> features (b, rep_dim), as published for Deep SAD: no bias anywhere, so
    that no constant can stand for the centre."""

    def __init__(self, rep_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(*_lenet_block(3, 32), *_lenet_block(32, 64), *_lenet_block(64, 128))
        self.head = nn.Linear(128 * (size[0] // 8) * (size[1] // 8), rep_dim, bias=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.head(self.body(x.contiguous(memory_format=torch.channels_last)).flatten(1))
        return features


def _lenet_block(before: int, after: int) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, 5, padding=2, bias=False)
    return [conv, nn.BatchNorm2d(after, eps=1e-4, affine=False), nn.LeakyReLU(), nn.MaxPool2d(2)]


class LeNetDecoder(nn.Module):
    """Features (b, rep_dim) -> pictures (b, 3, h, w) in 0 to 1: the mirror of LeNet, needed for its pretraining
    alone."""

    def __init__(self, rep_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.sides = [(size[0] // k, size[1] // k) for k in (8, 4, 2, 1)]
        self.foot = nn.Linear(rep_dim, 8 * self.sides[0][0] * self.sides[0][1], bias=False)
        widths = [8, 128, 64, 32, 3]
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 5, padding=2, bias=False) for a, b in pairwise(widths)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(w, eps=1e-4, affine=False) for w in widths[:-1]])

    def forward(self, features: Tensor) -> Tensor:
        x = self.foot(features).unflatten(1, (8, *self.sides[0]))
        for conv, norm, side in zip(self.convs, self.norms, [*self.sides[1:], None], strict=True):
            x = conv(F.leaky_relu(norm(x)))
            x = x if side is None else F.interpolate(x, size=side)
        return torch.sigmoid(x)
