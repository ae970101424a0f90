"""How fast `kka predict` is beside its detector alone: `python -m benchmarks.predict [--pictures 5000] [--times 5]`.

Drawn flowers as PNG files, 32x32 and 64x64: pictures per second of the detector on decoded pictures, of decoding alone
in one thread, and of both as `kka predict` does it; mean and standard deviation over repetitions that take turns, and
the mean share that is reached of the detector's. How many steps the detector was fitted changes no speed, so it is
fitted for a few."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import stamp
from benchmarks.digest import Code
from kka import detectors
from kka.datasets import blossom
from kka.images import read_picture
from kka.project.doctor import cores
from kka.records import Images
from kka.scoring import Scorer


def measured(name: str, images: Images, paths: list[Path], times: int) -> list[str]:
    """The cells of a row: detector alone, decoding alone, predict, share."""
    size = images.shape[1]
    detector = detectors.create(name, 0, **({"steps": 20} if name in ("bce", "hsc", "simplenet") else {})).fit(
        images[:300]
    )
    scorer = Scorer(detector, np.sort(detector.score(images[:300])), size, False)

    def decoded() -> None:
        for path in paths:
            read_picture(path, size)

    ways: list[Callable[[], object]] = [lambda: detector.score(images), decoded, lambda: list(scorer.score(paths, []))]
    rates = np.array([[len(paths) / _seconds(way) for way in ways] for _ in range(times)])
    shares = rates[:, 2] / rates[:, 0]
    return [
        *(f"{m:,.0f} ± {s:,.0f}" for m, s in zip(rates.mean(0), rates.std(0), strict=True)),
        f"{shares.mean():.2f} ± {shares.std():.2f}",
    ]


def _seconds(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--detectors", nargs="+", default=["bce", "probe"], choices=detectors.names())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(cores())
    print(
        "| detector | side | detector alone, pictures/s | decoding alone | predict | share |\n|---|---|---|---|---|---|"
    )
    for size in (32, 64):
        rng = np.random.default_rng(0)
        images = blossom.draw(blossom.flowers(arguments.pictures, 0, rng), rng, size)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{i:06d}.png") for i in range(len(images))]
            for path, pixels in zip(paths, images, strict=True):
                Image.fromarray(pixels).save(path)
            for name in arguments.detectors:
                print(f"| {name} | {size} | {' | '.join(measured(name, images, paths, arguments.times))} |", flush=True)
    code = Code("benchmarks/predict.py", ("measured",), also=("kka/detectors",))
    print("", stamp.line([{"stamp": stamp.make(code)}]), sep="\n")


if __name__ == "__main__":
    main()
