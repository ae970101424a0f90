"""How fast `kka predict` is beside its detector alone: `python -m benchmarks.predict [--pictures 5000] [--times 5]`.

Drawn flowers as PNG files, 32x32 and 64x64: pictures per second of the detector on decoded pictures, of decoding alone
in one thread, and of both as `kka predict` does it; mean and standard deviation over repetitions that take turns, and
the mean share that is reached of the detector's. How many steps the detector was fitted changes no speed, so it is
fitted for a few.

And how fast it tells where pictures are anomalous, 256x256: pictures per second with maps and regions, and the seconds
that one picture alone takes, from its file to its regions, the detector being loaded."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import stamp
from benchmarks.digest import Code
from kka import detectors
from kka.datasets import blossom
from kka.detectors.shared.backbones import BUILT_IN
from kka.images import read_picture
from kka.project.doctor import cores
from kka.records import Images
from kka.regions import calibrate
from kka.scoring import Scorer

MAPPED, LARGE = ("patchcore", "simplenet"), 200  # detectors with maps, and pictures of 256 pixels


@contextmanager
def written(n: int, size: int) -> Iterator[tuple[Images, list[Path]]]:
    """Drawn flowers, and the PNG files that hold them."""
    rng = np.random.default_rng(0)
    images = blossom.draw(blossom.flowers(n, 0, rng), rng, size)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i:06d}.png") for i in range(n)]
        for path, pixels in zip(paths, images, strict=True):
            Image.fromarray(pixels).save(path)
        yield images, paths


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


def located(name: str, backbone: str, images: Images, paths: list[Path], times: int) -> list[str]:
    """The cells of a row: with maps and regions, one picture alone."""
    options = {"backbone": backbone, "layers": [0, 1], "most_patches": 20_000}
    detector = detectors.create(name, 0, **options, **({"steps": 20} if name == "simplenet" else {})).fit(images[:50])
    scores, threshold = calibrate(detector, images[:50])
    scorer = Scorer(detector, np.sort(scores), images.shape[1], False, threshold)

    def predicted(some: list[Path]) -> None:
        for scored in scorer.score(some, [], maps=True):
            assert scored.map is not None
            scorer.regions(scored.map, scored.size)

    predicted(paths[:1])  # the first call pays for what every later one finds ready
    rates = np.array([len(paths) / _seconds(lambda: predicted(paths)) for _ in range(times)])
    alone = np.array([1000 * _seconds(lambda: predicted(paths[:1])) for _ in range(20)])
    return [f"{rates.mean():.1f} ± {rates.std():.1f}", f"{alone.mean():.0f} ± {alone.std():.0f}"]


def _seconds(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--detectors", nargs="+", default=["bce", "probe"], choices=detectors.names())
    parser.add_argument("--backbones", nargs="+", default=[BUILT_IN])
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(cores())
    print(
        "| detector | side | detector alone, pictures/s | decoding alone | predict | share |\n|---|---|---|---|---|---|"
    )
    for size in (32, 64):
        with written(arguments.pictures, size) as (images, paths):
            for name in arguments.detectors:
                print(f"| {name} | {size} | {' | '.join(measured(name, images, paths, arguments.times))} |", flush=True)
    print("\n| detector | backbone | with maps and regions, pictures/s | one picture alone, ms |\n|---|---|---|---|")
    with written(LARGE, 256) as (images, paths):
        for name in MAPPED:
            for backbone in arguments.backbones:
                cells = located(name, backbone, images, paths, arguments.times)
                print(f"| {name} | {backbone} | {' | '.join(cells)} |", flush=True)
    code = Code("benchmarks/predict.py", ("measured", "located"), also=("kka/detectors",))
    print("", stamp.line([{"stamp": stamp.make(code)}]), sep="\n")


if __name__ == "__main__":
    main()
