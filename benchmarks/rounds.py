"""KKA's rounds on blossom over several seeds: `python -m benchmarks.rounds [--seeds 5] [--work DIR] [--threads N]`.

Three variants on the same budget and seeds: `kka` (the defaults), `no_dpo` (the same rounds and images, the language
model never aligned) and `deep_sad` (the paper's own detector in place of the default one). Prints the tables of
 the documentation with mean and deviation, and writes every figure to benchmarks/results/rounds, a file a loop.

Resumable: a loop that the present code finished is not run again, and one that it began in `--work` goes on. What other
code made is made again. Several processes may run the same command side by side: each takes the next loop that no other
has."""

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks import stamp
from benchmarks.digest import Code
from kka.project import presets
from kka.project.config import Config
from kka.project.doctor import cores
from kka.records import read_json
from pipelines.loop import run_loop

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "rounds"  # a file a run, so that processes can share the work
VARIANTS: dict[str, dict[str, Any]] = {
    "kka": {},
    "no_dpo": {"align": {"enabled": False}},
    "deep_sad": {"detect": {"detector": "deep_sad", "options": {}}},
}


FIRST = next(iter(VARIANTS))


def variant(base: Config, name: str, seed: int) -> Config:
    """The configuration of a variant: its changes laid over the sections they belong to."""
    raw = base.model_dump()
    for section, changes in VARIANTS[name].items():
        raw[section] |= changes
    raw["detect"]["seeds"] = 1  # the deviation is that over seeds of the whole loop
    return Config.model_validate(raw | {"seed": seed})


def code(name: str) -> Code:
    """What the figures of a variant depend on."""
    config = variant(presets.config("blossom"), name, 0)
    return Code("benchmarks/rounds.py", ("variant", "read_metrics"), config)


def run(name: str, seed: int, work: Path, stamps: dict[str, stamp.Stamp]) -> dict[str, Any]:
    """All figures of one run, by round. `stamps` are those of the variants."""
    root, config = work / f"{name}-{seed}", variant(presets.config("blossom"), name, seed)
    mark = root / "code"
    if root.exists() and not (mark.exists() and mark.read_text() == stamps[name]["code"]):
        shutil.rmtree(root)  # begun by other code, which the loop does not notice
    first = work / f"{FIRST}-{seed}"
    if not root.exists() and first.exists() and _finished(FIRST, seed, first, stamps):
        shutil.copytree(first, root)  # what is the same there, as the first round's pictures are, is not done again
    root.mkdir(parents=True, exist_ok=True)
    mark.write_text(stamps[name]["code"])
    run_loop(config, root, report=False)
    return read_metrics(config, root)


def _finished(name: str, seed: int, root: Path, stamps: dict[str, stamp.Stamp]) -> bool:
    """Whether the run in `root` is whole and the present code's."""
    mark, made = root / "code", stamps[name]
    same = mark.exists() and mark.read_text() == made["code"]
    return same and stamp.kept(RESULTS / f"{name}-{seed}.json", made) is not None


def read_metrics(config: Config, root: Path) -> dict[str, Any]:
    """The figures of every stage, by round."""
    rounds = ["r0", *config.lineage(config.last)]
    return {r: {p.stem: read_json(p) for p in sorted((root / "metrics" / r).glob("*.json"))} for r in rounds}


FIGURES = {
    "AUROC": lambda r: r["evaluate"]["auroc"],
    "AUROC at distance 1": lambda r: r["evaluate"]["groups"]["distance 1"],
    "images": lambda r: r["detect"]["images"],
    "hard reached": lambda r: r["detect"]["hard_proportion"],
    "hard rate, r0": lambda r: r["assess"]["hard_rate_r0"],
    "mean distance": lambda r: r["evaluate"]["mean_distance"],
    "readable": lambda r: r["describe"]["readable"],
    "distinct": lambda r: r["describe"]["distinct"],
    "generated vs real normals": lambda r: r["evaluate"]["controls_auroc"],
    "adapter's way": lambda r: r["align"]["share_of_the_way"],
}


def _by_variant(results: dict[str, Any]) -> dict[str, list[Any]]:
    """The runs of each variant that there are, in the order of their seeds."""
    runs = {
        name: [found["figures"] for key, found in sorted(results.items()) if key.rsplit("-", 1)[0] == name]
        for name in VARIANTS
    }
    return {name: some for name, some in runs.items() if some}


def gains(results: dict[str, Any]) -> str:
    """Markdown: what the rounds are worth, a row a variant. The error is 1 - AUROC, its mean in the last round over its
    mean in round zero; points are hundredths of AUROC, the mean over seeds with the least and the most."""
    lines = [
        "| variant | error left | error left at distance 1 | points gained | points gained at distance 1 |",
        "|---|---|---|---|---|",
    ]
    for name, runs in _by_variant(results).items():
        left, gained = [], []
        for figure in ("AUROC", "AUROC at distance 1"):
            ends = [(FIGURES[figure](run["r0"]), FIGURES[figure](list(run.values())[-1])) for run in runs]
            left.append(f"{sum(1 - last for _, last in ends) / sum(1 - first for first, _ in ends):.2f}")
            points = [100 * (last - first) for first, last in ends]
            gained.append(f"{statistics.mean(points):.1f} ({min(points):.1f} to {max(points):.1f})")
        lines.append(f"| {' | '.join([name, *left, *gained])} |")
    return "\n".join([*lines, "", stamp.line(results.values())])


def table(results: dict[str, Any]) -> str:
    """Markdown: a row a variant and round, mean and standard deviation over seeds."""
    lines = [f"| variant | seeds | round | {' | '.join(FIGURES)} |", f"|---|---|---|{'---|' * len(FIGURES)}"]
    for name, runs in _by_variant(results).items():
        for r in runs[0]:
            cells = [_cell([found[r] for found in runs], figure) for figure in FIGURES]
            lines.append(f"| {' | '.join([name, str(len(runs)), r, *cells])} |")
    return "\n".join([*lines, "", stamp.line(results.values())])


def _cell(rounds: list[Any], figure: str) -> str:
    try:
        values = [FIGURES[figure](r) for r in rounds]
    except KeyError:
        return ""
    mean = statistics.mean(values)
    deviation = f"±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean:.0f}" if figure == "images" else f"{mean:.3f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--first", type=int, default=20, help="the first seed: those below 20 were seen while the defaults were settled"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder for the runs")
    parser.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    stamps = {name: stamp.make(code(name)) for name in VARIANTS}
    for name in arguments.variants:
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            path = RESULTS / f"{name}-{seed}.json"
            with stamp.claimed(path) as mine:
                if mine and stamp.kept(path, stamps[name]) is None:
                    stamp.write(path, run(name, seed, arguments.work, stamps), stamps[name])
    results = {path.stem: read_json(path) for path in sorted(RESULTS.glob("*.json"))}
    print(gains(results), table(results), sep="\n\n")


if __name__ == "__main__":
    main()
