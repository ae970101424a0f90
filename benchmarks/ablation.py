"""What each part of KKA is worth, for every detector: `python -m benchmarks.ablation [--seeds 5] [--backbone
REFERENCE]`.

Every detector is fitted on the same pictures: the pool of the loop's last round, with the default detector as
evaluator. Rows, on the same normals, seeds, training steps and number n of anomalies (that of KKA's last mixture):

    a  normals only
    b  n random anomalies (CutPaste and noise; on photographs rotations too, but a flower that is turned is a flower)
    c  language model without DPO, no grading
    d  language model without DPO, graded, with the hard schedule
    e  DPO, without the hard schedule
    f  KKA
    g  n true anomalies: what there is to win. Blossom: drawn at distance 1; cifar100-bank: other photographs of the
       tested classes

c to f also train with the loop's generated normals, as KKA does; the others have none. Where the schedule's cap on hard
ones never binds, as on blossom, d has the pictures of c and f those of e: then the table cannot say what the schedule
is worth.

`--source FOLDER` (with CIFAR-100's parquet files) takes the preset cifar100-bank instead of blossom, and of its test
split all normals and 30 photographs of each anomalous class. `--backbone` is what the detectors on frozen features
stand on, as kka.detectors.shared.backbones names it; the built-in one has learnt blossom's attributes from labels, so
on blossom it proves nothing. Also prints AUROC over the number of pictures made, and the false positives at the
threshold, and draws docs/ablation-*.png. Resumable: each fit is kept in benchmarks/results/ablation. Seeds begin at
20."""

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import cifar100_bank, stamp
from benchmarks.digest import Code
from kka import datasets, detectors, evaluation
from kka.confusion import hard_proportion, mixture
from kka.controls import to_measure_on, training_controls
from kka.datasets import blossom
from kka.detectors.shared import augment
from kka.detectors.shared.backbones import BUILT_IN
from kka.detectors.shared.networks import seeded
from kka.metrics import separation
from kka.project import presets
from kka.project.config import Config, check_config
from kka.project.doctor import cores
from kka.records import Anomaly, Split, Splits, read_json, read_records, seed_of, write_json
from pipelines.loop import run_loop
from pipelines.stage import Run, make_run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ablation"
DETECTORS = [name for name in detectors.names() if name != "corrected"]  # that is for photographs: `inspection`
ROWS = {
    "a": "normals only",
    "b": "random anomalies",
    "c": "no DPO, not graded",
    "d": "no DPO, hard schedule",
    "e": "DPO, not graded",
    "f": "KKA",
    "g": "true anomalies",
}
# fewer patches than the defaults, so that five seeds take an hour or two on two cores; and for patchcore the mean over
# patches, for these anomalies are odd as a whole. The same in every row
SMALLER: dict[str, dict[str, Any]] = {
    "simplenet": {"most_patches": 40_000},
    "patchcore": {"most_patches": 40_000, "most_stored": 1500, "top_share": 1.0},
}
CURVES = {"blossom": (25, 50, 100, 200, 300, 400, 500), "cifar100-bank": (50, 150, 300, 450)}
TESTED = 30
CURVE_OF = ("bce", "probe")
Images = NDArray[np.uint8]


