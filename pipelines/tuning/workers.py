"""The processes that work on a study, and the one that looks after them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from kka.errors import KkaError
from kka.project.config import Config
from kka.project.doctor import cores
from pipelines.stage import sentences

_KILLED = 3  # processes in a row that were killed before anything was finished
_LOOK = 1.0  # seconds between two looks at the storage
_PAUSE = 30.0  # seconds before a process begins anew where others have all the work


def look_after(
    words: Sequence[str], config: Config, place: Path, left: Callable[[], int], look: Callable[[], list[str]]
) -> None:
    """Keeps as many processes at work as params.yaml wants until nothing is left to do; one that is killed is replaced.
    Raises KkaError with the sentence of a process that stops by itself, or where all are killed. `look` gives lines on
    what is done, each printed once."""
    crew: dict[int, subprocess.Popen[bytes]] = {}
    rest, killed, before = dict.fromkeys(range(config.tune.workers), 0.0), 0, left()
    said: set[str] = set()
    with suppress(Exception):
        said |= set(look())  # what was done before this process began
    with tqdm(total=before, desc=words[1], disable=None) as bar:
        try:
            while (now := left()) > 0:
                killed = killed if now == before else 0
                for i in [i for i, worker in crew.items() if worker.poll() is not None]:
                    code = crew.pop(i).returncode
                    if code > 0:
                        raise KkaError(_last_words(_log(place, i)))
                    killed += code < 0
                    rest[i] = time.time() + (_PAUSE if code == 0 else 0.0)
                if killed >= _KILLED:
                    raise KkaError(
                        f"tune: {killed} processes in a row were killed and nothing was finished. Is memory short?"
                    )
                for i, since in rest.items():
                    if i not in crew and time.time() >= since:
                        crew[i] = _start(words, config, _log(place, i))
                time.sleep(_LOOK)
                before = now
                _tell(look, said, lambda line: bar.write(line, file=sys.stderr))
                bar.update(bar.total - now - bar.n)
        finally:
            for worker in crew.values():
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)  # with what it has started; locks go with their processes
                worker.wait()
        bar.update(bar.total - bar.n)
        _tell(look, said, lambda line: bar.write(line, file=sys.stderr))


def _tell(look: Callable[[], list[str]], said: set[str], write: Callable[[str], object]) -> None:
    """What MLflow refuses now it is told later: it must not end a night's work."""
    try:
        found = look()
    except Exception as error:
        found = [f"MLflow was not told: {' '.join(str(error).split())[:200]}"]
    for line in found:
        if line not in said:
            write(line)
    said.update(found)


def _log(place: Path, number: int) -> Path:
    return place / f"worker-{number}.log"


def _start(words: Sequence[str], config: Config, log: Path) -> subprocess.Popen[bytes]:
    mine = int(os.environ.get("OMP_NUM_THREADS") or cores())
    threads = {"OMP_NUM_THREADS": str(max(1, mine // config.tune.workers))}
    study = ["--study", config.tune.study, "--trials", str(config.tune.trials)]
    with log.open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.tune", *words, *study],
            env=os.environ | threads, stdout=told, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _last_words(log: Path) -> str:
    """The sentence with which a process stopped."""
    told = log.read_text(encoding="utf-8")
    lines, own = [line for line in told.splitlines() if line.strip()], sentences(told)
    return (
        "\n".join(own)
        if own
        else f"tune: a process stopped: {lines[-1] if lines else 'it said nothing'}. {log} says more."
    )


def follow(parent: int) -> None:
    """Ends this process, and what it has started, when its parent is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
