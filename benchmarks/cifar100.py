"""How many photographs it takes: `python -m benchmarks.cifar100 --source FOLDER --backbone REFERENCE [--seeds 5]
[--detectors ...]`.

CIFAR-100 with household furniture as normal, as in the preset cifar100-bank: anomalies to train with are photographs of
45 known classes, the test has furniture and the 50 other classes alone. Every detector is fitted on 20, 40, 80, 160 and
320 photographs:

    random  drawn blindly from the 4,500 of the known classes
    kka     those that KKA asks for, 20 in round one, as many as all before in each of the four rounds after, the
            detector `probe` as evaluator; what its schedule leaves out counts, for it was made. Where an alignment
            falls apart, the next round goes on with the adapter before

and on none. Prints AUROC, mean and deviation over seeds, and how many photographs of KKA's are worth 160 random ones.
`--backbone` is that of the detectors on frozen features; the built-in one knows drawn flowers, not photographs. Tested
are all 500 normals and 30 photographs of each unknown class. Resumable: each fit is kept in
benchmarks/results/cifar100. Seeds begin at 20."""

import argparse
import shutil
import statistics
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import ablation, cifar100_bank, stamp
from benchmarks.digest import Code
from kka import datasets, detectors
from kka.confusion import mixture
from kka.detectors.shared.backbones import BUILT_IN
from kka.errors import KkaError
from kka.metrics import auroc
from kka.project import presets
from kka.project.config import Config, check_config
from kka.project.doctor import cores
from kka.records import Anomaly, read_json, read_records, seed_of
from pipelines import align
from pipelines.stage import make_run

RESULTS = Path(__file__).parent / "results" / "cifar100"
BUDGETS = (20, 40, 80, 160, 320)
WORTH = 160  # random photographs, which KKA is to match with fewer
QUANTILE = 0.5  # hard: below this quantile of the normals' scores; at 0.95 round zero takes all photographs for normal
HARD = 0.9  # the most of the training photographs that may be hard
Images = NDArray[np.uint8]


class World(ablation.World):
    """One seed: its splits, its archive, and KKA's photographs, which are asked for when they are first needed."""

    def __init__(self, seed: int, work: Path, source: Path, backbone: str | None) -> None:
        super().__init__(seed, work, source)
        self.backbone = backbone

    def writing(self, budget: int) -> Config:
        """KKA up to the round that reaches the budget."""
        raw = self.config(aligned=True).model_dump()
        names = [f"r{i + 1}" for i in range(len(BUDGETS))]
        raw["rounds"] = {name: {"prev": f"r{i}"} for i, name in enumerate(names)}
        place = BUDGETS.index(budget)
        raw["last"] = names[place]
        raw["describe"]["count"] = budget - (BUDGETS[place - 1] if place else 0)
        raw["detect"]["detector"], raw["detect"]["options"] = (
            "probe",
            {"backbone": self.backbone} if self.backbone else {},
        )
        raw["assess"]["quantile"] = QUANTILE
        raw["detect"]["hard_proportion"] = {"start": HARD, "end": HARD, "rounds": 1}
        return check_config(raw)

    def asked_for(self, budget: int) -> Images:
        """What KKA trains with once it has seen `budget` photographs."""
        root = self.work / f"budgets-{self.seed}"
        self._write(root)
        config = self.writing(budget)
        run = make_run(config, root, [config.last])
        pool = read_records(run.root.joinpath("data", run.round, "pool.jsonl"), Anomaly)
        rng = np.random.default_rng(run.seed("mixture"))
        return run.layout.read_pictures(mixture(pool, HARD, rng)[0])

    def _write(self, root: Path) -> None:
        """Runs the rounds that have not been run, each with its own count."""
        if (root / "done").exists():
            return
        cifar100_bank.train_writer(self.config(aligned=True), self.work / f"writer-{self.seed}")
        for stage in ("prepare", "baseline"):
            import_module(f"pipelines.{stage}").main(make_run(self.writing(BUDGETS[0]), root, []))
        for budget in BUDGETS:
            config = self.writing(budget)
            run = make_run(config, root, [config.last])
            for stage in ("describe", "synthesize", "assess", "detect"):
                import_module(f"pipelines.{stage}").main(run)
            try:
                align.main(run)
            except (
                KkaError
            ) as error:  # fallen apart, at an eighth of the way even: the next round goes on with the adapter before
                print(error, file=sys.stderr)
                shutil.copytree(
                    run.root.joinpath("data", run.previous, "adapter"),
                    run.root.joinpath("data", run.round, "adapter"),
                    dirs_exist_ok=True,
                )
        (root / "done").touch()

    def random(self, budget: int) -> Images:
        wanted = self.config(aligned=True).prepare
        archive = datasets.archive(wanted.dataset, wanted.image_size, **wanted.options)
        chosen = np.random.default_rng(seed_of("cifar100", "random", self.seed)).permutation(len(archive))[:budget]
        drawn: Images = archive.images[chosen]
        return drawn


