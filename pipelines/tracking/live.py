"""Live records: a running stage writes JSON lines to a file under mlruns/spool, and one process carries them to MLflow.

That process (`python -m pipelines.track watch`) stays until no stage has run for a while. So MLflow is imported once
for a whole `dvc repro` instead of once a stage, costs the stages no time and no memory, and cannot make them fail.
Every stage imports this module, so what only the watcher needs is imported in its functions."""

import fcntl
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError, model_validator

from kka.log import Log
from kka.project.config import BASELINE, Config
from kka.project.sections import Section
from kka.records import read_json

if TYPE_CHECKING:
    from pipelines.tracking.runs import Tracker

PATIENCE = 30  # seconds without a stage, after which the watcher leaves


def home() -> Path:
    """mlruns/ of the project. DVC's temporary experiments run in another folder, and are recorded in the project's all
    the same."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / "mlruns"


class Head(Section, ser_json_inf_nan="constants"):
    """The first line of a spool file: which stage writes it, and whether MLflow shall record the system's metrics."""

    stage: str
    round: str
    config: Config
    system: bool = False

    @model_validator(mode="after")
    def _round_is_known(self) -> "Head":
        if self.round not in (BASELINE, *self.config.rounds):
            raise ValueError(f"the config has no round {self.round}")
        return self


class Measurement(Section, ser_json_inf_nan="constants"):
    """A point of a curve."""

    key: str
    value: float
    step: int


class End(Section, ser_json_inf_nan="constants"):
    """The last line of a stage that ended well: what it cost, and its metrics file."""

    seconds: float
    megabytes: float
    figures: dict[str, Any]


Message = Measurement | End
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


@contextmanager
def recording(folder: Path, config: Config, stage: str, name: str, root: Path) -> Iterator[Log]:
    """A Log for what stage `stage` of round `name` measures. When the block ends well, the stage's figures, seconds and
    peak memory are added. Stages write to the spool under `folder` only."""
    started = time.perf_counter()
    path = folder / "spool" / f"{time.time_ns()}-{os.getpid()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as spool:
        fcntl.flock(spool, fcntl.LOCK_EX)  # shows that the stage is alive: the lock ends with the process

        def write(message: Head | Message) -> None:
            print(message.model_dump_json(), file=spool, flush=True)

        system = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1")
        write(Head(stage=stage, round=name, config=config, system=system))
        part.rename(path)
        _start_watcher(folder)
        yield lambda key, value, step: write(Measurement(key=key, value=value, step=step))
        seconds, megabytes = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        metrics = root / "metrics" / name / f"{stage}.json"
        figures = read_json(metrics) if metrics.exists() else {}
        write(End(seconds=seconds, megabytes=megabytes, figures=figures))
    print(f"{stage} {name}: {seconds:.1f} s, {megabytes:.0f} MB at most", file=sys.stderr)


