"""The outcome of a study: its best trials run again on fresh seeds beside the defaults, a winner, and how sure that is.

The best of many noisy trials is the luckiest too: its figure in the study is too good, so a winner is named by fresh
seeds alone."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from kka.errors import KkaError
from kka.metrics import Comparison, compare_pairs
from kka.project.config import Config, with_values
from pipelines.reporting.tables import markdown
from pipelines.tuning.space import defaults, rounded
from pipelines.tuning.study import ended_trials, finished_trials, is_own_fault, redirected, study_folder
from pipelines.tuning.trial import Trials

DEFAULTS, WINNER = "defaults", "winner"
_SHOWN = 10
_OBJECTIVES = {
    "validation": "AUROC on the validation split",
    "panel": (
        "AUROC of held-out normals against a panel of generated anomalies, the mean over the rounds that they come from"
    ),
}


@dataclass(frozen=True)
class Confirmed:
    """The objective of one candidate on fresh seeds, in their order; `gains` over the defaults on the same seeds."""

    name: str
    values: list[float]
    gains: list[float]

    @property
    def gain(self) -> float:
        return statistics.fmean(self.gains)

    def compare(self, level: float, among: int) -> Comparison:
        """With the defaults, as the best of so many candidates; at a two-sided `level` for all of them at once."""
        return compare_pairs(self.gains, level=level, among=among)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials within their constraints, the best first; of two aims the front, the fewest images first.
    Raises KkaError where none finished."""
    finished = finished_trials(study)
    if not finished:
        ended = ended_trials(study)
        reasons = [trial.user_attrs["reason"] for trial in ended if "reason" in trial.user_attrs]
        raise KkaError(
            f"tune: of {len(ended)} trials none finished. {reasons[-1] if reasons else 'Raise tune.timeout.'}"
        )
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: trial.values[1])
    within = [trial for trial in finished if all(c <= 0 for c in trial.constraints.values())]
    return sorted(within, key=lambda trial: -trial.values[0])


def candidates(study: optuna.Study, config: Config) -> dict[str, dict[str, Any]]:
    """What is run again, by the trial's number: values by path; of `DEFAULTS` none."""
    others = [trial for trial in best_trials(study) if rounded(trial.params) != rounded(defaults(config))]
    top = others[: config.tune.confirm.top]
    return {DEFAULTS: {}, **{str(trial.number): rounded(trial.params) for trial in top}}


def _all_jobs(study: optuna.Study, config: Config) -> list[tuple[str, int]]:
    return [(name, seed) for seed in range(config.tune.confirm.seeds) for name in candidates(study, config)]


def jobs(study: optuna.Study, config: Config) -> list[tuple[str, int]]:
    """What has not been run again yet: candidates with the number of their fresh seed."""
    done = study.user_attrs
    return [job for job in _all_jobs(study, config) if _key(*job) not in done]


def _key(name: str, seed: int) -> str:
    return f"confirm {name} {seed}"


def confirm(study: optuna.Study, config: Config, home: Path) -> None:
    """Runs candidates again, in this process, that no other process runs; others may do the same beside it."""
    folder, values = study_folder(config, home), candidates(study, config)
    for name, seed in jobs(study, config):
        try:
            with FileLock(folder / "running" / _key(name, seed), timeout=0):
                if _key(name, seed) not in study.user_attrs:
                    study.set_user_attr(_key(name, seed), _run(study, config, folder, name, seed, values[name]))
        except Timeout:
            continue


def _run(
    study: optuna.Study, config: Config, folder: Path, name: str, seed: int, values: Mapping[str, Any]
) -> float | None:
    """The objective of the last round on a fresh seed; None where the parameters make nothing of use."""
    trials, root, auroc = Trials(config, folder), folder / "confirm" / f"{name}-{seed}", None
    try:
        with redirected(root / "log.txt"):
            changed = with_values(trials.config, {**values, "seed": trials.seed("confirm", seed)})
            for run in trials.rounds(changed, root):
                auroc = trials.judge(run).auroc
    except Exception as error:
        if not is_own_fault(study, error):
            raise
        study.set_user_attr(f"{_key(name, seed)} reason", f"{type(error).__name__}: {error}")
        return None
    return auroc


def trial_line(trial: FrozenTrial) -> str:
    """What has become of a trial that has ended."""
    outcome = f"{trial.values[0]:.4f}" if trial.state == TrialState.COMPLETE else trial.user_attrs["reason"]
    return f"trial {trial.number}: {outcome} ({trial.user_attrs.get('seconds', 0):.0f} s)"


def confirmation_lines(study: optuna.Study, config: Config) -> list[str]:
    """What has been run again on fresh seeds, a line each."""
    done = study.user_attrs
    values = {job: done[_key(*job)] for job in _all_jobs(study, config) if _key(*job) in done}
    return [
        f"{name} on fresh seed {seed}: {'of no use' if value is None else f'{value:.4f}'}"
        for (name, seed), value in values.items()
    ]