class World:
    """One seed of one data set: its splits, and the pools of both loops, which are run when they are first asked
    for."""

    def __init__(self, seed: int, work: Path, source: Path | None) -> None:
        self.seed, self.work, self.source = seed, work, source
        self.data = _data(source)
        self._runs: dict[bool, Run] = {}

    def config(self, *, aligned: bool) -> Config:
        if self.source:
            return cifar100_bank.configure(self.source, self.work / f"writer-{self.seed}", self.seed, aligned=aligned)
        raw = presets.config("blossom").model_dump()
        raw["seed"], raw["align"]["enabled"], raw["detect"]["seeds"] = self.seed, aligned, 1
        return check_config(raw)

    @cached_property
    def splits(self) -> Splits:
        return self._load()

    def _load(self, **options: Any) -> Splits:
        prepare = self.config(aligned=True).prepare
        return datasets.load(prepare.dataset, self.seed, prepare.image_size, **{**prepare.options, **options})

    @cached_property
    def test(self) -> Split:
        """The test split; of thousands of photographs those that two cores can score some hundred times."""
        split = self.splits.test
        if not self.source:
            return split
        groups, rng = np.array(split.groups), np.random.default_rng(seed_of("ablation", "test"))
        rows = [np.flatnonzero(groups == name) for name in dict.fromkeys(split.groups)]
        kept = np.sort(
            np.concatenate([found if not split.labels[found[0]] else rng.permutation(found)[:TESTED] for found in rows])
        )
        return Split(
            split.images[kept], tuple(split.captions[i] for i in kept), split.labels[kept], tuple(groups[kept].tolist())
        )

    def run(self, *, aligned: bool) -> Run:
        """The last round of a loop, run to its end."""
        if aligned not in self._runs:
            self._runs[aligned] = self._run(aligned=aligned)
        return self._runs[aligned]

    def _run(self, *, aligned: bool) -> Run:
        config, root = self.config(aligned=aligned), self.work / f"{'kka' if aligned else 'no_dpo'}-{self.seed}"
        if self.source:
            cifar100_bank.train_writer(config, self.work / f"writer-{self.seed}")
        run_loop(config, root, report=False)
        return make_run(config, root, [config.last])

    def graded(self, *, aligned: bool, schedule: bool, most: int | None = None) -> Images:
        """Pictures of the pool, in its order: those of the scheduled mixture, or `most` at random."""
        run, rng = self.run(aligned=aligned), np.random.default_rng(seed_of("ablation", self.seed))
        pool = read_records(run.root.joinpath("data", run.round, "pool.jsonl"), Anomaly)
        chosen = pool
        if schedule:
            rounds = len(run.config.lineage(run.round))
            chosen = mixture(pool, hard_proportion(rounds, **run.config.detect.hard_proportion.model_dump()), rng)[0]
        ids = {a.id for a in rng.permutation(np.array(chosen, dtype=object))[:most]}
        return run.layout.read_pictures([a for a in pool if a.id in ids])

    @cached_property
    def n(self) -> int:
        return len(self.graded(aligned=True, schedule=True))

    def anomalies(self, row: str) -> tuple[Images | None, Images | None]:
        """What a row trains with: anomalies, generated normals."""
        if row == "a":
            return None, None
        if row == "b":
            return random_anomalies(self.splits.train.images, self.n, self.seed, turned=self.source is not None), None
        if row == "g":
            return self._true(), None
        aligned, schedule = row in "ef", row in "df"
        return self.graded(aligned=aligned, schedule=schedule, most=self.n), self.controls(aligned=aligned)

    def controls(self, *, aligned: bool) -> Images | None:
        """The generated normals of all rounds that detectors train on."""
        run = self.run(aligned=aligned)
        rounds = run.config.lineage(run.round)
        return training_controls([run.layout.round(name).read_controls() for name in rounds])

    def first(self, n: int, *, aligned: bool) -> tuple[Images, Images | None]:
        """The first `n` pictures that a loop made, which is what a budget of n buys."""
        run = self.run(aligned=aligned)
        pool = read_records(run.root.joinpath("data", run.round, "pool.jsonl"), Anomaly)
        return run.layout.read_pictures(pool[:n]), self.controls(aligned=aligned)

    def _true(self) -> Images:
        if self.source:
            split = self._load(validation=self.n).validation
            found: Images = split.images[split.labels == 1]
            return found
        rng = np.random.default_rng(seed_of("ablation", "true", self.seed))
        return blossom.draw(blossom.flowers(self.n, 1, rng), rng)


def random_anomalies(normals: Images, n: int, seed: int, *, turned: bool) -> Images:
    """Half CutPaste-like, half noised all over; or a quarter of those noised, a quarter `turned` by 90, 180 or 270
    degrees."""
    rng = np.random.default_rng(seed_of("ablation", "random", seed))
    x = torch.from_numpy(normals[rng.integers(len(normals), size=n)]).permute(0, 3, 1, 2).float() / 255
    with seeded("ablation", seed):
        pasted, noisy = augment.cut_paste(x), x + torch.randn_like(x) * (0.1 + 0.3 * torch.rand(n, 1, 1, 1))
    turns = torch.stack([torch.rot90(p, int(k), (1, 2)) for p, k in zip(x, rng.integers(1, 4, size=n), strict=True)])
    kind = torch.arange(n)[:, None, None, None] % 4
    made = torch.where(kind < 2, pasted, turns if turned else noisy)
    made = torch.where(kind == 2, noisy, made).clamp(0, 1)
    return (made * 255).round().byte().permute(0, 2, 3, 1).numpy()


def create(name: str, seed: int, backbone: str | None) -> detectors.Detector:
    options = dict(SMALLER.get(name, {}))
    if backbone and name in ("simplenet", "patchcore", "probe"):
        options["backbone"] = backbone
    return detectors.create(name, seed_of("ablation", name, seed), **options)


