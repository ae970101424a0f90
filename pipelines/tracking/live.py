"""What stages tell MLflow, on its way there: under mlruns/spool each stage writes a file of JSON lines while it runs.

One process (`track.py watch`) carries all of it to MLflow, now and until no stage has run for a while. So MLflow is
imported once for a whole `dvc repro` instead of once a stage, costs the stages no time and no memory, and cannot make
them fail."""

import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kka.log import Log
from kka.project.config import Config
from kka.records import read_json


def home() -> Path:
    """mlruns/ of the project. Temporary experiments of DVC run in another folder, and are recorded in the project's all
    the same."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / "mlruns"


@contextmanager
def telling(folder: Path, config: Config, stage: str, name: str, root: Path) -> Iterator[Log]:
    """A Log that tells what stage `stage` of round `name` measures, and at the end its figures, seconds and peak
    memory."""
    started = time.perf_counter()
    path = folder / "spool" / f"{time.time_ns()}-{os.getpid()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (part := path.with_suffix(".part")).open("w", encoding="utf-8") as spool:
        fcntl.flock(spool, fcntl.LOCK_EX)  # says that the stage is alive: it goes with the process, however that ends

        def tell(**message: object) -> None:
            print(json.dumps(message), file=spool, flush=True)

        system = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1")
        tell(stage=stage, round=name, config=config.model_dump(mode="json"), system=system)
        part.rename(path)
        _start_watcher(folder)
        yield lambda key, value, step: tell(key=key, value=value, step=step)
        seconds, megabytes = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        metrics = root / "metrics" / name / f"{stage}.json"
        tell(seconds=seconds, megabytes=megabytes, figures=read_json(metrics) if metrics.exists() else {})
    print(f"{stage} {name}: {seconds:.1f} s, {megabytes:.0f} MB at most", file=sys.stderr)


@dataclass
class Told:
    """A spool file as far as it has been read; `alive` as long as its stage runs, `ended` when it has said its last
    word."""

    path: Path
    head: dict[str, Any] = field(default_factory=dict)
    offset: int = 0
    alive: bool = True
    ended: bool = False

    def more(self) -> list[dict[str, Any]]:
        """The messages since the last look."""
        self.alive = not self._left()  # asked first, so that the last words of a stage that left are read
        with self.path.open("rb") as spool:
            spool.seek(self.offset)
            whole, _, _ = spool.read().rpartition(b"\n")
        self.offset += len(whole) + bool(whole)
        messages = [json.loads(line) for line in whole.splitlines()]
        if messages and not self.head:
            self.head = messages.pop(0)
        return messages

    def _left(self) -> bool:
        with self.path.open("rb") as spool:
            try:
                fcntl.flock(spool, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


def watcher_lock(folder: Path) -> FileLock:
    """The lock that the watcher holds while it runs."""
    return FileLock(folder / "watcher.lock", timeout=0)


def _start_watcher(folder: Path) -> None:
    try:
        watcher_lock(folder).acquire().lock.release()
    except Timeout:
        return
    # a session and an output of its own: Ctrl-C stops the stage, and nobody waits for the watcher
    with (folder / "watcher.log").open("w") as output:
        command = [sys.executable, "-m", "pipelines.track", "watch", str(folder)]
        subprocess.Popen(
            command, cwd=folder.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
