"""Results that stand in the project -> runs in MLflow that tell all of it, whichever of it ran here and whichever DVC
restored."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kka.project.config import flatten, read_config
from kka.records import Description, read_json, read_records, write_json
from pipelines.layout import CURVES
from pipelines.reporting.tables import hardest_group
from pipelines.tracking.dvc_lock import Lock
from pipelines.tracking.notes import parent_note, round_note
from pipelines.tracking.package import log_model
from pipelines.tracking.runs import Point, Tracker, revision

STAGES = ("describe", "synthesize", "assess", "detect", "align", "evaluate")
BASELINE = ("prepare", "baseline", "evaluate-baseline")
SPLITS = {"train": "training", "calibration": "calibration", "validation": "validation", "test": "testing"}


@dataclass(frozen=True)
class Round:
    """What dvc.lock vouches for of one round: figures by stage, the MD5 of each out, and `seconds`, where all of its
    stages have some that are known."""

    name: str
    figures: dict[str, dict[str, Any]]
    hashes: dict[str, str]
    seconds: float | None


def figures(stage: str, values: Mapping[str, Any]) -> list[Point]:
    """The figures of metrics/<round>/<stage>.json, named <stage>/<key>. What is the end of a curve is left to the
    curve."""
    ends = {f"align/{name}" for name in CURVES}
    return [
        (k, float(v), 0) for k, v in flatten(values, f"{stage}/", "/") if isinstance(v, int | float) and k not in ends
    ]


def headline(row: Round, first: Round, number: int, seconds: float | None) -> list[Point]:
    """The few figures that rounds and runs are compared by, their step the round's number. A `point` is one of a
    hundred of AUROC gained on round zero; `seconds` are those since then. What is not known is left out, and what a
    point cost where the gain lies within the interval of the AUROC."""
    test, told, said = (row.figures.get(s, {}) for s in ("evaluate", "describe", "assess"))
    hardest, images = (
        hardest_group({"evaluate": first.figures["evaluate"]}),
        row.figures.get("detect", {}).get("images", 0),
    )
    before = first.figures["evaluate"].get("auroc", 1.0)
    points = 100 * (test["auroc"] - before) if test.get("auroc_low", test.get("auroc", 0.0)) > before else 0.0
    values = {
        "auroc": test.get("auroc"),
        "auroc_hardest": test["groups"][hardest] if hardest else None,
        "fpr95": test.get("fpr95"),
        "false_alarms": test["false_positive_rate"],
        "gap": test.get("controls_auroc"),
        "hard_rate": said.get("hard_rate"),
        "hard_rate_r0": said.get("hard_rate_r0"),
        "readable": told.get("readable"),
        "distinct": told.get("distinct"),
        "refused": 1 - told["kept"] / told["attempts"] if told.get("attempts") else None,
        "images": images,
        "seconds": seconds if number else None,
        "images_per_point": images / points if points > 0 else None,
        "seconds_per_point": seconds / points if points > 0 and seconds is not None else None,
    }
    return [(name, brief(value), number) for name, value in values.items() if value is not None]


def brief(value: float) -> float:
    """Six digits: more would only be hard to read."""
    return float(f"{value:.6g}")


def reconcile(root: Path, home: Path, *, reported: bool = False, commit: str | None = None) -> None:
    """Creates in MLflow what is missing of the results that stand in `root` and belong to its params.yaml; `reported`
    as in Lock, `commit` is what they were committed as, if not what is checked out."""
    config, lock = read_config(root / "params.yaml"), Lock.read(root, reported=reported)
    tracker, costs = Tracker(home, config), Costs(home)
    now = commit or revision(root)
    rounds = {name: row for name in ("r0", *config.rounds) if (row := _round(tracker, lock, costs, name, now))}
    costs.write()
    for name, row in rounds.items():
        if "evaluate" in row.figures and "evaluate" in rounds["r0"].figures:
            _compare(tracker, lock, rounds, name)
    if rounds:
        _tell_parent(tracker, lock)


def _round(tracker: Tracker, lock: Lock, costs: "Costs", name: str, now: str) -> Round | None:
    """Records a round's own figures, hashes, inputs and pictures. None where nothing of it stands."""
    stages = [s for s in ([f"{s}@{name}" for s in STAGES] if name != "r0" else BASELINE) if s in lock.stages]
    if not stages:
        return None
    run = tracker.round(name)
    found = {p.stem: read_json(p) for s in stages for p in lock.files(s, "metrics")}
    drawn = [point for s in stages for p in lock.files(s, "plots") if p.stem == "align" for point in curves(p)]
    told = tracker.client.get_run(run).data.metrics
    spent = {script(s): costs.of(s, lock.stages[s], told) for s in stages}
    own = [
        (f"{what}/{s}", value, 0)
        for s, cost in spent.items()
        for what, value in cost.items()
        if f"{what}/{s}" not in told
    ]
    tracker.record(run, [*(p for s, values in found.items() for p in figures(s, values)), *drawn, *own])
    hashes = {Path(p).stem: md5 for s in stages for p, md5 in lock.stages[s].items() if p.startswith(f"data/{name}/")}
    tags = {f"dvc.{key}": md5 for key, md5 in hashes.items()} | {
        "dvc.test": lock.out("prepare", "data/splits/test") or ""
    }
    if any(tracker.client.get_run(run).data.tags.get(key) != md5 for key, md5 in tags.items()):
        tracker.tag(run, tags | {"dvc.revision": now})
    tracker.inputs(run, _inputs(tracker, lock, name))
    _illustrate(tracker, lock, run, name)
    every = len(stages) == len(STAGES if name != "r0" else BASELINE) and all(spent.values())
    return Round(name, found, hashes, sum(cost["seconds"] for cost in spent.values()) if every else None)


