"""What generated defects are worth on photographs of real parts:
`python -m benchmarks.inspection [SET ...] [--seeds 5]`.

Sets are in `benchmarks.parts`. Arms, all on the same splits and with the same number of pictures:

- on normals alone: `patchcore`, `simplenet`, and `normals`, which is round zero of the loops;
- `brightness`: how far the mean grey value lies from that of normals, a feature that should not tell anything;
- random anomalies: `cutpaste` and `perlin`;
- loops of the preset `inspect`: `retouch` (the writer is never aligned), `hard` (hard alone is chosen), `kka` (hard and
  learnable), `material` (the same with a vocabulary and a writer of the material), `no_schedule` (all hard ones train);
- `real`: the half of the real defects that nobody is tested on, the upper bound.

Figures go to benchmarks/results/inspection, a file a set, arm and seed. Resumable like `benchmarks.rounds`: what the
present code finished is not run again, and several processes share the work. Prints the tables of docs/inspection.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import parts, stamp
from benchmarks.digest import Code
from kka import datasets, detectors, evaluation
from kka.metrics import auroc
from kka.project import presets
from kka.project.config import Config, with_values
from kka.project.doctor import cores
from kka.records import Changes, Images, Splits, read_json, seed_of
from pipelines.loop import step
from pipelines.stage import make_run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "inspection"
WORK = HERE / "work" / "inspection"
FIGURES = {"AUROC": "auroc", "recall": "recall", "AUPRO": "aupro", "AUPRO 0.05": "aupro_05"}
# the defects of a set, for the arms that know the material; the others use the vocabulary that comes with kka
VOCABULARIES = HERE / "vocabularies"
LOOPS: dict[str, dict[str, Any]] = {
    "kka": {},
    "retouch": {"align.enabled": False, "assess.hopeless_quantile": 0.0},
    "hard": {"assess.hopeless_quantile": 0.0},
    "no_schedule": {"detect.hard_proportion.start": 1.0, "detect.hard_proportion.end": 1.0},
    "material": {},
}
ALONE = ("brightness", "patchcore", "simplenet")
RANDOM = ("cutpaste", "perlin")
ARMS = ("normals", *ALONE, *RANDOM, *LOOPS, "real")


def config(name: str, seed: int, work: Path, arm: str = "kka") -> Config:
    """The parameters of a loop of the preset `inspect` on a set."""
    part = parts.SETS[name]
    source, _ = parts.manifest(name, seed, work)
    values = {
        "seed": seed,
        "prepare.dataset": "csv",
        "prepare.image_size": part.side,
        "prepare.options": {"source": str(source), "near_duplicates": 0.0, "squeeze": part.squeeze},
        "detect.seeds": 1,  # the deviation is that over seeds of the whole loop
    }
    if arm == "material":
        values |= {"describe.model": str(work / f"{name}-writer")}
        values |= {"synthesize.options.vocabulary": str(VOCABULARIES / f"{name}.yaml")}
    return with_values(presets.config("inspect"), values | LOOPS.get(arm, {}))


def loop(name: str, arm: str, seed: int, work: Path) -> dict[str, Any]:
    """The figures of each round of a loop. What arms have in common, such as round zero, is done once."""
    chosen, root = config(name, seed, work, arm), work / f"{name}-{arm}-{seed}"
    rounds = ["r0", *chosen.lineage(chosen.last)]
    started = time.perf_counter()
    for stage, round_name in _steps(rounds, only_first=arm == "normals"):
        step(stage, make_run(chosen, root, [round_name]), work / "store")
    found = {
        r: {p.stem: read_json(p) for p in sorted((root / "metrics" / r).glob("*.json"))}
        for r in (rounds[:1] if arm == "normals" else rounds)
    }
    last = list(found.values())[-1]
    images = last["detect"]["images"] if "detect" in last else 0
    return {"last": last["evaluate"] | {"images": images}, "rounds": found, "seconds": time.perf_counter() - started}


def _steps(rounds: Sequence[str], *, only_first: bool) -> Iterator[tuple[str, str]]:
    yield from (("prepare", "r0"), ("baseline", "r0"), ("evaluate", "r0"))
    if only_first:
        return
    for name in rounds[1:]:
        for stage in ("describe", "synthesize", "assess", "detect", "evaluate", "align"):
            if (stage, name) != ("align", rounds[-1]):
                yield stage, name


def fitted(name: str, arm: str, seed: int, work: Path) -> dict[str, Any]:
    """The figures of one fit on a set's normals, with the arm's anomalies or none."""
    chosen = config(name, seed, work)
    options = chosen.detect.options
    splits = datasets.load("csv", seed_of(seed, "prepare", "r0"), chosen.prepare.image_size, **chosen.prepare.options)
    detector_name = arm if arm in ALONE else chosen.detect.detector
    if arm in ALONE:  # the same frozen features
        options = {key: value for key, value in options.items() if key in ("backbone", "layers", "tile")}
    started = time.perf_counter()
    anomalies, changes = _anomalies(name, arm, seed, splits, chosen)
    detector = detectors.create(detector_name, seed_of(seed, arm), **options)
    detector.fit(splits.train.images, anomalies, changes=changes)
    figures = measured(detector, splits, seed)
    images = 0 if anomalies is None else len(anomalies)
    return {"last": figures | {"images": images}, "seconds": time.perf_counter() - started}


def measured(detector: detectors.Detector, splits: Splits, seed: int) -> dict[str, Any]:
    found = evaluation.measure(
        detector, splits.test, splits.calibration, splits.validation, bootstrap=0, level=0.95, seed=seed
    )
    return found.figures


def _anomalies(name: str, arm: str, seed: int, splits: Splits, chosen: Config) -> tuple[Images | None, Changes | None]:
    normals, n = splits.train.images, chosen.describe.count * len(chosen.rounds)
    if arm == "cutpaste":
        return parts.cutpaste(normals, n, seed)
    if arm == "perlin":
        return parts.perlin(normals, parts.textures(normals.shape[1]), n, seed)
    if arm == "real":
        _, photos = parts.manifest(name, seed, WORK)
        return parts.real_defects(name, photos), None
    return None, None


def brightness(name: str, seed: int, work: Path) -> dict[str, Any]:
    """The distance of a picture's mean grey value from the mean of the normals'."""
    chosen = config(name, seed, work)
    splits = datasets.load("csv", seed_of(seed, "prepare", "r0"), chosen.prepare.image_size, **chosen.prepare.options)
    usual = splits.train.images.mean((1, 2, 3))
    scores = np.abs(splits.test.images.mean((1, 2, 3)) - usual.mean())
    return {"last": {"auroc": auroc(scores, splits.test.labels), "images": 0}, "seconds": 0.0}


def run(name: str, arm: str, seed: int, work: Path) -> dict[str, Any]:
    """The figures of an arm: `last` of its last detector, `seconds` that it took; of loops also those of each round."""
    if arm == "brightness":
        return brightness(name, seed, work)
    make: Callable[..., dict[str, Any]] = loop if arm in LOOPS or arm == "normals" else fitted
    if arm == "material":
        write_material(name, work)
    return make(name, arm, seed, work)


def write_material(name: str, work: Path) -> None:
    """Trains the writer of a set's own vocabulary, unless it is there."""
    from kka.mini.train import writer_of_defects

    folder = work / f"{name}-writer"
    if not folder.exists():
        writer_of_defects(folder, VOCABULARIES / f"{name}.yaml")


