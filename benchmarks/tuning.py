"""What a study is worth: `python -m benchmarks.tuning [--seeds 5] [--work DIR]`, after `kka tune` on the preset blossom.

Looks at the study `kka` in this project's mlruns with the labels that it never saw: the rank correlation (Spearman) of its
objective with the AUROC on the test split over all trials; its winner, or its best trial where there is none, against
params.yaml as it is on fresh seeds, from 30 on, which neither the study nor its choice of a winner has seen; and what its
trials cost against loops that share nothing, of which one is timed. Writes benchmarks/results/tuning.json and
docs/tuning-objective.png, and prints the tables of docs/tuning.md.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from optuna.trial import TrialState
from scipy.stats import spearmanr

from kka import detectors, evaluation, presets
from kka.config import Config
from kka.doctor import cores
from kka.images import read_split
from kka.records import Split, write_json
from pipelines._outcome import best, winner
from pipelines._space import changed, rounded
from pipelines._stage import make_run
from pipelines._study import folder, open_study, over
from pipelines._trials import Trials
from pipelines.loop import run_loop, step

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "tuning.json"
NEAREST = "distance 1"
SAID = {"auroc": "the objective"} | {f"auroc r{i}": f"its panel of r{i} alone" for i in (1, 2, 3)}


def labelled(place: Path, test: Split) -> dict[str, float]:
    """AUROC on the test split of a trial's detector, over all anomalies and over the nearest."""
    scores = detectors.load(place).score(test.images)
    groups = evaluation.by_group(scores, test.labels, test.groups)
    return {"auroc": evaluation.evaluate(scores, test.labels, test.groups, scores, bootstrap=0, level=0.95, seed=0)["auroc"],
            NEAREST: groups[NEAREST]}  # fmt: skip


def ranking(config: Config, home: Path) -> list[dict[str, Any]]:
    """A row for each trial and round: what the study saw, what it would have seen with the labels of the validation split, and what
    the labels of the test split say."""
    place, rows = folder(config, home), []
    test, validation = (read_split(place / "base" / "data" / "splits" / part) for part in ("test", "validation"))
    for trial in over(open_study(config, home, go_on=False)):
        for name in config.lineage(config.last):
            if name in trial.user_attrs:
                detector = place / "trials" / str(trial.number) / "data" / name / "detector"
                seen = {SAID.get(k, k): v for k, v in trial.user_attrs[name].items() if k.startswith("auroc")}
                seen["labels of the validation split"] = labelled(detector, validation)["auroc"]
                rows.append(
                    {"trial": trial.number, "round": name, "state": trial.state.name, "seen": seen, "labelled": labelled(detector, test)}
                )
    return rows


def correlations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's correlation of what was seen with the AUROC on the test split: over all trials and rounds, and round by round."""
    found = []
    for name in ["all", *sorted({r["round"] for r in rows})]:
        some = [r for r in rows if name in ("all", r["round"])]
        told = [r["labelled"]["auroc"] for r in some]
        by = {k: float(spearmanr([r["seen"][k] for r in some], told).statistic) for k in rows[0]["seen"]}
        found.append({"round": name, "detectors": len(some), **by})
    return found


def fresh(config: Config, values: dict[str, Any], seed: int, root: Path) -> dict[str, float]:
    """The labels' figures of the last round of a whole loop."""
    raw = config.model_dump()
    raw["detect"]["seeds"] = 1
    made = changed(Config.model_validate(raw), values, seed=seed)
    run_loop(made, root, report=False)
    return labelled(root / "data" / made.last / "detector", read_split(root / "data" / "splits" / "test"))


def cost(config: Config, home: Path, root: Path) -> dict[str, float]:
    """Seconds of the trials, and of one loop as they run it that finds nothing done before."""
    trials = over(open_study(config, home))
    seconds = [t.user_attrs["seconds"] for t in trials]
    alone = Trials(config, root)
    (root / "base").mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    step("prepare", make_run(alone.config, root / "base", []), root / "store")
    for _ in alone.rounds(alone.config, root / "trial"):
        pass
    return {"trials": len(trials), "pruned": sum(t.state == TrialState.PRUNED for t in trials), "seconds of trials": sum(seconds),
            "seconds of a loop": time.perf_counter() - began}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    names = [k for k in found["correlations"][0] if k not in ("round", "detectors")]
    lines = [f"| detectors of round | how many | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for row in found["correlations"]:
        lines.append(f"| {row['round']} | {row['detectors']} | {' | '.join(f'{row[n]:.2f}' for n in names)} |")
    lines += ["", "| on fresh seeds | AUROC | AUROC at distance 1 |", "|---|---|---|"]
    for name, runs in found["fresh"].items():
        lines.append(f"| {name} | {_cell([r['auroc'] for r in runs])} | {_cell([r[NEAREST] for r in runs])} |")
    spent = found["cost"]
    times = spent["trials"] * spent["seconds of a loop"] / spent["seconds of trials"]
    told = f"{spent['trials']:.0f} trials, {spent['pruned']:.0f} of them pruned: {spent['seconds of trials'] / 60:.0f} minutes of work."
    lines += ["", f"{told} A loop alone takes {spent['seconds of a loop'] / 60:.1f}: {times:.1f} times cheaper."]
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The objective against the labels, a point for each trial that came to the last round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for axis, label in zip(axes, ("auroc", NEAREST), strict=True):
        for name, colour in zip(sorted({r["round"] for r in rows}), ("tab:gray", "tab:orange", "tab:blue", "tab:green"), strict=False):
            some = [r for r in rows if r["round"] == name]
            axis.scatter([r["seen"]["the objective"] for r in some], [r["labelled"][label] for r in some], s=16, color=colour, label=name)
        axis.set_xlabel("objective without labels")
        axis.set_ylabel("AUROC" if label == "auroc" else f"AUROC at {label}")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=30)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/tuning"), help="folder for the loops")
    parser.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    config, home = presets.config("blossom"), ROOT / "mlruns"
    study = open_study(config, home, go_on=False)
    named = winner(study, config)
    number = int(named.name) if named else best(study, config)[0].number
    values = rounded(study.trials[number].params)
    rows = ranking(config, home)
    found: dict[str, Any] = {"trial": number, "values": values, "rows": rows, "correlations": correlations(rows), "fresh": {}}
    found["cost"] = cost(config, home, arguments.work / "alone")
    draw(rows, ROOT / "docs" / "tuning-objective.png")
    for name, asked in (("params.yaml", {}), (f"trial {number}", values)):
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        found["fresh"][name] = [fresh(config, asked, s, arguments.work / f"{'trial' if asked else 'defaults'}-{s}") for s in seeds]
        write_json(RESULT, found)
    print(json.dumps(values), table(found), sep="\n")


if __name__ == "__main__":
    main()