@dataclass
class SpoolFile:
    """A stage's file in the spool and how far it has been read. `alive` as long as the stage runs, `ended` when its
    last message has been read."""

    path: Path
    head: Head | None = None
    offset: int = 0
    alive: bool = True
    ended: bool = False

    def read(self) -> list[Message]:
        """The messages since the last call. Raises ValidationError for a line that is none, and where a stage that has
        ended left no head."""
        self.alive = not self._unlocked()  # asked first, so that the last messages of a stage that has ended are read
        with self.path.open("rb") as spool:
            spool.seek(self.offset)
            whole, _, _ = spool.read().rpartition(b"\n")
        self.offset += len(whole) + bool(whole)
        lines = whole.splitlines()
        if self.head is None and (lines or not self.alive):
            self.head = Head.model_validate_json(lines.pop(0) if lines else b"")
        return [_MESSAGE.validate_json(line) for line in lines]

    def _unlocked(self) -> bool:
        with self.path.open("rb") as spool:
            try:
                fcntl.flock(spool, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


class Reader:
    """Carries the messages of stages from the spool to MLflow. `refused` are the files that this version cannot read,
    and leaves in place."""

    def __init__(self, home: Path, *, monitors: bool = True) -> None:
        self.home, self.monitoring = home, monitors
        self.files: dict[Path, SpoolFile] = {}
        self.refused: set[Path] = set()
        self.trackers: dict[str, Tracker] = {}
        self.monitors: dict[Path, Any] = {}

    def drain(self) -> bool:
        """Records what is new, and removes the files of stages that have ended. Returns whether a stage still runs."""
        with FileLock(self.home / "spool.lock"):
            for path in sorted({*(self.home / "spool").glob("*.jsonl")} - self.refused):
                self._drain(path)
            self.files = {p: f for p, f in self.files.items() if f.alive and p.exists()}
        return bool(self.files)

    def set_aside(self) -> list[Path]:
        """Renames the refused files to *.refused, so that nobody tries them again. Returns their new paths."""
        self.refused, refused = set(), sorted(path for path in self.refused if path.exists())
        return [path.rename(path.with_suffix(".refused")) for path in refused]

    def _drain(self, path: Path) -> None:
        file = self.files.setdefault(path, SpoolFile(path))
        first = file.head is None
        try:
            messages = file.read()
            if file.head and (messages or first or not file.alive):
                self._record(file, file.head, messages)
        except ValidationError:  # of another version, or torn
            del self.files[path]
            self.refused.add(path)
            return
        except Exception:
            # the file stays, and is read again from its beginning: what is there already is not logged twice
            del self.files[path]
            raise
        if not file.alive:
            path.unlink()

    def _record(self, file: SpoolFile, head: Head, messages: Sequence[Message]) -> None:
        from pipelines.tracking.runs import Tracker, figures, headline_points

        stage, name, config = head.stage, head.round, head.config
        key = config.model_dump_json()
        if key not in self.trackers:
            self.trackers[key] = Tracker(self.home, config)
        tracker = self.trackers[key]
        run, points = tracker.round(name), []
        self._monitor(file, head, run, tracker.uri)
        for message in messages:
            if isinstance(message, Measurement):
                points.append((message.key, message.value, message.step))
                continue
            file.ended = True
            measured = figures(stage, message.figures)
            costs = [(f"seconds/{stage}", message.seconds, 0), (f"megabytes/{stage}", message.megabytes, 0)]
            points += [*measured, *costs]
            if stage == "evaluate" and name in (BASELINE, *config.lineage(config.last)) and tracker.leads(name):
                values = {key: value for key, value, _ in measured}
                tracker.record(tracker.parent, headline_points(values, tracker.number(name)))
        tracker.record(run, points)
        tracker.status(run, "FINISHED" if file.ended else "RUNNING" if file.alive else "FAILED")

    def _monitor(self, file: SpoolFile, head: Head, run: str, uri: str) -> None:
        """MLflow's system metrics while the stage runs, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for them."""
        if self.monitoring and file.alive and head.system and file.path not in self.monitors:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitors[file.path] = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
            self.monitors[file.path].start()
        elif not file.alive and file.path in self.monitors:
            self.monitors.pop(file.path).finish()


def watch(folder: Path) -> None:
    """Records the messages of stages until none has run for a while, or the database was removed. Only one process does
    so at a time."""
    with suppress(Timeout), _watcher_lock(folder):
        reader, quiet, database = Reader(folder), 0, _inode(folder)
        while quiet < PATIENCE:
            before, database = database, _inode(folder)
            if before not in (None, database):
                break
            quiet = 0 if reader.drain() else quiet + 1
            time.sleep(1)
        print(f"{time.process_time():.1f} s of processor time")


def _inode(folder: Path) -> int | None:
    from pipelines.tracking.database import own_database

    with suppress(FileNotFoundError):
        return os.stat(own_database(folder)).st_ino
    return None


def _watcher_lock(folder: Path) -> FileLock:
    """The lock that the watcher holds while it runs."""
    return FileLock(folder / "watcher.lock", timeout=0)


def _start_watcher(folder: Path) -> None:
    try:
        _watcher_lock(folder).acquire().lock.release()
    except Timeout:
        return
    # a session and an output of its own: Ctrl-C stops the stage, and nobody waits for the watcher
    with (folder / "watcher.log").open("w") as output:
        command = [sys.executable, "-m", "pipelines.track", "watch", str(folder)]
        subprocess.Popen(
            command, cwd=folder.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
