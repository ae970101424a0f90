"""What a study is worth: `python -m benchmarks.tuning [--threads N]`, after `kka tune` on the preset blossom.

Looks at the study `kka` in this project's mlruns with the labels that it never saw: the rank correlation (Spearman) of
its objective with the AUROC on the test split over all trials; its candidates and the parameters that it began with on
the fresh seeds on which they were confirmed; and what its trials cost against loops that share nothing, of which one is
timed, with as many threads as a trial had. Writes benchmarks/results/tuning.json and docs/tuning-*.png, and prints the
tables of docs/tuning.md."""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from scipy.stats import spearmanr

from benchmarks import stamp
from benchmarks.digest import Code
from kka import detectors
from kka.evaluation import by_group
from kka.images import read_split
from kka.metrics import auroc
from kka.project import presets
from kka.project.config import Config
from kka.records import Split, read_json
from pipelines.loop import step
from pipelines.stage import make_run
from pipelines.tuning.confirm import candidates, confirmed
from pipelines.tuning.mirror import draw as plots
from pipelines.tuning.study import begun_with, ended_trials, load_study, study_folder
from pipelines.tuning.trial import Trials

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "tuning.json"
NEAREST = "distance 1"
SAID = {"auroc": "the objective"} | {f"auroc r{i}": f"its panel of r{i} alone" for i in (1, 2, 3)}


def labelled(place: Path, test: Split) -> dict[str, float]:
    """AUROC on the test split of a trial's detector, over all anomalies and over the nearest."""
    scores = detectors.load(place).score(test.images)
    return {"auroc": auroc(scores, test.labels), NEAREST: by_group(scores, test.labels, test.groups)[NEAREST]}


def ranking(study: optuna.Study, config: Config, home: Path) -> list[dict[str, Any]]:
    """A row for each trial and round: what the study saw, what it would have seen with the labels of the validation
    split, and what the labels of the test split say."""
    place, rows = study_folder(config, home), []
    test, validation = (read_split(place / "base" / "data" / "splits" / part) for part in ("test", "validation"))
    for trial in ended_trials(study):
        for name in config.lineage(config.last):
            if name in trial.user_attrs:
                detector = place / "trials" / str(trial.number) / "data" / name / "detector"
                seen = {SAID.get(k, k): v for k, v in trial.user_attrs[name].items() if k.startswith("auroc")}
                seen["labels of the validation split"] = labelled(detector, validation)["auroc"]
                rows.append(
                    {
                        "trial": trial.number,
                        "round": name,
                        "state": trial.state.name,
                        "seen": seen,
                        "labelled": labelled(detector, test),
                    }
                )
    return rows


def correlations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's correlation of what was seen with the AUROC on the test split: over all trials and rounds, and round
    by round."""
    found = []
    for name in ["all", *sorted({r["round"] for r in rows})]:
        some = [r for r in rows if name in ("all", r["round"])]
        told = [r["labelled"]["auroc"] for r in some]
        by = {k: float(spearmanr([r["seen"][k] for r in some], told).statistic) for k in rows[0]["seen"]}
        found.append({"round": name, "detectors": len(some), **by})
    return found


def fresh(study: optuna.Study, config: Config, home: Path) -> dict[str, dict[str, Any]]:
    """The candidates on the fresh seeds of their confirmation: what the study saw there, and what the labels say."""
    place, found = study_folder(config, home), {}
    test = read_split(place / "base" / "data" / "splits" / "test")
    for one in confirmed(study, config):
        roots = [place / "confirm" / f"{one.name}-{i}" for i in range(config.tune.confirm.seeds)]
        told = [labelled(root / "data" / config.last / "detector", test) for root in roots]
        found[one.name] = {"values": candidates(study, config)[one.name], "seen": one.values, "labelled": told}
    return found


def cost(study: optuna.Study, config: Config, home: Path) -> dict[str, float]:
    """Seconds of the trials, and of one loop as they run it that finds nothing done before."""
    trials = ended_trials(study)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        alone = Trials(config, Path(scratch))
        (alone.folder / "base").mkdir()
        step("prepare", make_run(alone.config, alone.folder / "base", []), alone.folder / "store")
        began = time.perf_counter()
        for _ in alone.rounds(alone.config, alone.folder / "trial"):
            pass
        seconds = time.perf_counter() - began
    stopped = sum(t.state == TrialState.PRUNED for t in trials)
    spent = sum(t.user_attrs["seconds"] for t in trials)
    return {"trials": len(trials), "pruned": stopped, "seconds of trials": spent, "seconds of a loop": seconds}


def code() -> Code:
    """What the figures depend on."""
    return Code("benchmarks/tuning.py", ("ranking", "correlations", "fresh", "cost"), presets.config("blossom"))


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    found = result["figures"]
    names = [k for k in found["correlations"][0] if k not in ("round", "detectors")]
    lines = [f"| detectors of round | how many | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for row in found["correlations"]:
        lines.append(f"| {row['round']} | {row['detectors']} | {' | '.join(f'{row[n]:.2f}' for n in names)} |")
    lines += ["", "| on fresh seeds | the objective | AUROC on the test split | at distance 1 |", "|---|---|---|---|"]
    for name, runs in found["fresh"].items():
        cells = [_cell(runs["seen"], 4), *(_cell([r[k] for r in runs["labelled"]]) for k in ("auroc", NEAREST))]
        lines.append(f"| {'trial ' if name.isdigit() else ''}{name} | {' | '.join(cells)} |")
    spent = found["cost"]
    times = spent["trials"] * spent["seconds of a loop"] / spent["seconds of trials"]
    work = f"{spent['seconds of trials'] / 60:.0f} minutes of work"
    alone = f"{spent['seconds of a loop'] / 60:.1f}: {times:.1f} times cheaper"
    told = f"{spent['trials']:.0f} trials, {spent['pruned']:.0f} of them pruned: {work}. A loop alone takes {alone}."
    lines += ["", told]
    return "\n".join([*lines, "", stamp.line([result])])


def _cell(values: list[float], digits: int = 3) -> str:
    return f"{statistics.mean(values):.{digits}f}±{statistics.stdev(values):.{digits}f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The objective against the labels, a point for each trial and round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for axis, label in zip(axes, ("auroc", NEAREST), strict=True):
        for name, colour in zip(
            sorted({r["round"] for r in rows}), ("tab:gray", "tab:orange", "tab:blue", "tab:green"), strict=False
        ):
            some = [r for r in rows if r["round"] == name]
            axis.scatter(
                [r["seen"]["the objective"] for r in some],
                [r["labelled"][label] for r in some],
                s=16,
                color=colour,
                label=name,
            )
        axis.set_xlabel("objective without labels")
        axis.locator_params(axis="x", nbins=4)
        axis.set_ylabel("AUROC" if label == "auroc" else f"AUROC at {label}")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="as many as a trial had")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    home = ROOT / "mlruns"
    study = load_study(presets.config("blossom"), home)
    config = begun_with(study, presets.config("blossom"))
    made = stamp.make(code())
    rows = ranking(study, config, home)
    found = {
        "correlations": correlations(rows),
        "fresh": fresh(study, config, home),
        "cost": cost(study, config, home),
        "rows": rows,
    }
    stamp.write(RESULT, found, made)
    draw(rows, ROOT / "docs" / "tuning-objective.png")
    for path in plots(study, study_folder(config, home)):
        if path.stem in ("optimization_history", "intermediate_values"):
            shutil.copy(path, ROOT / "docs" / f"tuning-{path.stem.replace('_', '-')}.png")
    print(table(read_json(RESULT)))


if __name__ == "__main__":
    main()
