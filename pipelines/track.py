"""MLflow: one parent run for each lineage of parameters, one child run for each of its rounds.

    python -m pipelines.track               brings MLflow up to date with what dvc.lock vouches for; may be run at any time
    python -m pipelines.track watch DIR     records what running stages tell (see _spool.py); started by the stages themselves

A lineage is all of params.yaml but `rounds`, `last` and `tune`. Runs are found by their tags and a figure that is there already is not
logged again, so live logging and reconciliation may follow each other in any order. Results that DVC restored from its run
cache, whose stages never ran here, appear as well, and nothing appears twice.
"""

import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kka.config import Config, read_config
from kka.errors import KkaError
from kka.records import read_json, write_json
from pipelines._csv import DPO
from pipelines._lock import Lock, lock_file
from pipelines._spool import Told, home, watcher_lock

Point = tuple[str, float, int]  # name, value, step
EXPERIMENT = "kka"
GRIDS = "report"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the page of an experiment opens on traces of language models
COMMIT = "mlflow.source.git.commit"
NOT_RESULTS = {"rounds", "last", "tune"}  # parts of params.yaml that a lineage is not told by
PATIENCE = 30  # seconds without a stage, after which the watcher leaves


class Tracker:
    """The runs of one lineage in the database under `home`, which is created when it is first needed."""

    def __init__(self, home: Path, config: Config) -> None:
        self.config, self.home = config, home
        self.lineage = lineage(config)
        self.client, self.experiment = open_database(home)
        # two stages, or two experiments, may look for the same run at the same time
        self.lock = FileLock(home / "runs.lock")
        section = config.prepare.dataset, config.detect.detector, self.lineage[:6]
        self.parent = self._run("all", {"mlflow.runName": " ".join(section)})

    def round(self, name: str) -> str:
        """The id of a round's run. A round is known by its chain, for its name may stand for another one day."""
        chain = "/".join(["r0", *(self.config.lineage(name) if name != "r0" else [])])
        return self._run(chain, {"mlflow.runName": name, "mlflow.parentRunId": self.parent})

    def record(self, run: str, points: Iterable[Point]) -> None:
        """Logs the figures that the run does not hold yet, in batches."""
        from mlflow.entities import Metric

        latest, now = self.client.get_run(run).data.metrics, int(time.time() * 1000)
        histories: dict[str, dict[int, float]] = {}
        new = []
        for name, value, step in points:
            key = re.sub(r"[^\w./ -]", "_", name)
            if key not in histories:
                found = self.client.get_metric_history(run, key) if key in latest else []
                histories[key] = {m.step: m.value for m in found}
            if not math.isclose(histories[key].get(step, math.nan), value, rel_tol=1e-9):
                histories[key][step] = value
                new.append(Metric(key, value, now, step))
        for i in range(0, len(new), 500):
            self.client.log_batch(run, metrics=new[i : i + 500])
        if new:  # the commit that the latest figures come from
            self.client.set_tag(run, COMMIT, _commit())

    def auroc_by_round(self, name: str, points: Iterable[Point]) -> None:
        """A round's test figures on the parent as well, where their step is the round's number: that makes a curve."""
        step = len(self.config.lineage(name)) if name != "r0" else 0
        self.record(self.parent, [(key, value, step) for key, value, _ in points])

    def data_set(self, run: str, digest: str) -> None:
        """Names the training split as the run's input, once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = {i.dataset.digest for i in self.client.get_run(run).inputs.dataset_inputs}
        if digest not in known:
            source = json.dumps({"uri": "data/splits/train"})
            train = Dataset(self.config.prepare.dataset, digest, "local", source)
            self.client.log_inputs(run, datasets=[DatasetInput(train, [InputTag("mlflow.data.context", "training")])])

    def status(self, run: str, status: str) -> None:
        """RUNNING, FINISHED or FAILED; the end time is that of the first FINISHED after something ran."""
        if self.client.get_run(run).info.status != status:
            self.client.update_run(run, status) if status == "RUNNING" else self.client.set_terminated(run, status)

    def _run(self, chain: str, tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        wanted = f"tags.`kka.lineage` = '{self.lineage}' and tags.`kka.chain` = '{chain}'"
        with self.lock:
            found = self.client.search_runs([self.experiment], wanted, max_results=1)
            about = {"kka.lineage": self.lineage, "kka.chain": chain, COMMIT: _commit(), **tags}
            run = found[0] if found else self.client.create_run(self.experiment, tags=about)
            params = {k: str(v)[:6000] for k, v in flatten(self.config.model_dump(mode="json", exclude=NOT_RESULTS))}
            new = [Param(k, v) for k, v in params.items() if k not in run.data.params]
            for i in range(0, len(new), 100):
                self.client.log_batch(run.info.run_id, params=new[i : i + 100])
        return str(run.info.run_id)


def lineage(config: Config) -> str:
    """The hash of all parameters that results depend on."""
    values = config.model_dump(mode="json", exclude=NOT_RESULTS)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def flatten(values: Mapping[str, Any], head: str = "", joint: str = ".") -> Iterator[tuple[str, Any]]:
    """The leaves of nested sections with their paths as names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{head}{key}{joint}", joint)
        else:
            yield f"{head}{key}", value


