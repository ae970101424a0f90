"""By how much the maps of `efficientnet-lite0` differ from those of the implementation that its weights were made for.

That one is the package efficientnet-lite-pytorch, which the project does not need, in a folder of its own:

    pip install --no-deps --target benchmarks/work/efficientnet efficientnet-lite-pytorch
    PYTHONPATH=benchmarks/work/efficientnet python -m benchmarks.backbone_parity
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kka.detectors.shared import efficientnet

SIZES = ((224, 224), (160, 160), (161, 127), (96, 130), (50, 50))  # even and odd, for their padding differs
TOLERANCE = 1e-5  # of the largest value of a map; both compute in float32


def pictures(height: int, width: int) -> Tensor:
    """Two pictures that are the same on every machine: (2, 3, height, width) in 0 to 1."""
    steps = torch.arange(2 * 3 * height * width, dtype=torch.int64)
    return ((steps * 7919 + steps**2 * 31) % 1009).float().div(1008).view(2, 3, height, width)


def published(x: Tensor) -> list[Tensor]:
    """The same maps by the other implementation."""
    from efficientnet_lite_pytorch import EfficientNet

    network: Any = EfficientNet.from_name(efficientnet.NAME, image_size=list(x.shape[2:])).eval()
    network.load_state_dict(torch.load(efficientnet.weights(), map_location="cpu", weights_only=True))
    x = network._swish(network._bn0(network._conv_stem((x * 255 - 127) / 128)))
    maps = []
    for i, block in enumerate(network._blocks):
        x = block(x)
        if i in efficientnet.MAPS:
            maps.append(x)
    return maps


def differences(sizes: Sequence[tuple[int, int]] = SIZES) -> dict[tuple[int, int], list[float]]:
    """The largest difference of each map, in shares of its largest value."""
    ours = efficientnet.load().eval()
    found = {}
    with torch.inference_mode():
        for height, width in sizes:
            x = pictures(height, width)
            pairs = zip(ours(x)[0], published(x), strict=True)
            found[height, width] = [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]
    return found


def main() -> None:
    for (height, width), apart in differences().items():
        print(f"{height}x{width}: {' '.join(f'{a:.1e}' for a in apart)}")
        assert max(apart) < TOLERANCE, f"wanted differences below {TOLERANCE:g}"


if __name__ == "__main__":
    main()
