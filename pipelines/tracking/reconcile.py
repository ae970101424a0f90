"""Brings MLflow up to date with the results in the project, whether its stages ran here or DVC restored them."""

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from kka.project.config import BASELINE, Config, read_config
from kka.records import Description, read_json, read_records, write_json
from pipelines.layout import read_csv
from pipelines.reporting.tables import LEGEND, hardest_group
from pipelines.tracking.database import own_database, server
from pipelines.tracking.dvc_lock import Lock, lock_file
from pipelines.tracking.live import Reader
from pipelines.tracking.package import log_model
from pipelines.tracking.runs import Point, Tracker, figures, headline_points, revision, title

STAGES = ("describe", "synthesize", "assess", "detect", "align", "evaluate")
BASELINE_STAGES = ("prepare", "baseline", "evaluate-baseline")
USES = {"train": "training", "calibration": "calibration", "validation": "validation", "test": "testing"}


@dataclass(frozen=True)
class RoundRecord:
    """What dvc.lock vouches for of one round: figures by stage, the MD5 of each out, and the `seconds` of all its
    stages, None where one's are unknown."""

    name: str
    figures: dict[str, dict[str, Any]]
    hashes: dict[str, str]
    seconds: float | None


def bring_up_to_date(root: Path, home: Path, *, reported: bool = False) -> None:
    """Brings MLflow up to date with the results in `root`; returns at once where nothing has changed since the last
    time. `reported`: called by the report's stage, before DVC adds it to dvc.lock. Raises KkaError where nothing has
    been run, or MLflow cannot be reached."""
    read_config(root / "params.yaml")
    state, key = home / "reconciled.json", _state(root, home)
    # what a server has lost is not known before it is asked
    local = not server(home) and own_database(home).exists()
    new = reported or any((home / "spool").glob("*.jsonl"))
    if local and not new and state.exists() and read_json(state) == key:
        return
    reader = Reader(home, monitors=False)
    reader.drain()
    for path in reader.set_aside():
        print(f"kka: {path} is of another version and cannot be read: MLflow lacks what it holds.", file=sys.stderr)
    with FileLock(home / "spool.lock"):  # not while a watcher looks for what is missing
        reconcile(root, home, reported=reported)
    write_json(state, key)


