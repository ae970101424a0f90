"""The study itself: Optuna's storage, sampler and pruner, and the work of one process on it.

A journal file is for processes of one machine: each holds a lock on the trial that it runs, so that a trial whose
process was killed is seen and tried again. A database is for many machines: there a heartbeat says the same."""

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

from kka.errors import Collapse, KkaError
from kka.project.config import Config, check_config
from kka.records import seed_of
from pipelines.stage import Run
from pipelines.tuning.experiments import experiment
from pipelines.tuning.space import changed, defaults, suggest
from pipelines.tuning.trial import Trials

optuna.logging.set_verbosity(optuna.logging.ERROR)
_BEAT = 60  # seconds between two signs of life in a database
_TRIES = 3  # of a trial whose process was killed
_AT_RANDOM = 5  # trials before sampler and pruner look at others


def folder(config: Config, home: Path) -> Path:
    """Where a study keeps its finished stages, its panel and its trials."""
    return home / "tune" / config.tune.study


def open_study(config: Config, home: Path, mode: str = "in process") -> optuna.Study:
    """The study that params.yaml names, begun where it is new. Raises KkaError where its storage cannot be reached, or
    its name belongs to another space, other parameters, or another mode of running trials."""
    tune = config.tune
    directions: list[Any] = ["maximize", "minimize"] if tune.pareto else ["maximize"]
    with _reaching(config, home):
        study = optuna.create_study(
            storage=_storage(config, home),
            study_name=tune.study,
            directions=directions,
            load_if_exists=True,
            pruner=_pruner(config),
        )
    told = _spec(config) | {"mode": mode}
    if (before := study.user_attrs.get("spec")) is None:
        study.set_user_attr("spec", json.dumps(told, sort_keys=True))
        if (values := defaults(config)) is not None:
            study.enqueue_trial(values)
    elif different := difference(json.loads(before), told):
        raise KkaError(
            f"tune.study: '{tune.study}' was begun with {different}. Put it back, or give the new study another name."
        )
    return study


def load_study(config: Config, home: Path) -> optuna.Study:
    """The study that params.yaml names, to be looked at. Raises KkaError where there is none."""
    with _reaching(config, home):
        storage = _storage(config, home)
        if config.tune.study in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=config.tune.study, storage=storage)
    raise KkaError(f"tune: there is no study '{config.tune.study}'. `kka tune` begins it.")


def begun_with(study: optuna.Study, config: Config) -> Config:
    """The config that the study was begun with, which its candidates are compared with; `tune` but for the space is
    that of now."""
    spec = json.loads(study.user_attrs["spec"])
    own = config.tune.model_dump() | spec.pop("tune")
    return check_config({k: v for k, v in spec.items() if k != "mode"} | {"tune": own})


@contextmanager
def _reaching(config: Config, home: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each database driver has its own ways to fail
        reason = " ".join(str(error).split())[:160]
        raise KkaError(
            f"tune.storage: {config.tune.storage or home} cannot be used ({type(error).__name__}: {reason})."
        ) from None


def _storage(config: Config, home: Path) -> Any:
    warnings.filterwarnings(
        "ignore", category=optuna.exceptions.ExperimentalWarning
    )  # the retry of trials is called so
    url = config.tune.storage
    if url is None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        home.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_TRIES - 1)
    return optuna.storages.RDBStorage(
        url, heartbeat_interval=_BEAT, grace_period=3 * _BEAT, heartbeat_stale_trial_callback=again
    )


def _sampler(config: Config, seed: int) -> Any:
    if config.tune.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed % 2**32)
    return optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, multivariate=True, seed=seed % 2**32)


def _pruner(config: Config) -> Any:
    if config.tune.pruner == "none" or config.tune.pareto:  # Optuna prunes by one aim
        return optuna.pruners.NopPruner()
    # not after round one, in which nothing is aligned yet: the best trial of the study in docs/tuning.md was the last
    # one there
    return optuna.pruners.MedianPruner(n_startup_trials=_AT_RANDOM, n_warmup_steps=2, n_min_trials=3)


def _spec(config: Config) -> dict[str, Any]:
    """What makes trials comparable."""
    tune = config.tune.model_dump(include={"objective", "pareto", "fits", "space"})
    return config.model_dump(mode="json", exclude={"tune"}) | {"tune": tune}


def difference(before: Any, now: Any, path: str = "") -> str:
    """The first value in which two nested mappings differ, as a part of a sentence; empty where there is none."""
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                return difference(one, other, f"{path}{key}.")
            return f"{path}{key} {one!r} and is now asked to go on with {other!r}"
    return ""


