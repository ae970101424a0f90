"""Real photographs: `python -m benchmarks.cifar100_bank --source FOLDER [--seeds 3]`, FOLDER with CIFAR-100's parquet
files.

The preset cifar100-bank on the same number of photographs and seeds: `normals` (round zero), `random` (photographs
drawn blindly from the archive), `no_dpo` and `kka`. Prints AUROC on furniture against the 50 classes that the archive
does not hold, mean and deviation, and writes benchmarks/results/cifar100_bank.json. Resumable: what is finished in
`--work` is kept. Seeds begin at 20: the preset's proportion of hard anomalies was settled on lower ones, by figures on
the same test pictures, for those do not depend on the seed."""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import stamp
from benchmarks.digest import Code
from kka import datasets, detectors
from kka.metrics import auroc
from kka.mini import lm
from kka.mini.train import divided
from kka.project import presets
from kka.project.config import Config, check_config
from kka.project.doctor import cores
from kka.records import read_json, seed_of
from pipelines.loop import run_loop

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cifar100_bank.json"
ROWS = ("random", "no_dpo", "kka")
FIRST = 20


CODE = Code("benchmarks/cifar100_bank.py", ("run",), presets.config("cifar100-bank"))


def configure(source: Path, writer: Path, seed: int, *, aligned: bool) -> Config:
    """The preset, with its photographs from `source` and its language model from `writer`."""
    raw = presets.config("cifar100-bank").model_dump()
    raw["seed"], raw["describe"]["model"], raw["align"]["enabled"] = seed, str(writer), aligned
    raw["prepare"]["options"]["source"] = str(source)
    raw["detect"]["seeds"] = 1  # as `random` is one fit
    return check_config(raw)


def train_writer(config: Config, out: Path) -> None:
    """The small writer of the preset, from the captions of normal and archived photographs."""
    if not (out / "model.safetensors").exists():
        wanted = config.prepare
        split = datasets.load(wanted.dataset, config.seed, wanted.image_size, **wanted.options)
        archive = datasets.archive(wanted.dataset, wanted.image_size, **wanted.options)
        texts = [line for caption in (*split.train.captions, *archive.captions) for line in caption.splitlines()]
        lm.train(out, *divided(texts), steps=800)


def run(source: Path, seed: int, work: Path) -> dict[str, dict[str, list[float]]]:
    """For each row the number of photographs and the AUROC, round after round."""
    writer = work / f"writer-{seed}"
    train_writer(configure(source, writer, seed, aligned=True), writer)
    found: dict[str, dict[str, list[float]]] = {}
    for name, aligned in (("no_dpo", False), ("kka", True)):
        config, root = configure(source, writer, seed, aligned=aligned), work / f"{name}-{seed}"
        run_loop(config, root, report=False)
        figures = [_read(root, r) for r in ["r0", *config.lineage(config.last)]]
        found[name] = {"photographs": [n for n, _ in figures], "auroc": [a for _, a in figures]}
    config = configure(source, writer, seed, aligned=True)
    counts = found["kka"]["photographs"]
    found["random"] = {
        "photographs": counts,
        "auroc": [found["kka"]["auroc"][0], *(_random(config, int(n)) for n in counts[1:])],
    }
    return found


def _read(root: Path, name: str) -> tuple[float, float]:
    folder = root / "metrics" / name
    seen = read_json(folder / "detect.json")["images"] if name != "r0" else 0
    return float(seen), float(read_json(folder / "evaluate.json")["auroc"])


def _random(config: Config, n: int) -> float:
    """AUROC after training on `n` photographs drawn blindly from the archive."""
    wanted = config.prepare
    splits = datasets.load(wanted.dataset, config.seed, wanted.image_size, **wanted.options)
    archive = datasets.archive(wanted.dataset, wanted.image_size, **wanted.options)
    chosen = np.random.default_rng(seed_of("random", config.seed)).permutation(len(archive))[:n]
    detector = detectors.create(config.detect.detector, seed_of("random", config.seed), **config.detect.options)
    detector.fit(splits.train.images, archive.images[chosen])
    return auroc(detector.score(splits.test.images), splits.test.labels)


def table(found: dict[str, Any]) -> str:
    """Markdown: AUROC by row and round, mean and deviation over seeds; in brackets the photographs. r0 has seen normals
    only."""
    results = found["figures"]
    rounds = len(next(iter(results.values()))["kka"]["auroc"])
    lines = [f"| trained on | {' | '.join(f'r{k}' for k in range(rounds))} |", f"|---|{'---|' * rounds}"]
    for name in ROWS:
        runs = [by_row[name] for by_row in results.values()]
        cells = [
            f"{_mean([r['auroc'][k] for r in runs])} ({statistics.mean(r['photographs'][k] for r in runs):.0f})"
            for k in range(rounds)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", stamp.line([found])])


def _mean(values: list[float]) -> str:
    spread = f"±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="folder with CIFAR-100's train.parquet and test.parquet"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/cifar100"), help="folder for the runs")
    parser.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    made = stamp.make(CODE)
    results = stamp.kept(RESULTS, made) or {}
    for seed in range(FIRST, FIRST + arguments.seeds):
        if str(seed) not in results:
            results[str(seed)] = run(arguments.source.resolve(), seed, arguments.work)
            stamp.write(RESULTS, results, made)
    print(table(read_json(RESULTS)))


if __name__ == "__main__":
    main()