def open_database(folder: Path) -> tuple[Any, str]:
    """A client, and the id of the experiment. Only one process at a time may create the database: racing breaks it for good."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", MLFLOW_LOGGING_LEVEL="ERROR")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "mlflow.db"
    with FileLock(folder / "database.lock"):
        client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        found = client.get_experiment_by_name(EXPERIMENT)
        number = found.experiment_id if found else client.create_experiment(EXPERIMENT, (folder / "artifacts").as_uri(), tags=KIND)
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer side by side, and twice as fast
        connection.close()
    return client, str(number)


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "none"


def figures(stage: str, values: Mapping[str, Any]) -> list[Point]:
    """The figures of metrics/<round>/<stage>.json, named <stage>/<key>. What is the end of a curve is left to the curve."""
    ends = {f"align/{name}" for name in DPO}
    return [(k, float(v), 0) for k, v in flatten(values, f"{stage}/", "/") if isinstance(v, int | float) and k not in ends]


def curves(path: Path) -> list[Point]:
    """The curves of plots/<round>/<stage>.csv, which has a column `step`."""
    names, *rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    cells = [dict(zip(names, row, strict=True)) for row in rows]
    return [(f"{path.stem}/{k}", float(v), int(float(c["step"]))) for c in cells for k, v in c.items() if k != "step" and v]


def reconcile(root: Path, folder: Path) -> None:
    """Creates in MLflow what is missing of the results that stand in `root` and belong to its params.yaml."""
    config, lock = read_config(root / "params.yaml"), Lock.read(root)
    tracker = Tracker(folder, config)
    own = [*config.lineage(config.last), "r0"]
    for name in ("r0", *config.rounds):
        stages = [s for s in lock.stages if s.endswith(f"@{name}")] if name != "r0" else ["prepare", "baseline", "evaluate-baseline"]
        if not any(s in lock.stages for s in stages):
            continue
        run = tracker.round(name)
        found = {p.stem: figures(p.stem, read_json(p)) for s in stages for p in lock.files(s, "metrics")}
        drawn = [point for s in stages for p in lock.files(s, "plots") if p.stem == "align" for point in curves(p)]
        tracker.record(run, [*(point for points in found.values() for point in points), *drawn])
        if "evaluate" in found:
            tracker.status(run, "FINISHED")
            if name in own:
                tracker.auroc_by_round(name, found["evaluate"])
        _tie(tracker, lock, run, name)
    if lock.files(f"evaluate@{config.last}", "metrics"):
        tracker.status(tracker.parent, "FINISHED")


def _tie(tracker: Tracker, lock: Lock, run: str, name: str) -> None:
    """Ties a round's run to its data: the hashes that DVC knows them by, and the grid of pictures."""
    hashes = {
        "dvc.anomalies": lock.out(f"synthesize@{name}", f"data/{name}/anomalies"),
        "dvc.adapter": lock.out("baseline" if name == "r0" else f"align@{name}", f"data/{name}/adapter"),
    }
    for tag, value in hashes.items():
        if value:
            tracker.client.set_tag(run, tag, value)
    if digest := lock.out("prepare", "data/splits/train"):
        tracker.data_set(run, digest)
    grid = lock.root / GRIDS / f"{name}.png"
    if "report" in lock.stages and f"align@{name}" in lock.stages and grid.exists():
        tracker.client.log_artifact(run, str(grid))


class Reader:
    """Carries what stages tell from the spool to MLflow."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.open: dict[Path, Told] = {}
        self.trackers: dict[str, Tracker] = {}

    def drain(self) -> bool:
        """Records what is new, and removes what stages have finished telling. Says whether a stage is still running."""
        with FileLock(self.home / "spool.lock"):
            for path in sorted((self.home / "spool").glob("*.jsonl")):
                told = self.open.setdefault(path, Told(path))
                first = not told.head
                if (messages := told.more()) or first or not told.alive:
                    self._record(told, messages)
                if not told.alive:
                    path.unlink()
            self.open = {p: t for p, t in self.open.items() if t.alive and p.exists()}
        return bool(self.open)

    def _record(self, told: Told, messages: Sequence[Mapping[str, Any]]) -> None:
        stage, name, config = told.head["stage"], told.head["round"], Config.model_validate(told.head["config"])
        key = config.model_dump_json()
        if key not in self.trackers:
            self.trackers[key] = Tracker(self.home, config)
        tracker = self.trackers[key]
        run, points = tracker.round(name), []
        for message in messages:
            if "key" in message:
                points.append((message["key"], message["value"], message["step"]))
                continue
            told.ended = True
            own = figures(stage, message["figures"])
            points += [*own, (f"seconds/{stage}", message["seconds"], 0), (f"megabytes/{stage}", message["megabytes"], 0)]
            if stage == "evaluate" and name in ("r0", *config.lineage(config.last)):
                tracker.auroc_by_round(name, own)
        tracker.record(run, points)
        tracker.status(run, "FINISHED" if told.ended else "RUNNING" if told.alive else "FAILED")


def watch(folder: Path) -> None:
    """Records what stages tell until none has run for a while. Only one process does so at a time."""
    with suppress(Timeout), watcher_lock(folder):
        reader, quiet = Reader(folder), 0
        while quiet < PATIENCE:
            quiet = 0 if reader.drain() else quiet + 1
            time.sleep(1)


def main() -> None:
    """See the module's head."""
    if sys.argv[1:2] == ["watch"]:
        return watch(Path(sys.argv[2]))
    state = home() / "reconciled.json"
    key = hashlib.sha256(Path("params.yaml").read_bytes() + lock_file(Path()).read_bytes()).hexdigest()
    told = any((home() / "spool").glob("*.jsonl"))
    if told or not (home() / "mlflow.db").exists() or not state.exists() or read_json(state) != key:
        Reader(home()).drain()
        with FileLock(home() / "spool.lock"):  # not while a watcher looks for what is missing
            reconcile(Path(), home())
        write_json(state, key)


if __name__ == "__main__":
    try:
        main()
    except KkaError as error:
        sys.exit(f"kka: {error}")
