"""The gap between generated and real pictures, and what closes it: `python -m benchmarks.gap [--seeds 3]`.

For each seed, 200 descriptions of the unaligned language model are drawn exactly and generated. The default detector
learns from either, with and without what might close the gap: blur and noise, generated normals in training, real
pictures to begin with, spectra matched to real ones. Two figures tell how far apart generated and real are: AUROC at
distance 1, and the AUROC between fresh generated normals and real ones (0.5: they cannot be told apart). It is scored
on drawings that no test split of the other benchmarks holds. Writes benchmarks/results/gap, a file a seed. Resumable:
what the present code made is not made again. Several processes may run the same command side by side."""

import argparse
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import stamp
from benchmarks.digest import Code
from kka import detectors
from kka.datasets import blossom
from kka.describing.writer import Writer
from kka.metrics import auroc, separation
from kka.mini.lm import PROMPT
from kka.project.doctor import cores
from kka.records import Split, Splits, read_json, seed_of
from kka.spectrum import apply_gains, spectral_gains
from kka.synthesizers.diffusion import Synthesizer

RESULTS = Path(__file__).parent / "results" / "gap"
CODE = Code("benchmarks/gap.py", ("run",), also=("kka/detectors/bce.py", "kka/mini/lm", "kka/mini/t2i"))
MINI = Path(blossom.__file__).parent.parent / "mini"
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Way:
    """How pictures are made and shown: drawn, from text, or from a normal picture drowned in 0.8 of the noise."""

    how: str | None = None
    matched: bool = False
    shown: bool = False
    options: dict[str, Any] = field(default_factory=dict)


WAYS = {
    "normals only": Way(),
    "drawn instead": Way("drawn"),
    "generated, nothing done": Way("text"),
    "+ blur and noise on everything": Way("text", options={"degrade": 0.5}),
    "+ generated normals": Way("text", shown=True),
    "+ generated normals, image-to-image 0.8": Way("image", shown=True),
    "+ spectrum matched": Way("text", matched=True),
    "+ spectrum matched, generated normals (default)": Way("text", matched=True, shown=True),
}


def describe(n: int, seed: int) -> list[str]:
    """`n` readable anomalies from the unaligned language model."""
    writer = Writer.load(str(MINI / "lm"))
    seeds = [seed_of("gap", seed, i) for i in range(2 * n)]
    texts = [t.strip() for t in writer.describe([PROMPT] * len(seeds), seeds, temperature=1.0, max_new_tokens=40)]
    return [t for t, d in zip(texts, blossom.text_distances(texts), strict=True) if d][:n]


def make(how: str, texts: list[str], normals: Images, seed: int) -> Images:
    """Pictures of the texts: drawn, from text alone, or beginning at a normal picture."""
    if how == "drawn":
        rows = np.array([blossom.parse(t) for t in texts])
        return blossom.draw(rows, np.random.default_rng(seed))
    begin: dict[str, Any] = {"strength": 0.8, "normals": normals} if how == "image" else {}
    synthesizer = Synthesizer(str(MINI / "t2i"), **begin)
    seeds = [seed_of("gap", how, seed, i) for i in range(len(texts))]
    return np.concatenate(
        [synthesizer.synthesize(texts[i : i + 50], seeds[i : i + 50]) for i in range(0, len(texts), 50)]
    )


def run(seed: int) -> dict[str, dict[str, float]]:
    splits, texts = blossom.load(seed), describe(200, seed)
    unseen, normals = blossom.load(1000 + seed).test, splits.train.images
    pictures: dict[str, tuple[Images, Images]] = {}
    found = {}
    for name, way in WAYS.items():
        if way.how and way.how not in pictures:
            captions = list(splits.train.captions[:128])
            pictures[way.how] = make(way.how, texts, normals, seed), make(way.how, captions, normals, seed + 1)
        anomalies, controls = pictures[way.how] if way.how else (None, normals[:0])
        if way.matched and anomalies is not None:
            gains = spectral_gains(controls[:64], normals)
            anomalies, controls = apply_gains(anomalies, gains), apply_gains(controls, gains)
        detector = detectors.create("bce", seed_of("gap", "detector", seed), **way.options)
        detector.fit(normals, anomalies, generated_normals=controls[:64] if way.shown else None)
        found[name] = _figures(detector, splits, unseen, controls[64:])
        print(seed, name, found[name], flush=True)
    return found


def _figures(detector: detectors.Detector, splits: Splits, unseen: Split, controls: Images) -> dict[str, float]:
    near = np.array([g in ("normal", "distance 1") for g in unseen.groups])
    scores = detector.score(unseen.images)
    gap = (
        {}
        if not len(controls)
        else {"controls": separation(detector.score(splits.calibration.images), detector.score(controls))}
    )
    return {"auroc": auroc(scores, unseen.labels), "distance 1": auroc(scores[near], unseen.labels[near]), **gap}


def table(results: dict[str, Any]) -> str:
    """Markdown: a row a way, mean and deviation over seeds."""
    lines = ["| trained on | AUROC | AUROC at distance 1 | generated against real normals |", "|---|---|---|---|"]
    for way in WAYS:
        cells = []
        for figure in ("auroc", "distance 1", "controls"):
            values = [found["figures"][way][figure] for found in results.values() if figure in found["figures"][way]]
            spread = f"±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", stamp.line(results.values())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    made = stamp.make(CODE)
    for seed in range(arguments.seeds):
        path = RESULTS / f"{seed}.json"
        with stamp.claimed(path) as mine:
            if mine and stamp.kept(path, made) is None:
                stamp.write(path, run(seed), made)
    print(table({path.stem: read_json(path) for path in sorted(RESULTS.glob("*.json"))}))


if __name__ == "__main__":
    main()