def confirmed(study: optuna.Study, config: Config) -> list[Confirmed]:
    """The candidates that came through on every fresh seed, the best first, beside the defaults on the seeds on which
    those did."""
    usual, through = _values(study, config, DEFAULTS), []
    for name in candidates(study, config) if usual else []:
        values = _values(study, config, name)
        if name == DEFAULTS or len(values) == config.tune.confirm.seeds:
            gains = [values[seed] - usual[seed] for seed in usual]
            through.append(Confirmed(name, [values[seed] for seed in usual], gains))
    return sorted(through, key=lambda candidate: -candidate.gain)


def _values(study: optuna.Study, config: Config, name: str) -> dict[int, float]:
    """The objective of a candidate by the number of the fresh seed, where it came through."""
    values = {seed: study.user_attrs.get(_key(name, seed)) for seed in range(config.tune.confirm.seeds)}
    return {seed: value for seed, value in values.items() if value is not None}


def winner(study: optuna.Study, config: Config) -> Confirmed | None:
    """The candidate that is best on fresh seeds; None where that is what params.yaml said when the study began."""
    through = confirmed(study, config)
    return through[0] if through and through[0].name != DEFAULTS else None


def verdict(study: optuna.Study, config: Config) -> str:
    """A sentence on the winner, and on how sure that is."""
    best, among = winner(study, config), len(candidates(study, config)) - 1
    if not confirmed(study, config):
        return "Nothing was confirmed on fresh seeds."
    if best is None:
        return "No trial is better than the parameters that the study began with."
    higher = sum(gain > 0 for gain in best.gains)
    allowance = f" The interval allows for the choice among {among}." if among > 1 else ""
    return (
        f"Trial {best.name} over the defaults: {best.compare(config.evaluate.interval, among)}; higher on {higher} of"
        f" {len(best.gains)} fresh seeds.{allowance}"
    )


def choose(study: optuna.Study, config: Config, number: str) -> tuple[FrozenTrial, str]:
    """The trial of that number, or the `WINNER`, and a sentence on how sure that is; `config` is that which the study
    began with. Raises KkaError where there is no such trial, or nothing is confirmed yet."""
    certainty = f"trial {number}, whose figure in the study nobody has confirmed"
    if number == WINNER:
        if not confirmed(study, config) or (config.tune.confirm.top and jobs(study, config)):
            raise KkaError(
                "tune: nothing is confirmed on fresh seeds yet. Let `kka tune` come to its end, or name a trial:"
                " --apply 7."
            )
        best, certainty = winner(study, config), verdict(study, config)
        if best is None:
            raise KkaError(f"tune: {certainty[0].lower()}{certainty[1:]} params.yaml stays as it is.")
        number = best.name
    finished = {str(trial.number): trial for trial in finished_trials(study)}
    if number not in finished:
        raise KkaError(f"tune: there is no finished trial {number}. There are {', '.join(finished) or 'none'}.")
    return finished[number], certainty


def study_report(study: optuna.Study, config: Config) -> str:
    """The outcome in Markdown."""
    ended, pareto = ended_trials(study), len(study.directions) > 1
    stopped = [trial for trial in ended if trial.state != TrialState.COMPLETE]
    trials = [_trial_row(trial) for trial in (best_trials(study) if pareto else best_trials(study)[:_SHOWN])]
    parts = [
        f"# Study {config.tune.study}",
        f"{len(ended)} trials, {len(stopped)} of them pruned or of no use. Objective:"
        f" {_OBJECTIVES[config.tune.objective]}.",
        "## The front" if pareto else "## Best trials",
        markdown(trials)
        if trials
        else "No trial kept within its constraints (readable and distinct texts, as many as were asked for).",
    ]
    rows = _confirmed_rows(study, config)
    if rows:
        parts += ["## On fresh seeds", markdown(rows), verdict(study, config)]
        parts += ["`kka tune --apply` writes it into params.yaml."] if winner(study, config) else []
    began = [{"parameter": path, "value": str(value)} for path, value in defaults(config).items()]
    parts += ["## The parameters that it began with", markdown(began)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _trial_row(trial: FrozenTrial) -> dict[str, str]:
    images = {"images": f"{trial.values[1]:.0f}"} if len(trial.values) > 1 else {}
    params = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in rounded(trial.params).items()}
    return {"trial": str(trial.number), "AUROC": f"{trial.values[0]:.4f}", **images, **params}


def _confirmed_rows(study: optuna.Study, config: Config) -> list[dict[str, str]]:
    level, among = config.evaluate.interval, len(candidates(study, config)) - 1
    rows = []
    for candidate in confirmed(study, config):
        gain = candidate.compare(level, among)
        interval = "" if candidate.name == DEFAULTS else f"{gain.gain:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
        auroc = f"{statistics.fmean(candidate.values):.4f}"
        rows.append({"trial": candidate.name, "AUROC": auroc, f"over the defaults ({level:.0%} interval)": interval})
    return rows