def _compare(tracker: Tracker, lock: Lock, rounds: Mapping[str, Round], name: str) -> None:
    """Records what a round is worth: its model, and the headline, on the parent too where it leads to the last
    round."""
    row, config, run = rounds[name], tracker.config, tracker.round(name)
    after = [rounds[r].seconds if r in rounds else None for r in (config.lineage(name) if name != "r0" else [])]
    seconds = None if None in after else sum(s for s in after if s is not None)
    points = headline(row, rounds["r0"], tracker.number(name), seconds)
    detector = lock.whole("baseline" if name == "r0" else f"detect@{name}", f"data/{name}/detector")
    if detector and lock.whole(evaluation(name), f"data/{name}/scores.csv"):
        digests = {"dvc.detector": row.hashes["detector"], "dvc.test": lock.out("prepare", "data/splits/test") or ""}
        model = log_model(tracker, run, name, lock.root, digests)
        tracker.record(run, points, model)
    tracker.record(run, points)
    if name in ("r0", *config.lineage(config.last)) and tracker.leads(name):
        tracker.record(tracker.parent, points)
    tracker.tag(run, {"mlflow.note.content": round_note(tracker.config, name, run, points, row.hashes)})
    tracker.status(run, "FINISHED")


def _inputs(tracker: Tracker, lock: Lock, name: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, MD5, path and use of the data that a round stands on: the splits, and its generated anomalies."""
    data = tracker.config.prepare.dataset
    wanted = [(f"{data} {split}", "prepare", f"data/splits/{split}", use) for split, use in SPLITS.items()]
    for title, stage, path, use in [
        *wanted,
        (f"generated {name}", f"synthesize@{name}", f"data/{name}/anomalies", "training"),
    ]:
        if md5 := lock.out(stage, path):
            yield title, md5, path, use


def _illustrate(tracker: Tracker, lock: Lock, run: str, name: str) -> None:
    """The round's pictures and texts, once. They are told to be there when all of them are."""
    report, texts = lock.whole("report", "report"), lock.whole(f"describe@{name}", f"data/{name}/descriptions.jsonl")
    scores = lock.whole(evaluation(name), f"data/{name}/scores.csv")
    shown = " ".join(str(path and lock.md5(path)) for path in (report, texts, scores))
    if not tracker.lacks(run, shown):
        return
    pictures = [*report.glob(f"{name}.*"), *report.glob(f"{name}-*")] if report else []
    for path in [*sorted(pictures), *([scores] if scores else [])]:
        tracker.client.log_artifact(run, str(path))
    if texts:
        tracker.table(run, "descriptions.json", [vars(r) for r in read_records(texts, Description)])
    tracker.tag(run, {"kka.shown": shown})


def _tell_parent(tracker: Tracker, lock: Lock) -> None:
    """The report and the parameters, once; and the end, when the last round has one."""
    tracker.inputs(tracker.parent, _inputs(tracker, lock, "r0"))
    tags = tracker.client.get_run(tracker.parent).data.tags
    longer = tags.get("kka.curve", "").startswith(
        f"{tracker.chain(tracker.config.last)}/"
    )  # of more rounds than are asked for now
    report = lock.whole("report", "report")
    if "kka.shown" not in tags or (report and not longer and tracker.lacks(tracker.parent, lock.md5(report))):
        if report:
            tracker.client.log_artifact(tracker.parent, str(report / "report.html"))
        tracker.client.log_text(tracker.parent, tracker.parameters(), "params.yaml")
        table = (report / "table.md").read_text(encoding="utf-8") if report else ""
        note = parent_note(tracker.config, tracker.parent, table)
        tracker.tag(
            tracker.parent, {"mlflow.note.content": note, "kka.shown": lock.md5(report) if report else "nothing"}
        )
    if lock.files(f"evaluate@{tracker.config.last}", "metrics"):
        tracker.status(tracker.parent, "FINISHED")


def evaluation(name: str) -> str:
    """The stage that evaluates a round."""
    return f"evaluate@{name}" if name != "r0" else "evaluate-baseline"


def curves(path: Path) -> list[Point]:
    """The curves of plots/<round>/<stage>.csv, which has a column `step`."""
    names, *rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    cells = [dict(zip(names, row, strict=True)) for row in rows]
    return [
        (f"{path.stem}/{k}", float(v), int(float(c["step"]))) for c in cells for k, v in c.items() if k != "step" and v
    ]


def script(stage: str) -> str:
    """detect@r1 -> detect, evaluate-baseline -> evaluate."""
    return stage.partition("@")[0].removesuffix("-baseline")


class Costs:
    """mlruns/seconds.json: what stages cost, by what they made. So results that DVC restored have their seconds too,
    and those of a database that was removed."""

    def __init__(self, home: Path) -> None:
        self.path = home / "seconds.json"
        self.before: dict[str, dict[str, float]] = read_json(self.path) if self.path.exists() else {}
        self.known = dict(self.before)

    def of(self, stage: str, outs: Mapping[str, str], told: Mapping[str, float]) -> dict[str, float]:
        """Seconds and megabytes: those that its run was told, or those that were kept for the same outs; empty for
        neither."""
        key = f"{stage} {hashlib.md5(repr(sorted(outs.items())).encode(), usedforsecurity=False).hexdigest()}"
        names = {what: f"{what}/{script(stage)}" for what in ("seconds", "megabytes")}
        if key not in self.known and all(name in told for name in names.values()):
            self.known[key] = {what: told[name] for what, name in names.items()}
        found: dict[str, float] = self.known.get(key, {})
        return found

    def write(self) -> None:
        """Whole or not at all, and only what is new."""
        if self.known != self.before:
            write_json(self.path, self.known)
