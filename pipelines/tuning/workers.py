"""The processes that work on a study, and the one that conducts it: it starts them, replaces those that are killed, and
mirrors in MLflow what they have done."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from tqdm import tqdm

from kka.errors import KkaError
from kka.project.config import Config
from kka.project.doctor import cores
from pipelines.stage import sentences
from pipelines.tuning.confirm import candidates, confirmation_lines, jobs, study_report, trial_line
from pipelines.tuning.mirror import Mirror
from pipelines.tuning.study import ended_trials, open_study, redirected, study_folder
from pipelines.tuning.trial import Trials

Lines = Callable[[], list[str]]
_KILLED = 3  # processes in a row that were killed before anything was finished
_POLL = 1.0  # seconds between two looks at the storage
_PAUSE = 30.0  # seconds before a process begins anew where others have all the work


def conduct(config: Config, home: Path, mode: str) -> str:
    """Runs what is left of the study, trials first, then the best of them on fresh seeds; gives the outcome in
    Markdown. Raises KkaError where another process conducts it already."""
    study, folder = open_study(config, home, mode), study_folder(config, home)
    folder.mkdir(parents=True, exist_ok=True)
    ended = len(ended_trials(study))
    _print(f"study {config.tune.study}: {ended} of {config.tune.trials} trials are done, in {folder}")
    try:
        lock = FileLock(folder / "conductor").acquire(timeout=0)
    except Timeout:
        raise KkaError(
            f"tune: another `kka tune` is at work on the study '{config.tune.study}' here. Wait for it, or stop it."
        ) from None
    with lock:
        _prepare_judges(study, config, folder)
        mirror = Mirror(home, config)
        _run_trials(study, config, folder, mirror)
        if config.tune.confirm.top and not config.tune.pareto:
            candidates(study, config)  # raises where no trial finished
            _run_confirmations(study, config, folder)
        report = study_report(study, config)
        mirror.finish(study, report, folder)
    return report


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def _prepare_judges(study: optuna.Study, config: Config, folder: Path) -> None:
    """The pictures that all trials are judged by. Raises KkaError where they are not those that the study began
    with."""
    if config.tune.objective == "panel" and not (folder / "panel").exists():
        _print("the panel first: one loop with the parameters as they are, which takes as long as a trial")
    with redirected(folder / "panel.log"):
        judges = Trials(config, folder).prepare()
    if study.user_attrs.get("judges", judges) != judges:
        raise KkaError(
            f"tune: the pictures in {folder} are not those that the study began with. Give tune.study another name."
        )
    study.set_user_attr("judges", judges)


def _run_trials(study: optuna.Study, config: Config, folder: Path, mirror: Mirror) -> None:
    deadline = time.time() + (config.tune.timeout or 1e9)

    def remaining() -> int:
        return 0 if time.time() > deadline else config.tune.trials - len(ended_trials(study))

    def lines() -> list[str]:
        mirror.update(study)
        return [trial_line(trial) for trial in ended_trials(study)]

    look_after(["--worker", "trials", "--deadline", str(deadline)], config, folder, remaining, lines)


def _run_confirmations(study: optuna.Study, config: Config, folder: Path) -> None:
    def remaining() -> int:
        return len(jobs(study, config))

    def lines() -> list[str]:
        return confirmation_lines(study, config)

    look_after(["--worker", "confirm"], config, folder, remaining, lines)


def look_after(
    arguments: Sequence[str], config: Config, folder: Path, remaining: Callable[[], int], lines: Lines
) -> None:
    """Keeps as many processes at work as params.yaml wants until nothing remains to be done; one that is killed is
    replaced. Raises KkaError with the sentence of a process that stops by itself, or where all are killed. `lines` say
    what is done; each is printed once."""
    workers: dict[int, subprocess.Popen[bytes]] = {}
    starts, killed, before = dict.fromkeys(range(config.tune.workers), 0.0), 0, remaining()
    printed: set[str] = set()
    with suppress(Exception):
        printed |= set(lines())  # what was done before this process began
    with tqdm(total=before, desc=arguments[1], disable=None) as bar:
        try:
            while (now := remaining()) > 0:
                killed = 0 if now != before else killed
                for i in [i for i, worker in workers.items() if worker.poll() is not None]:
                    code = workers.pop(i).returncode
                    if code > 0:
                        raise KkaError(_last_words(_log(folder, i)))
                    killed += code < 0
                    starts[i] = time.time() + (_PAUSE if code == 0 else 0.0)
                if killed >= _KILLED:
                    raise KkaError(
                        f"tune: {killed} processes in a row were killed and nothing was finished. Is memory short?"
                    )
                for i, start in starts.items():
                    if i not in workers and time.time() >= start:
                        workers[i] = _start(arguments, config, _log(folder, i))
                time.sleep(_POLL)
                before = now
                _print_new(lines, printed, bar)
                bar.update(bar.total - now - bar.n)
        finally:
            for worker in workers.values():
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)  # with what it has started; locks go with their processes
                worker.wait()
        bar.update(bar.total - bar.n)
        _print_new(lines, printed, bar)


def _print_new(lines: Lines, printed: set[str], bar: tqdm) -> None:
    """What MLflow refuses now is written later: it must not end a night's work."""
    try:
        current = lines()
    except Exception as error:
        current = [f"MLflow did not take it: {' '.join(str(error).split())[:200]}"]
    for line in current:
        if line not in printed:
            bar.write(line, file=sys.stderr)
    printed.update(current)


def _log(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.log"


def _start(arguments: Sequence[str], config: Config, log: Path) -> subprocess.Popen[bytes]:
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
    share = {"OMP_NUM_THREADS": str(max(1, threads // config.tune.workers))}
    study = ["--study", config.tune.study, "--trials", str(config.tune.trials)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.tune", *arguments, *study],
            env=os.environ | share, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _last_words(log: Path) -> str:
    """The sentence with which a process stopped."""
    output = log.read_text(encoding="utf-8")
    lines, own = [line for line in output.splitlines() if line.strip()], sentences(output)
    if own:
        return "\n".join(own)
    return f"tune: a process stopped: {lines[-1] if lines else 'it said nothing'}. {log} says more."


def follow(parent: int) -> None:
    """Ends this process, and what it has started, when its parent is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