def code() -> Code:
    """What the figures depend on."""
    return Code("benchmarks/inspection.py", ("run",), presets.config("inspect"), also=("benchmarks/vocabularies",))


def table(results: dict[str, Any]) -> str:
    """Markdown: a row an arm, mean and standard deviation over seeds in each set; `error left` is that of 1 - AUROC, of
    the best of those on normals alone; images and minutes are means over all sets."""
    columns, cells = ["arm"], {arm: [arm] for arm in ARMS if any(_runs(results, name, arm) for name in parts.SETS)}
    for name in parts.SETS:
        runs = {arm: _runs(results, name, arm) for arm in cells}
        figures = [f for f, key in FIGURES.items() if any(key in run["last"] for of in runs.values() for run in of)]
        errors = {arm: 1 - statistics.mean(r["last"]["auroc"] for r in found) for arm, found in runs.items() if found}
        best = min((errors[arm] for arm in ("normals", *ALONE) if arm in errors), default=float("nan"))
        columns += [f"{name}: {figures[0]}", *figures[1:], "error left"] if figures else []
        for arm, row in cells.items():
            left = f"{errors[arm] / best:.2f}" if arm in errors else ""
            row += [*(_cell(runs[arm], FIGURES[figure]) for figure in figures), left] if figures else []
    for arm, row in cells.items():
        every = [run for name in parts.SETS for run in _runs(results, name, arm)]
        row.append(f"{statistics.mean(run['last']['images'] for run in every):.0f}")
        row.append(f"{statistics.mean(run['seconds'] for run in every) / 60:.1f}")
    head = [" | ".join([*columns, "images", "minutes"]), "|".join(["---"] * (len(columns) + 2))]
    lines = [f"| {head[0]} |", f"|{head[1]}|", *(f"| {' | '.join(row)} |" for row in cells.values())]
    return "\n".join([*lines, "", stamp.line(results.values())])


def _runs(results: dict[str, Any], name: str, arm: str) -> list[dict[str, Any]]:
    """The figures of an arm on a set, one for each seed."""
    return [found["figures"] for key, found in results.items() if key.rpartition("-")[0] == f"{name}-{arm}"]


def _cell(runs: Sequence[dict[str, Any]], figure: str) -> str:
    values = [run["last"][figure] for run in runs if figure in run["last"]]
    if not values:
        return ""
    return f"{statistics.mean(values):.3f}" + (f"±{statistics.stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(parts.SETS), metavar="SET", help=", ".join(parts.SETS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed: those from 100 on were used to decide")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    made = stamp.make(code())
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name in arguments.sets:
            for arm in arguments.arms:
                path = arguments.results / f"{name}-{arm}-{seed}.json"
                with stamp.claimed(path) as mine:
                    if mine and stamp.kept(path, made) is None:
                        stamp.write(path, run(name, arm, seed, arguments.work), made)
                        print(path.stem, read_json(path)["figures"]["last"].get("auroc"), flush=True)
    results = {path.stem: read_json(path) for path in sorted(arguments.results.glob("*.json"))}
    print(table(results))


if __name__ == "__main__":
    main()
