"""Carries what running stages tell (see live.py) to MLflow, now and until no stage has run for a while."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from kka.project.config import Config
from pipelines.tracking.live import Told, watcher_lock
from pipelines.tracking.reconcile import brief, figures
from pipelines.tracking.runs import Tracker

PATIENCE = 30  # seconds without a stage, after which the watcher leaves
LIVE = {
    "evaluate/auroc": "auroc",
    "evaluate/fpr95": "fpr95",
    "evaluate/false_positive_rate": "false_alarms",
}  # on the parent at once


class Reader:
    """Carries what stages tell from the spool to MLflow."""

    def __init__(self, home: Path, *, monitors: bool = True) -> None:
        self.home, self.monitoring = home, monitors
        self.open: dict[Path, Told] = {}
        self.trackers: dict[str, Tracker] = {}
        self.monitors: dict[Path, Any] = {}

    def drain(self) -> bool:
        """Records what is new, and removes what stages have finished telling. Says whether a stage is still running."""
        with FileLock(self.home / "spool.lock"):
            for path in sorted((self.home / "spool").glob("*.jsonl")):
                told = self.open.setdefault(path, Told(path))
                first = not told.head
                try:
                    if (messages := told.more()) or first or not told.alive:
                        self._record(told, messages)
                except ValidationError:
                    told.alive = False  # of another version, whose parameters nobody knows any more
                except Exception:
                    del self.open[
                        path
                    ]  # its file stays, and is read again from the beginning: what is there already is not logged twice
                    raise
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
        self._monitor(told, run, tracker.uri)
        for message in messages:
            if "key" in message:
                points.append((message["key"], message["value"], message["step"]))
                continue
            told.ended = True
            own = figures(stage, message["figures"])
            points += [
                *own,
                (f"seconds/{stage}", message["seconds"], 0),
                (f"megabytes/{stage}", message["megabytes"], 0),
            ]
            if stage == "evaluate" and name in ("r0", *config.lineage(config.last)) and tracker.leads(name):
                tracker.record(
                    tracker.parent, [(LIVE[k], brief(value), tracker.number(name)) for k, value, _ in own if k in LIVE]
                )
        tracker.record(run, points)
        tracker.status(run, "FINISHED" if told.ended else "RUNNING" if told.alive else "FAILED")

    def _monitor(self, told: Told, run: str, uri: str) -> None:
        """MLflow's system metrics of the time that a stage runs, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for
        them."""
        if self.monitoring and told.alive and told.head.get("system") and told.path not in self.monitors:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitors[told.path] = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
            self.monitors[told.path].start()
        elif not told.alive and told.path in self.monitors:
            self.monitors.pop(told.path).finish()


def watch(home: Path) -> None:
    """Records what stages tell until none has run for a while, or somebody removed the database. Only one process does
    so at a time."""
    with suppress(Timeout), watcher_lock(home):
        reader, quiet, database = Reader(home), 0, _inode(home)
        while quiet < PATIENCE and database in (None, found := _inode(home)):
            database = found
            quiet = 0 if reader.drain() else quiet + 1
            time.sleep(1)
        print(f"{time.process_time():.1f} s of processor time")


def _inode(home: Path) -> int | None:
    with suppress(FileNotFoundError):
        return os.stat(home / "mlflow.db").st_ino
    return None