def code() -> Code:
    """What the figures depend on."""
    return Code("benchmarks/cifar100.py", ("run", "World"), presets.config("cifar100-bank"), also=("kka/detectors",))


def run(world: World, names: list[str], path: Path, made: stamp.Stamp) -> None:
    """Fits what is not there yet, or was fitted by other code."""
    results: dict[str, float] = stamp.kept(path, made) or {}
    wanted = [("normals", 0), *((method, n) for n in BUDGETS for method in ("random", "kka"))]
    for name in names:
        for method, n in wanted:
            key = f"{name} {method} {n}"
            if key in results:
                continue
            given = {"normals": lambda _: None, "random": world.random, "kka": world.asked_for}[method](n)
            detector = ablation.create(name, world.seed, world.backbone).fit(world.splits.train.images, given)
            results[key] = auroc(detector.score(world.test.images), world.test.labels)
            stamp.write(path, results, made)
            print(world.seed, key, f"{results[key]:.3f}", flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: AUROC by detector, method and budget, mean and deviation; and how many of KKA's are worth `WORTH`
    random ones."""
    runs = [result["figures"] for result in results]
    names = [n for n in detectors.names() if all(f"{n} kka {b}" in r for r in runs for b in BUDGETS)]
    lines = [
        f"| detector | anomalies | {' | '.join(str(b) for b in (0, *BUDGETS))} | worth {WORTH} random |",
        f"|---|---|{'---|' * (len(BUDGETS) + 2)}",
    ]
    for name in names:
        for method in ("random", "kka"):
            cells = [
                _cell([r[f"{name} normals 0"] for r in runs]),
                *(_cell([r[f"{name} {method} {b}"] for r in runs]) for b in BUDGETS),
            ]
            lines.append(
                f"| {name} | {method} | {' | '.join(cells)} | {_worth(runs, name) if method == 'kka' else ''} |"
            )
    return "\n".join([*lines, "", stamp.line(results)])


def _worth(runs: list[dict[str, float]], name: str) -> str:
    """The budget at which KKA's mean first reaches that of `WORTH` random photographs, between budgets by the
    logarithm."""

    def mean(method: str, n: int) -> float:
        return statistics.mean(r[f"{name} {method} {n}"] for r in runs)

    aim, curve = mean("random", WORTH), [mean("kka", b) for b in BUDGETS]
    for i, value in enumerate(curve):
        if value >= aim:
            if i == 0:
                return f"at most {BUDGETS[0]}"
            share = (aim - curve[i - 1]) / (value - curve[i - 1])
            return f"{BUDGETS[i - 1] * (BUDGETS[i] / BUDGETS[i - 1]) ** share:.0f}"
    return f"more than {BUDGETS[-1]}"


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f"±{statistics.stdev(values):.3f}" if len(values) > 1 else "")


def complete() -> list[dict[str, Any]]:
    """The seeds that there are."""
    return [read_json(path) for path in sorted(RESULTS.glob("[0-9]*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="folder with CIFAR-100's train.parquet and test.parquet"
    )
    parser.add_argument("--backbone", help="for the detectors on frozen features")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=20)
    parser.add_argument("--detectors", nargs="+", default=detectors.names(), choices=detectors.names())
    parser.add_argument(
        "--work", type=Path, default=Path("benchmarks/work/cifar100-budgets"), help="folder for the loops"
    )
    parser.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    settings = {"backbone": Path(arguments.backbone or BUILT_IN).name, "options": ablation.SMALLER}
    ablation.settle(RESULTS, settings | {"hard": HARD, "quantile": QUANTILE})
    made = stamp.make(code())
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        world = World(seed, arguments.work, arguments.source.resolve(), arguments.backbone)
        run(world, arguments.detectors, RESULTS / f"{seed}.json", made)
    found = complete()
    if not found:
        sys.exit(f"{RESULTS} holds no results.")
    print(table(found))


if __name__ == "__main__":
    main()