def measure(world: World, detector: detectors.Detector) -> dict[str, float]:
    """Figures of a fitted detector on the test split, and of the generated normals that no detector trained on."""
    test, scores = world.test, detector.score(world.test.images)
    boundary = detector.score(world.splits.calibration.images)
    found = evaluation.evaluate(scores, test.labels, test.groups, boundary, bootstrap=0, level=0.95, seed=0)
    figures = {"auroc": found["auroc"], "false positives": found["false_positive_rate"]}
    if "distance 1" in found["groups"]:
        figures["distance 1"] = found["groups"]["distance 1"]
    controls = world.run(aligned=True).files.read_controls()
    if controls is not None:
        controls = to_measure_on(controls)
        figures["controls"] = separation(boundary, detector.score(controls))
    return figures


def fits(
    world: World, names: list[str]
) -> Iterator[tuple[str, str, Callable[[], tuple[Images | None, Images | None]]]]:
    """Every fit of a seed: its key, the detector, and what it trains with."""
    for row in ROWS:
        yield from ((f"{row} {name}", name, lambda row=row: world.anomalies(row)) for name in names)
    for n in CURVES[world.data]:
        for aligned in (False, True):
            yield from (
                (f"{'kka' if aligned else 'no_dpo'} {n} {name}", name, lambda n=n, a=aligned: world.first(n, aligned=a))
                for name in CURVE_OF
                if name in names
            )


def settle(folder: Path, settings: dict[str, Any]) -> None:
    """Keeps what the fits in the folder stand on. Ends where others are there: they would be mixed in one table."""
    path = folder / "settings.json"
    if path.exists() and (found := read_json(path)) != settings:
        sys.exit(f"{folder}: the fits there stand on {found}, wanted {settings}. Move the folder away.")
    write_json(path, settings)


def code(data: str) -> Code:
    """What the figures on a data set depend on."""
    return Code("benchmarks/ablation.py", ("run",), presets.config(data), also=("kka/detectors",))


def run(world: World, names: list[str], backbone: str | None, path: Path, made: stamp.Stamp) -> None:
    """Fits what is not there yet, or was fitted by other code; the same pictures are not fitted twice."""
    results = stamp.kept(path, made) or {}
    done: dict[str, str] = {found["pictures"]: key for key, found in results.items()}
    for key, name, given in fits(world, names):
        if key in results:
            continue
        anomalies, normals = given()
        shown = hashlib.sha256(b"".join(a.tobytes() for a in (anomalies, normals) if a is not None)).hexdigest()[:16]
        mark = f"{name} {shown}"
        if mark in done:
            results[key] = results[done[mark]]
        else:
            detector = create(name, world.seed, backbone)
            detector.fit(world.splits.train.images, anomalies, generated_normals=normals)
            results[key] = {
                "pictures": mark,
                "n": 0 if anomalies is None else len(anomalies),
                **measure(world, detector),
            }
            done[mark] = key
        stamp.write(path, results, made)
        print(world.seed, key, {k: v for k, v in results[key].items() if k != "pictures"}, flush=True)