def over(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are done with: finished, pruned, or failed for a reason of their own."""
    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [t for t in found if t.state != TrialState.FAIL or "reason" in t.user_attrs]


def work(study: optuna.Study, config: Config, home: Path, deadline: float) -> None:
    """Runs trials until there are enough, or until the time `deadline`, in this process; others may do the same beside
    it."""
    place = folder(config, home)
    (place / "running").mkdir(parents=True, exist_ok=True)
    claim = FileLock(
        place / "running" / "claim", thread_local=False
    )  # held from the count of trials to the lock of the next one
    while time.time() < deadline:
        with claim:
            revive(study, place, config)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if len(over(study)) + len(running) >= config.tune.trials:
                break
            # sampled by the number of the trial, and not by what this process has drawn before
            study.sampler = _sampler(config, seed_of(config.seed, "sampler", len(study.get_trials(deepcopy=False))))
            study.optimize(lambda trial: _run(trial, study, config, place, claim), n_trials=1, catch=(Collapse,))


def revive(study: optuna.Study, place: Path, config: Config) -> None:
    """Fails the trials whose process is gone, and puts them in the queue again. Wants the claim."""
    if config.tune.storage is not None:
        optuna.storages.fail_stale_trials(study)  # by their heartbeats
        return
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        try:
            with FileLock(place / "running" / str(trial.number), timeout=0):
                study.tell(trial.number, state=TrialState.FAIL)
                tries = int(trial.user_attrs.get("tries", 1))
                if tries < _TRIES:
                    study.enqueue_trial(trial.params, user_attrs={"tries": tries + 1, "retry of": trial.number})
        except Timeout:
            continue


def _run(
    trial: optuna.Trial, study: optuna.Study, config: Config, place: Path, claim: FileLock
) -> float | tuple[float, float]:
    """Plays a trial. Where its parameters make nothing of use, it is pruned with the reason."""
    with FileLock(place / "running" / str(trial.number)):
        claim.release()
        trials, root, began = Trials(config, place), place / "trials" / str(trial.number), time.perf_counter()
        values = suggest(trial, config)
        made = changed(trials.config, values)
        try:
            with quiet(root / "log.txt"):
                played = (
                    experiment(config, values, trial.number, root)
                    if _mode(study) == "dvc"
                    else trials.rounds(made, root)
                )
                auroc = _rounds(trial, trials, made, played)
        except (
            Collapse,
            RuntimeError,
        ) as error:  # out of memory, say; where nothing has come through yet, it is not the trial's fault
            if isinstance(error, RuntimeError) and not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                raise
            reason = f"{'' if isinstance(error, Collapse) else type(error).__name__ + ': '}{error}"
            trial.set_user_attr("reason", reason)
            raise (Collapse if config.tune.pareto else optuna.TrialPruned)(reason) from None
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - began, 1))
        _constrain(trial, made)
        return (auroc, float(_images(trial, made))) if config.tune.pareto else auroc


def _mode(study: optuna.Study) -> str:
    return str(json.loads(study.user_attrs["spec"])["mode"])


def _rounds(trial: optuna.Trial, trials: Trials, made: Config, played: Iterator[Run]) -> float:
    """Looks at each round's detector and reports it; the last one's objective. Raises TrialPruned for a trial that lies
    behind."""
    auroc = 0.0
    for number, run in enumerate(played, start=1):
        found = trials.look(run)
        auroc = found.auroc
        trial.set_user_attr(run.round, {"auroc": auroc, **found.figures})
        if not trials.config.tune.pareto:
            trial.report(auroc, number)
            if run.round != made.last and trial.should_prune():
                reason = f"behind the median of the others in {run.round}"
                trial.set_user_attr("reason", reason)
                raise optuna.TrialPruned(reason)
    return auroc


def _told(trial: optuna.Trial, made: Config) -> list[dict[str, float]]:
    return [trial.user_attrs[name] for name in made.lineage(made.last)]


def _images(trial: optuna.Trial, made: Config) -> int:
    """How many pictures the trial has had made."""
    return sum(int(r["kept"]) + made.synthesize.controls for r in _told(trial, made))


def _constrain(trial: optuna.Trial, made: Config) -> None:
    """What the winner must keep: readable and distinct texts, and as many as were asked for."""
    rounds, health = _told(trial, made), made.align.health
    trial.set_constraint("readable", health.readable - min(r["readable"] for r in rounds))
    trial.set_constraint("distinct", health.distinct - min(r["distinct"] for r in rounds))
    trial.set_constraint("missing descriptions", max(made.describe.count - r["kept"] for r in rounds))


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """What the stages print goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as told, redirect_stdout(told), redirect_stderr(told):
        yield
