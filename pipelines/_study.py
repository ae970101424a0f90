"""The study itself: Optuna's storage, sampler and pruner, and the work of one process on it.

A journal file is for processes of one machine: each holds a lock on the trial that it runs, so that a trial whose process was
killed is seen and tried again. A database is for many machines: there a heartbeat says the same.
"""

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from kka.config import Config
from kka.errors import KkaError
from kka.records import seed_of
from pipelines._experiments import experiment
from pipelines._space import changed, defaults, suggest
from pipelines._trials import Trials

optuna.logging.set_verbosity(optuna.logging.ERROR)
_FIRST = 30  # seconds in which a new trial takes its lock
_BEAT = 60  # seconds between two signs of life in a database
_TRIES = 3  # of a trial whose process was killed
_AT_RANDOM = 5  # trials before sampler and pruner look at others


def folder(config: Config, home: Path) -> Path:
    """Where a study keeps its finished stages, its panel and its trials."""
    return home / "tune" / config.tune.study


def open_study(config: Config, home: Path, *, go_on: bool = True) -> optuna.Study:
    """The study that params.yaml names, begun where it is new. Raises KkaError where its storage cannot be reached, or, to `go_on`
    with it, where its name belongs to another space or other parameters."""
    tune = config.tune
    directions: list[Any] = ["maximize", "minimize"] if tune.pareto else ["maximize"]
    try:
        study = optuna.create_study(
            storage=_storage(config, home), study_name=tune.study, directions=directions, load_if_exists=True, pruner=_pruner(config)
        )
    except Exception as error:  # each database driver has its own ways to fail
        reason = " ".join(str(error).split())[:160]
        raise KkaError(f"tune.storage: {tune.storage or home} cannot be used ({type(error).__name__}: {reason}).") from None
    told = json.dumps(_spec(config), sort_keys=True)
    if (before := study.user_attrs.get("spec")) is None:
        study.set_user_attr("spec", told)
        if (values := defaults(config)) is not None:
            study.enqueue_trial(values)
    elif before != told and go_on:
        raise KkaError(
            f"tune.study: '{tune.study}' was begun with {_difference(json.loads(before), json.loads(told))}."
            " Put it back, or give the new study another name."
        )
    return study


def _storage(config: Config, home: Path) -> Any:
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # the retry of trials is called so
    url = config.tune.storage
    if url is None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        home.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_TRIES - 1)
    return optuna.storages.RDBStorage(url, heartbeat_interval=_BEAT, grace_period=3 * _BEAT, heartbeat_stale_trial_callback=again)


def _sampler(config: Config, seed: int) -> Any:
    if config.tune.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed % 2**32)
    return optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, multivariate=True, seed=seed % 2**32)


def _pruner(config: Config) -> Any:
    if config.tune.pruner == "none" or config.tune.pareto:  # Optuna prunes by one aim
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=_AT_RANDOM, n_min_trials=3)


def _spec(config: Config) -> dict[str, Any]:
    """What makes trials comparable."""
    tune = config.tune.model_dump(include={"objective", "pareto", "fits", "space"})
    return config.model_dump(mode="json", exclude={"tune"}) | {"tune": tune}


def _difference(before: Any, now: Any, path: str = "") -> str:
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                return _difference(one, other, f"{path}{key}.")
            return f"{path}{key} {one!r} and is now asked to go on with {other!r}"
    return "the same parameters"


def over(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are done with: finished, pruned, or failed for a reason of their own."""
    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [t for t in found if t.state != TrialState.FAIL or "reason" in t.user_attrs]


def work(study: optuna.Study, config: Config, home: Path, deadline: float, dvc: bool) -> None:
    """Runs trials until there are enough, or until the time `deadline`, in this process; others may do the same beside it. With
    `dvc` each trial is an experiment of DVC."""
    place = folder(config, home)
    (place / "running").mkdir(parents=True, exist_ok=True)
    claim = FileLock(place / "running" / "claim", thread_local=False)  # held from the count of trials to the lock of the next one
    while time.time() < deadline:
        with claim:
            revive(study, place, config)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if len(over(study)) + len(running) >= config.tune.trials:
                break
            # sampled by the number of the trial, and not by what this process has drawn before
            study.sampler = _sampler(config, seed_of(config.seed, "sampler", len(study.get_trials(deepcopy=False))))
            study.optimize(lambda trial: _run(trial, config, place, claim, dvc), n_trials=1, catch=(KkaError,))


def revive(study: optuna.Study, place: Path, config: Config) -> None:
    """Fails the trials of this machine whose process is gone, and puts them in the queue again."""
    if config.tune.storage is not None:  # Optuna's heartbeat does so
        return
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        lock = place / "running" / str(trial.number)
        if not lock.exists() and time.time() - started < _FIRST:
            continue
        try:
            with FileLock(lock, timeout=0):
                fresh = study.get_trials(deepcopy=False)[trial.number]
                if fresh.state == TrialState.RUNNING:
                    study.tell(trial.number, state=TrialState.FAIL)
                    tries = int(trial.user_attrs.get("tries", 1))
                    if tries < _TRIES:
                        study.enqueue_trial(trial.params, user_attrs={"tries": tries + 1, "retry of": trial.number})
        except Timeout:
            continue


def _run(trial: optuna.Trial, config: Config, place: Path, claim: FileLock, dvc: bool) -> float | tuple[float, float]:
    """Plays a trial. An adapter that falls apart, or another mistake that only these parameters make, prunes it with the reason."""
    with FileLock(place / "running" / str(trial.number)):
        claim.release()
        trials = Trials(config, place)
        root = place / "trials" / str(trial.number)
        values = suggest(trial, config)
        began, auroc, images = time.perf_counter(), 0.0, 0
        try:
            with quiet(root / "log.txt"):
                played = experiment(config, values, trial.number, root) if dvc else trials.rounds(changed(trials.config, values), root)
                for number, run in enumerate(played, start=1):
                    found = trials.look(run)
                    auroc, images = found.auroc, images + int(found.figures["kept"]) + config.synthesize.controls
                    trial.set_user_attr(run.round, {"auroc": auroc, **found.figures})
                    if not config.tune.pareto:
                        trial.report(auroc, number)
                        if trial.should_prune():
                            raise optuna.TrialPruned(f"behind the median of the others in {run.round}")
        except optuna.TrialPruned as pruned:
            trial.set_user_attr("reason", str(pruned))
            raise
        except KkaError as error:
            trial.set_user_attr("reason", str(error))
            if not config.tune.pareto:
                raise optuna.TrialPruned(str(error)) from None
            raise
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - began, 1))
        _constrain(trial, config)
        return (auroc, float(images)) if config.tune.pareto else auroc


def _constrain(trial: optuna.Trial, config: Config) -> None:
    """What the winner must keep: readable and distinct texts, and as many as were asked for."""
    rounds = [trial.user_attrs[name] for name in config.lineage(config.last)]
    health = config.align.health
    trial.set_constraint("readable", health.readable - min(r["readable"] for r in rounds))
    trial.set_constraint("distinct", health.distinct - min(r["distinct"] for r in rounds))
    trial.set_constraint("missing descriptions", max(config.describe.count - r["kept"] for r in rounds))


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """What the stages print goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as told, redirect_stdout(told), redirect_stderr(told):
        yield