def complete(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """The seeds of which every fit is there."""
    wanted = [f"{row} {name}" for row in ROWS for name in names]
    wanted += [
        f"{loop} {n} {name}"
        for loop in ("no_dpo", "kka")
        for n in CURVES[folder.name]
        for name in CURVE_OF
        if name in names
    ]
    found = [read_json(path) for path in sorted(folder.glob("[0-9]*.json"))]
    return [result for result in found if result["figures"].keys() >= set(wanted)]


def tables(results: list[dict[str, Any]], names: list[str]) -> Iterator[str]:
    """Markdown: AUROC by row and detector, mean and deviation over seeds; the share of the way from a to g; then the
    rest."""
    runs = [result["figures"] for result in results]
    figure = _figure(runs)
    for what in dict.fromkeys((figure, "auroc")):
        yield f"AUROC{' at distance 1' if what == 'distance 1' else ''}:\n\n" + _table(runs, names, what)
    yield "Of the way from a to g, by the means above:\n\n" + "\n".join(_closed(runs, names, figure))
    for what, title in (
        ("controls", "Generated normals against real ones (0.5 is ideal)"),
        ("false positives", "False positives at the threshold (0.05 is expected)"),
    ):
        if what in runs[0][f"f {names[0]}"]:
            yield f"{title}:\n\n" + _table(runs, names, what)
    for name in (n for n in CURVE_OF if n in names):
        yield (
            f"{name}, AUROC{' at distance 1' if figure != 'auroc' else ''} over the first n pictures made:\n\n"
            + "\n".join(_curve(runs, name, figure))
        )
    yield stamp.line(results)


def plot(runs: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Rows by detector, a dot a seed, and the curves over the number of pictures."""
    from matplotlib.figure import Figure

    figure = _figure(runs)
    drawing = Figure(figsize=(11, 4), layout="constrained")
    left, right = drawing.subplots(1, 2, width_ratios=[2, 1])
    shown = {"a": "0.6", "b": "tab:olive", "c": "tab:blue", "f": "tab:red", "g": "tab:green"}
    for i, (row, colour) in enumerate(shown.items()):
        for place, name in enumerate(names):
            values = [r[f"{row} {name}"][figure] for r in runs]
            x = place + 0.14 * (i - 2)
            left.plot([x] * len(values), values, "o", ms=3, alpha=0.5, color=colour)
            left.plot(
                [x - 0.05, x + 0.05],
                [statistics.mean(values)] * 2,
                color=colour,
                lw=2.5,
                label=ROWS[row] if place == 0 else None,
            )
    left.set_xticks(range(len(names)), names)
    for row, style in (("no_dpo", "--"), ("kka", "-")):
        for name, colour in zip([n for n in CURVE_OF if n in names], ("tab:red", "tab:blue"), strict=False):
            means = [statistics.mean(r[f"{row} {n} {name}"][figure] for r in runs) for n in _budgets(runs, name)]
            right.plot(
                _budgets(runs, name), means, style, color=colour, label=f"{name}, {'KKA' if row == 'kka' else 'no DPO'}"
            )
    right.set_xlabel("pictures made")
    for axes in (left, right):
        axes.set_ylabel(f"AUROC{' at distance 1' if figure == 'distance 1' else ''}")
        axes.legend(fontsize=8, ncol=5 if axes is left else 2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.grid(alpha=0.3)
    drawing.savefig(path, dpi=110, metadata={"Software": None})


def _figure(runs: list[dict[str, Any]]) -> str:
    return "distance 1" if "distance 1" in next(iter(runs[0].values())) else "auroc"


def _head(first: str, cells: list[str]) -> list[str]:
    return [f"| {first} | {' | '.join(cells)} |", f"|---|{'---|' * len(cells)}"]


def _table(runs: list[dict[str, Any]], names: list[str], figure: str) -> str:
    """A row each; one for those that are the same."""
    same: dict[str, list[str]] = {}
    for row, title in ROWS.items():
        cells = " | ".join(_cell([r[f"{row} {name}"][figure] for r in runs]) for name in names)
        same.setdefault(cells, []).append(f"{row}: {title}")
    lines = _head("", names)
    return "\n".join([*lines, *(f"| {'; '.join(rows)} | {cells} |" for cells, rows in same.items())])


def _closed(runs: list[dict[str, Any]], names: list[str], figure: str) -> list[str]:
    def mean(row: str, name: str) -> float:
        return statistics.mean(float(r[f"{row} {name}"][figure]) for r in runs)

    lines = _head("", names)
    for row in "bcdef":
        shares = [(mean(row, n) - mean("a", n)) / (mean("g", n) - mean("a", n)) for n in names]
        lines.append(f"| {row}: {ROWS[row]} | {' | '.join(f'{100 * s:.0f}%' for s in shares)} |")
    return lines


def _curve(runs: list[dict[str, Any]], name: str, figure: str) -> list[str]:
    budgets = _budgets(runs, name)
    lines = _head("n", [str(n) for n in budgets])
    for row in ("no_dpo", "kka"):
        lines.append(
            f"| {row} | {' | '.join(_cell([r[f'{row} {n} {name}'][figure] for r in runs]) for n in budgets)} |"
        )
    return lines


def _budgets(runs: list[dict[str, Any]], name: str) -> list[int]:
    return sorted(int(key.split()[1]) for key in runs[0] if key.startswith("kka ") and key.endswith(f" {name}"))


def _data(source: Path | None) -> str:
    return "cifar100-bank" if source else "blossom"


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f"±{statistics.stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=20)
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, choices=DETECTORS)
    parser.add_argument("--backbone", help="for the detectors on frozen features")
    parser.add_argument("--source", type=Path, help="folder with CIFAR-100's train.parquet and test.parquet")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder for the loops")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--print", action="store_true", help="print the tables of what there is")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    data = _data(arguments.source)
    if not arguments.print:
        settle(RESULTS / data, {"backbone": Path(arguments.backbone or BUILT_IN).name, "options": SMALLER})
    made = stamp.make(code(data))
    for seed in [] if arguments.print else range(arguments.first, arguments.first + arguments.seeds):
        world = World(seed, arguments.work, arguments.source and arguments.source.resolve())
        run(world, arguments.detectors, arguments.backbone, RESULTS / data / f"{seed}.json", made)
    found = complete(RESULTS / data, arguments.detectors)
    if not found:
        sys.exit(f"{RESULTS / data} holds no seed with every fit of {', '.join(arguments.detectors)}.")
    print(*tables(found, arguments.detectors), sep="\n\n")
    plot([result["figures"] for result in found], arguments.detectors, HERE.parent / "docs" / f"ablation-{data}.png")


if __name__ == "__main__":
    main()