def _state(root: Path, home: Path) -> str:
    """The hash of all that decides what MLflow should hold."""
    # without the report's stage, which DVC adds after the report has called for reconciliation
    lock = re.sub(r"^  report:\n(?: {4}.*\n)*", "", lock_file(root).read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = [(root / "params.yaml").read_bytes(), lock.encode(), f"{home} {server(home)}".encode()]
    # files that `dvc checkout` brings back count too
    patterns = ("report", "data/*/detector", "data/*/scores.csv", "metrics/*/*.json")
    paths = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    parts += [f"{path} {path.stat().st_mtime_ns}".encode() for path in paths]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def headline(record: RoundRecord, first: RoundRecord, number: int, seconds: float | None) -> list[Point]:
    """The few figures that rounds and runs are compared by (HEADLINE). A `point` is a hundredth of AUROC gained on
    round zero; `seconds` are those since then. Unknown figures are left out, and the price of a point where the gain
    lies within the interval of the AUROC."""
    evaluate, describe = record.figures["evaluate"], record.figures.get("describe", {})
    zero = first.figures["evaluate"]
    hardest = hardest_group({"evaluate": zero})
    images = record.figures.get("detect", {}).get("images", 0)
    before = zero.get("auroc", 1.0)
    gained = evaluate.get("auroc_low", evaluate.get("auroc", 0.0)) > before
    points = 100 * (evaluate["auroc"] - before) if gained else 0.0
    derived = {
        "auroc_hardest": evaluate["groups"][hardest] if hardest else None,
        "refused": 1 - describe["kept"] / describe["attempts"] if describe.get("attempts") else None,
        "images": images,
        "seconds": seconds if number else None,
        "images_per_point": images / points if points > 0 else None,
        "seconds_per_point": seconds / points if points > 0 and seconds is not None else None,
    }
    values = {key: value for stage, metrics in record.figures.items() for key, value, _ in figures(stage, metrics)}
    values |= {f"derived/{key}": value for key, value in derived.items() if value is not None}
    return headline_points(values, number)


def reconcile(root: Path, home: Path, *, reported: bool = False, commit: str | None = None) -> None:
    """Creates in MLflow what it lacks of the results in `root` that belong to its params.yaml. `reported` is as in
    Lock; `commit` is the results' commit, by default the one that is checked out."""
    config, lock = read_config(root / "params.yaml"), Lock.read(root, reported=reported)
    tracker, costs = Tracker(home, config), Costs(home)
    now = commit or revision(root)
    records = {}
    for name in (BASELINE, *config.rounds):
        if record := _round(tracker, lock, costs, name, now):
            records[name] = record
    costs.write()
    for name, record in records.items():
        if "evaluate" in record.figures and "evaluate" in records[BASELINE].figures:
            _compare(tracker, lock, records, name)
    if records:
        _complete_parent(tracker, lock)


def _round(tracker: Tracker, lock: Lock, costs: "Costs", name: str, now: str) -> RoundRecord | None:
    """Records a round's own figures, hashes, inputs and pictures. None where dvc.lock vouches for no stage of it."""
    every = BASELINE_STAGES if name == BASELINE else [f"{stage}@{name}" for stage in STAGES]
    stages = [stage for stage in every if stage in lock.stages]
    if not stages:
        return None
    run = tracker.round(name)
    metrics = {p.stem: read_json(p) for s in stages for p in lock.files(s, "metrics")}
    points = [point for stage, values in metrics.items() for point in figures(stage, values)]
    points += [point for s in stages for p in lock.files(s, "plots") if p.stem == "align" for point in curves(p)]
    logged = tracker.client.get_run(run).data.metrics
    spent = {script(s): costs.of(s, lock.stages[s], logged) for s in stages}
    prices = {f"{what}/{stage}": value for stage, cost in spent.items() for what, value in cost.items()}
    points += [(key, value, 0) for key, value in prices.items() if key not in logged]
    tracker.record(run, points)
    hashes = {Path(p).stem: md5 for s in stages for p, md5 in lock.stages[s].items() if p.startswith(f"data/{name}/")}
    tags = {f"dvc.{key}": md5 for key, md5 in hashes.items()}
    tags["dvc.test"] = lock.out("prepare", "data/splits/test") or ""
    if any(tracker.client.get_run(run).data.tags.get(key) != md5 for key, md5 in tags.items()):
        tracker.tag(run, tags | {"dvc.revision": now})
    tracker.inputs(run, _inputs(tracker, lock, name))
    _illustrate(tracker, lock, run, name)
    complete = len(stages) == len(every) and all(spent.values())
    return RoundRecord(name, metrics, hashes, sum(cost["seconds"] for cost in spent.values()) if complete else None)


def _compare(tracker: Tracker, lock: Lock, records: Mapping[str, RoundRecord], name: str) -> None:
    """Records a round's model and its headline; on the parent too, where the round leads to the last one."""
    record, config, run = records[name], tracker.config, tracker.round(name)
    chain = [] if name == BASELINE else config.lineage(name)
    spent = [records[r].seconds if r in records else None for r in chain]
    seconds = None if None in spent else sum(s for s in spent if s is not None)
    points = headline(record, records[BASELINE], tracker.number(name), seconds)
    detector = lock.whole("baseline" if name == BASELINE else f"detect@{name}", f"data/{name}/detector")
    if detector and lock.whole(evaluation(name), f"data/{name}/scores.csv"):
        digests = {"dvc.detector": record.hashes["detector"], "dvc.test": lock.out("prepare", "data/splits/test") or ""}
        model = log_model(tracker, run, name, lock.root, digests)
        tracker.record(run, points, model)
    tracker.record(run, points)
    if name in (BASELINE, *config.lineage(config.last)) and tracker.leads(name):
        tracker.record(tracker.parent, points)
    tracker.tag(run, {"mlflow.note.content": _round_note(config, record, run, points)})
    tracker.status(run, "FINISHED")


def _inputs(tracker: Tracker, lock: Lock, name: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, MD5, path and use of a round's data: the splits, and its generated anomalies."""
    data = tracker.config.prepare.dataset
    inputs = [(f"{data} {split}", "prepare", f"data/splits/{split}", use) for split, use in USES.items()]
    inputs.append((f"generated {name}", f"synthesize@{name}", f"data/{name}/anomalies", "training"))
    for label, stage, path, use in inputs:
        if md5 := lock.out(stage, path):
            yield label, md5, path, use


def _illustrate(tracker: Tracker, lock: Lock, run: str, name: str) -> None:
    """Logs the round's pictures and texts, once: the tag `kka.shown` holds their hashes when all of them are there."""
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


def _complete_parent(tracker: Tracker, lock: Lock) -> None:
    """Logs the report and the parameters, once. Sets the status when the last round has been evaluated."""
    run, config = tracker.parent, tracker.config
    tracker.inputs(run, _inputs(tracker, lock, BASELINE))
    tags = tracker.client.get_run(run).data.tags
    # the curve there may be of more rounds than params.yaml asks for now
    longer = tags.get("kka.curve", "").startswith(f"{tracker.chain(config.last)}/")
    report = lock.whole("report", "report")
    if "kka.shown" not in tags or (report and not longer and tracker.lacks(run, lock.md5(report))):
        if report:
            tracker.client.log_artifact(run, str(report / "report.html"))
        tracker.client.log_text(run, tracker.parameters(), "params.yaml")
        table = (report / "table.md").read_text(encoding="utf-8") if report else ""
        shown = lock.md5(report) if report else "nothing"
        tracker.tag(run, {"mlflow.note.content": _parent_note(config, run, table), "kka.shown": shown})
    if lock.files(f"evaluate@{config.last}", "metrics"):
        tracker.status(run, "FINISHED")


def _parent_note(config: Config, run: str, table: str) -> str:
    """What MLflow shows of the run that stands for a set of parameters, in Markdown."""
    legend = "\n".join(f"- {name}: {meaning}" for name, meaning in LEGEND.items())
    report = f"The rounds so far:\n\n{table}\n{legend}" if table else "No report yet: its last round has not ended."
    what = f"**{title(config)}**: data set `{config.prepare.dataset}`, detector `{config.detect.detector}`"
    below = f"The runs beneath this one are the rounds. {_way_back(run)}"
    return f"{what}, last round `{config.last}`.\n\n{report}\n\n{below}"


def _round_note(config: Config, record: RoundRecord, run: str, points: Sequence[Point]) -> str:
    """What MLflow shows of a round's run, in Markdown."""
    name = record.name
    before = "normal pictures alone" if name == BASELINE else f"after `{config.rounds[name].prev}`"
    values = ", ".join(f"{key} {value:.4g}" for key, value, _ in points)
    files = "\n".join(f"| `data/{name}/{key}` | `{md5}` |" for key, md5 in record.hashes.items())
    what = f"Round `{name}` of **{title(config)}**, {before}."
    return f"{what}\n\n{values}\n\n| made | MD5 in DVC |\n|---|---|\n{files}\n\n{_way_back(run)}"


def _way_back(run: str) -> str:
    return f"`kka track show {run}` says which commit holds its files, and how to bring them back."


def evaluation(name: str) -> str:
    """The stage that evaluates a round."""
    return f"evaluate@{name}" if name != BASELINE else "evaluate-baseline"


def curves(path: Path) -> list[Point]:
    """The curves of plots/<round>/<stage>.csv, which has a column `step`."""
    return [
        (f"{path.stem}/{column}", float(value), int(float(row["step"])))
        for row in read_csv(path)
        for column, value in row.items()
        if column != "step" and value
    ]


def script(stage: str) -> str:
    """detect@r1 -> detect, evaluate-baseline -> evaluate."""
    return stage.partition("@")[0].removesuffix("-baseline")


class Costs:
    """mlruns/seconds.json: what stages cost, by the hash of their outs. So results that DVC restored have their seconds
    too, as have those of a database that was removed."""

    def __init__(self, home: Path) -> None:
        self.path = home / "seconds.json"
        self.before: dict[str, dict[str, float]] = read_json(self.path) if self.path.exists() else {}
        self.known = dict(self.before)

    def of(self, stage: str, outs: Mapping[str, str], logged: Mapping[str, float]) -> dict[str, float]:
        """The seconds and megabytes that the stage's run has logged, or those kept for the same outs; empty where there
        are neither."""
        key = f"{stage} {hashlib.md5(repr(sorted(outs.items())).encode(), usedforsecurity=False).hexdigest()}"
        names = {what: f"{what}/{script(stage)}" for what in ("seconds", "megabytes")}
        if key not in self.known and all(name in logged for name in names.values()):
            self.known[key] = {what: logged[name] for what, name in names.items()}
        costs: dict[str, float] = self.known.get(key, {})
        return costs

    def write(self) -> None:
        """Writes the file, where something is new."""
        if self.known != self.before:
            write_json(self.path, self.known)
