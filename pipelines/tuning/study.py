"""The study itself: Optuna's storage, sampler and pruner, and the work of one process on it.

A journal file is for processes of one machine: each holds a lock on the trial that it runs, so that a trial whose
process was killed is seen and tried again. A database is for many machines: there a heartbeat says the same."""

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from kka.errors import Collapse, KkaError, out_of_memory
from kka.project.config import Config, check_config, with_values
from kka.records import seed_of
from pipelines.stage import Run
from pipelines.tuning.space import defaults, holds, suggest
from pipelines.tuning.trial import Trials, experiment

optuna.logging.set_verbosity(optuna.logging.ERROR)
_BEAT = 60  # seconds between two signs of life in a database
_TRIES = 3  # of a trial whose process was killed
_AT_RANDOM = 5  # trials before sampler and pruner look at others


def study_folder(config: Config, home: Path) -> Path:
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
    spec = _spec(config) | {"mode": mode}
    if "spec" not in study.user_attrs:
        study.set_user_attr("spec", json.dumps(spec, sort_keys=True))
        if holds(config, defaults(config)):
            study.enqueue_trial(defaults(config))
    difference = first_difference(json.loads(study.user_attrs["spec"]), spec)
    if difference:
        raise KkaError(
            f"tune.study: '{tune.study}' was begun with {difference}. Put it back, or give the new study another name."
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
    tune = config.tune.model_dump() | spec.pop("tune")
    return check_config({k: v for k, v in spec.items() if k != "mode"} | {"tune": tune})


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
    # the retry of trials is called experimental
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    url = config.tune.storage
    if url is None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        home.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_TRIES - 1)
    return optuna.storages.RDBStorage(
        url, heartbeat_interval=_BEAT, grace_period=3 * _BEAT, heartbeat_stale_trial_callback=retry
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


def first_difference(before: Any, now: Any, path: str = "") -> str:
    """The first value in which two nested mappings differ, as a part of a sentence; empty where there is none."""
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                return first_difference(one, other, f"{path}{key}.")
            return f"{path}{key} {one!r} and is now asked to go on with {other!r}"
    return ""


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that need not be run again: finished, pruned, or failed for a reason of their own."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in trials if trial.state != TrialState.FAIL or "reason" in trial.user_attrs]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have their objective."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def work(study: optuna.Study, config: Config, home: Path, deadline: float) -> None:
    """Runs trials until there are enough, or until the time `deadline`, in this process; others may do the same beside
    it."""
    folder = study_folder(config, home)
    (folder / "running").mkdir(parents=True, exist_ok=True)
    # held from the count of trials to the lock of the next one
    claim = FileLock(folder / "running" / "claim", thread_local=False)
    while time.time() < deadline:
        with claim:
            revive(study, folder, config)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if len(ended_trials(study)) + len(running) >= config.tune.trials:
                break
            # sampled by the number of the trial, and not by what this process has drawn before
            study.sampler = _sampler(config, seed_of(config.seed, "sampler", len(study.get_trials(deepcopy=False))))
            study.optimize(lambda trial: _run(trial, study, config, folder, claim), n_trials=1, catch=(Collapse,))


def revive(study: optuna.Study, folder: Path, config: Config) -> None:
    """Fails the trials whose process is gone, and puts them in the queue again. Wants the claim."""
    if config.tune.storage is not None:
        optuna.storages.fail_stale_trials(study)  # by their heartbeats
        return
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        try:
            with FileLock(folder / "running" / str(trial.number), timeout=0):
                study.tell(trial.number, state=TrialState.FAIL)
                tries = int(trial.user_attrs.get("tries", 1))
                if tries < _TRIES:
                    study.enqueue_trial(trial.params, user_attrs={"tries": tries + 1, "retry of": trial.number})
        except Timeout:
            continue


def _run(
    trial: optuna.Trial, study: optuna.Study, config: Config, folder: Path, claim: FileLock
) -> float | tuple[float, float]:
    """Runs a trial. One whose own fault it is that it failed is given up with the reason."""
    with FileLock(folder / "running" / str(trial.number)):
        claim.release()
        trials, root, began = Trials(config, folder), folder / "trials" / str(trial.number), time.perf_counter()
        values = suggest(trial, config)
        changed = with_values(trials.config, values)
        try:
            with redirected(root / "log.txt"):
                if json.loads(study.user_attrs["spec"])["mode"] == "dvc":
                    rounds = experiment(config, values, trial.number, root)
                else:
                    rounds = trials.rounds(changed, root)
                auroc = _judge_rounds(trial, trials, rounds, changed.last)
        except Exception as error:
            if not is_own_fault(study, error):
                raise
            reason = str(error) if isinstance(error, Collapse) else f"{type(error).__name__}: {error}"
            trial.set_user_attr("reason", reason)
            raise (Collapse if config.tune.pareto else optuna.TrialPruned)(reason) from None
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - began, 1))
        figures = [trial.user_attrs[name] for name in changed.lineage(changed.last)]
        _set_constraints(trial, figures, changed)
        images = sum(int(f["kept"]) + changed.synthesize.controls for f in figures)
        return (auroc, float(images)) if config.tune.pareto else auroc


def is_own_fault(study: optuna.Study, error: Exception) -> bool:
    """Whether an error comes from what is tried alone: its parameters make nothing of use, or memory does not hold it
    where it held another trial. Any other error would meet all trials."""
    return isinstance(error, Collapse) or (out_of_memory(error) and bool(finished_trials(study)))


def _judge_rounds(trial: optuna.Trial, trials: Trials, rounds: Iterator[Run], last: str) -> float:
    """Judges each round's detector and reports it; the last one's objective. Raises TrialPruned for a trial that lies
    behind."""
    auroc = 0.0
    for number, run in enumerate(rounds, start=1):
        result = trials.judge(run)
        auroc = result.auroc
        trial.set_user_attr(run.round, {"auroc": auroc, **result.figures})
        if not trials.config.tune.pareto:
            trial.report(auroc, number)
            if run.round != last and trial.should_prune():
                reason = f"behind the median of the others in {run.round}"
                trial.set_user_attr("reason", reason)
                raise optuna.TrialPruned(reason)
    return auroc


def _set_constraints(trial: optuna.Trial, figures: Sequence[Mapping[str, float]], config: Config) -> None:
    """What the winner must keep: readable and distinct texts, and as many as were asked for; by the figures of each
    round."""
    health = config.align.health
    trial.set_constraint("readable", health.readable - min(f["readable"] for f in figures))
    trial.set_constraint("distinct", health.distinct - min(f["distinct"] for f in figures))
    trial.set_constraint("missing descriptions", max(config.describe.count - f["kept"] for f in figures))


@contextmanager
def redirected(path: Path) -> Iterator[None]:
    """What the stages print goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield
