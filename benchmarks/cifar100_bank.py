"""Real photographs: `python -m benchmarks.cifar100_bank --source FOLDER [--seeds 3]`, FOLDER with CIFAR-100's parquet
files.

The preset cifar100-bank on the same number of photographs and seeds: `normals` (round zero), `random` (photographs
drawn blindly from the archive), `no_dpo` and `kka`. Prints AUROC on furniture against the 50 classes that the archive
does not hold, mean and deviation, and writes benchmarks/results/cifar100_bank.json. Resumable: what is finished in
`--work` is kept. Seeds begin at 20: the preset's proportion of hard anomalies was settled on lower ones, by figures on
the same test pictures, for those do not depend on the seed."""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kka import datasets, detectors
from kka.metrics import auroc
from kka.mini import lm
from kka.project import presets
from kka.project.config import Config, check_config
from kka.project.doctor import cores
from kka.records import seed_of, write_json
from pipelines.loop import run_loop

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cifar100_bank.json"
ROWS = ("random", "no_dpo", "kka")
FIRST = 20


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
        lm.train(out, texts, steps=800)


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
    seen = json.loads((folder / "detect.json").read_text())["images"] if name != "r0" else 0
    return float(seen), float(json.loads((folder / "evaluate.json").read_text())["auroc"])


def _random(config: Config, n: int) -> float:
    """AUROC after training on `n` photographs drawn blindly from the archive."""
    wanted = config.prepare
    splits = datasets.load(wanted.dataset, config.seed, wanted.image_size, **wanted.options)
    archive = datasets.archive(wanted.dataset, wanted.image_size, **wanted.options)
    chosen = np.random.default_rng(seed_of("random", config.seed)).permutation(len(archive))[:n]
    detector = detectors.create(config.detect.detector, seed_of("random", config.seed), **config.detect.options)
    detector.fit(splits.train.images, archive.images[chosen])
    return auroc(detector.score(splits.test.images), splits.test.labels)


def table(results: dict[str, Any]) -> str:
    """Markdown: AUROC by row and round, mean and deviation over seeds; in brackets the photographs."""
    rounds = len(next(iter(results.values()))["kka"]["auroc"])
    lines = [f"| trained on | {' | '.join(f'r{k}' for k in range(rounds))} |", f"|---|{'---|' * rounds}"]
    for name in ROWS:
        runs = [found[name] for found in results.values()]
        cells = [
            f"{_mean([r['auroc'][k] for r in runs])} ({statistics.mean(r['photographs'][k] for r in runs):.0f})"
            for k in range(rounds)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\nr0 has seen normals only."


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
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
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for seed in range(FIRST, FIRST + arguments.seeds):
        if str(seed) not in results:
            results[str(seed)] = run(arguments.source.resolve(), seed, arguments.work)
            write_json(RESULTS, results)
    print(table(results))


if __name__ == "__main__":
    main()
