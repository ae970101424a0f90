"""`kka tune`: a study of Optuna on what the section `tune` of params.yaml says, gone on with where it was left.

    python -m pipelines.tune                    trials, then the best of them again on fresh seeds; prints the outcome
    python -m pipelines.tune --apply [TRIAL]    writes the winner, or that trial, into params.yaml

Trials run in processes of their own, so that one that is killed costs its trial alone; this process looks after them, and tells
MLflow.
"""

import argparse
import difflib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState
from tqdm import tqdm

from kka.config import Config, read_config
from kka.doctor import cores, preflight
from kka.errors import KkaError
from kka.presets import edited
from kka.records import write_text
from pipelines._experiments import dvc, name_of
from pipelines._mirror import Mirror
from pipelines._outcome import candidates, confirm, describe, jobs, winner
from pipelines._space import check_space, rounded
from pipelines._spool import home
from pipelines._stage import prepare_torch
from pipelines._study import folder, open_study, over, work
from pipelines._trials import Trials

PARAMS = Path("params.yaml")
_KILLED = 3  # times that all processes may die before the study stops
_LOOK = 1.0  # seconds between two looks at the storage


def conduct(config: Config, options: argparse.Namespace) -> None:
    """The whole study."""
    preflight(config, Path.cwd())
    check_space(config, Path.cwd())
    study = open_study(config, home())
    place = folder(config, home())
    place.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + (config.tune.timeout or 1e9)
    print(f"study {config.tune.study}: {len(over(study))} of {config.tune.trials} trials are done, in {place}", file=sys.stderr)
    prepare_torch()
    judges = Trials(config, place).prepare()
    if study.user_attrs.get("judges", judges) != judges:
        raise KkaError(f"tune: the pictures in {place} are not those that the study began with. Give the study another name (tune.study).")
    study.set_user_attr("judges", judges)
    mirror = Mirror(home(), config)
    words = ["--worker", "trials", "--deadline", str(deadline), *(["--dvc"] if options.dvc else [])]

    def left() -> int:
        return 0 if time.time() > deadline else config.tune.trials - len(over(study))

    _look_after(words, config, left, lambda: mirror.update(study), "trials")
    if not config.tune.pareto and config.tune.confirm.top:
        candidates(study, config)  # raises where no trial finished
        _look_after(["--worker", "confirm"], config, lambda: len(jobs(study, config)), lambda: None, "again")
    report = describe(study, config)
    mirror.finish(study, report, place)
    print(report)


def _look_after(words: list[str], config: Config, left: Callable[[], int], look: Callable[[], None], what: str) -> None:
    """Keeps as many processes at work as params.yaml wants, until nothing is left to do."""
    place, deaths = folder(config, home()), 0
    with tqdm(total=left(), desc=what, disable=None) as bar:
        while (before := left()) > 0:
            workers = [_start(words, config, place / f"worker-{i}.log") for i in range(min(config.tune.workers, before))]
            try:
                while any(worker.poll() is None for worker in workers):
                    time.sleep(_LOOK)
                    look()
                    bar.update(bar.total - left() - bar.n)
            finally:
                for worker in workers:
                    worker.terminate()
            for worker in workers:
                if worker.returncode > 0:
                    raise KkaError(_last_words(place))
            deaths += left() == before
            if deaths == _KILLED:
                raise KkaError(f"tune: its processes were killed {_KILLED} times and nothing was finished. Is memory short?")
        bar.update(bar.total - bar.n)
    look()


def _start(words: list[str], config: Config, log: Path) -> subprocess.Popen[bytes]:
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // config.tune.workers))}
    study = ["--study", config.tune.study, "--trials", str(config.tune.trials)]
    with log.open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.tune", *words, *study], env=os.environ | threads, stdout=told, stderr=subprocess.STDOUT
        )


def _last_words(place: Path) -> str:
    """The sentence with which a process stopped."""
    lines = [line for log in sorted(place.glob("worker-*.log")) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    own = [line.removeprefix("kka: ") for line in lines if line.startswith("kka: ")]
    return own[-1] if own else f"tune: a process stopped: {lines[-1] if lines else 'it said nothing'}. {place}/worker-*.log says more."


def apply(config: Config, number: str, with_dvc: bool) -> None:
    """Writes the winner, or the trial of that number, into params.yaml, and says what has changed and how sure it is."""
    study = open_study(config, home(), go_on=False)
    if number == "winner":
        found = winner(study, config)
        if found is None:
            raise KkaError("tune: no trial was better than params.yaml on fresh seeds, so there is nothing to apply. It stays as it is.")
        number, sure = found.name, f"trial {found.name}: {found}"
    else:
        sure = f"trial {number}, whose figure in the study nobody has confirmed"
    trials = {str(t.number): t for t in over(study) if t.state == TrialState.COMPLETE}
    if number not in trials:
        raise KkaError(f"tune: there is no finished trial {number}. There are {', '.join(trials) or 'none'}.")
    if with_dvc:
        dvc(["exp", "apply", name_of(config, int(number))])
        return print(sure)
    before = PARAMS.read_text(encoding="utf-8")
    after = edited(before, rounded(trials[number].params))
    write_text(PARAMS, after)
    print("".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "params.yaml", "params.yaml", n=0)) + f"\n{sure}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kka tune", description="A study of what the section tune of params.yaml says.")
    parser.add_argument("--trials", type=int, help="in place of tune.trials")
    parser.add_argument("--study", help="in place of tune.study")
    parser.add_argument("--workers", type=int, help="in place of tune.workers")
    parser.add_argument("--dvc", action="store_true", help="each trial is an experiment of DVC, without pruning between rounds")
    parser.add_argument("--apply", nargs="?", const="winner", metavar="TRIAL", help="write the winner, or that trial, into params.yaml")
    parser.add_argument("--worker", choices=("trials", "confirm"), help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """See the module's head. Raises KkaError."""
    options = _arguments(words)
    config = read_config(PARAMS)
    own = {k: v for k in ("trials", "study", "workers") if (v := getattr(options, k)) is not None}
    config = Config.model_validate(config.model_dump() | {"tune": config.tune.model_dump() | own})
    if options.worker is None:
        return conduct(config, options) if options.apply is None else apply(config, options.apply, options.dvc)
    prepare_torch()
    study: optuna.Study = open_study(config, home())
    if options.worker == "trials":
        return work(study, config, home(), options.deadline, options.dvc)
    return confirm(study, config, home())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KkaError as problem:
        sys.exit(f"kka: {problem}")
    except KeyboardInterrupt:
        sys.exit("kka: stopped. `kka tune` goes on where it was.")
