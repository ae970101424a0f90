"""What a study has found: its best trials run again on fresh seeds beside the defaults, a winner, and how sure that is.

The best of many noisy trials is the luckiest too: its figure in the study is too good, so a winner is named by fresh
seeds alone."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t

from kka.errors import Collapse, KkaError
from kka.project.config import Config
from pipelines.reporting.tables import markdown
from pipelines.tuning.space import changed, rounded, value
from pipelines.tuning.study import folder, over, quiet
from pipelines.tuning.trial import Trials

DEFAULTS = "defaults"
_SHOWN = 10


@dataclass(frozen=True)
class Confirmed:
    """The objective of one candidate on fresh seeds, in their order; `over` the defaults on the same seeds."""

    name: str
    values: list[float]
    over: list[float]

    @property
    def gain(self) -> float:
        return statistics.fmean(self.over)

    @property
    def error(self) -> float:
        """The standard error of the gain."""
        return statistics.stdev(self.over) / math.sqrt(len(self.over)) if len(self.over) > 1 else math.inf

    def surely(self, among: int) -> bool:
        """Whether the gain is more than chance gives the best of so many candidates in one study of twenty (Student's
        t, Bonferroni)."""
        return (
            len(self.over) > 1 and self.gain > float(t.ppf(1 - 0.025 / max(among, 1), len(self.over) - 1)) * self.error
        )

    def __str__(self) -> str:
        better = sum(v > 0 for v in self.over)
        return (
            f"{self.gain:+.5f} ± {self.error:.5f} over the defaults, better on {better} of {len(self.over)} fresh seeds"
        )


def best(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials within their constraints, the best first; of two aims the front, the fewest images first.
    Raises KkaError where none finished."""
    finished = [trial for trial in over(study) if trial.state == TrialState.COMPLETE]
    if not finished:
        reasons = [trial.user_attrs["reason"] for trial in over(study) if "reason" in trial.user_attrs]
        raise KkaError(
            f"tune: of {len(over(study))} trials none finished. {reasons[-1] if reasons else 'Raise tune.timeout.'}"
        )
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: trial.values[1])
    kept = [trial for trial in finished if all(c <= 0 for c in trial.constraints.values())]
    return sorted(kept, key=lambda trial: -trial.values[0])


def candidates(study: optuna.Study, config: Config) -> dict[str, dict[str, Any]]:
    """What is run again, by the trial's number: values by path; of `DEFAULTS` none."""
    now = rounded({path: value(config, path) for path in config.tune.space})
    others = [trial for trial in best(study) if rounded(trial.params) != now]
    return {DEFAULTS: {}, **{str(trial.number): rounded(trial.params) for trial in others[: config.tune.confirm.top]}}


def jobs(study: optuna.Study, config: Config) -> list[tuple[str, int]]:
    """What has not been run again yet: candidates with the number of their fresh seed."""
    done = study.user_attrs
    return [(name, i) for name, i in _wanted(study, config) if _key(name, i) not in done]


def _wanted(study: optuna.Study, config: Config) -> list[tuple[str, int]]:
    return [(name, i) for i in range(config.tune.confirm.seeds) for name in candidates(study, config)]


def confirm(study: optuna.Study, config: Config, home: Path) -> None:
    """Runs candidates again, in this process, that no other process runs; others may do the same beside it."""
    place, chosen = folder(config, home), candidates(study, config)
    for name, i in jobs(study, config):
        try:
            with FileLock(place / "running" / _key(name, i), timeout=0):
                if _key(name, i) not in study.user_attrs:
                    study.set_user_attr(_key(name, i), _again(study, config, place, name, i, chosen[name]))
        except Timeout:
            continue


def _again(
    study: optuna.Study, config: Config, place: Path, name: str, i: int, values: Mapping[str, Any]
) -> float | None:
    """The objective of the last round on a fresh seed; None where the parameters make nothing of use."""
    trials, root, found = Trials(config, place), place / "confirm" / f"{name}-{i}", None
    try:
        with quiet(root / "log.txt"):
            for run in trials.rounds(changed(trials.config, values, seed=trials.seed("confirm", i)), root):
                found = trials.look(run).auroc
    except (Collapse, RuntimeError) as error:
        study.set_user_attr(f"{_key(name, i)} reason", f"{type(error).__name__}: {error}")
        return None
    return found


def in_a_line(trial: FrozenTrial) -> str:
    """What has become of a trial that is over."""
    told = f"{trial.values[0]:.4f}" if trial.state == TrialState.COMPLETE else trial.user_attrs["reason"]
    return f"trial {trial.number}: {told} ({trial.user_attrs.get('seconds', 0):.0f} s)"


def again(study: optuna.Study, config: Config) -> list[str]:
    """What has been run again on fresh seeds, a line each."""
    done = study.user_attrs
    return [
        f"{name} on fresh seed {i}: {_figure(done[_key(name, i)])}"
        for name, i in _wanted(study, config)
        if _key(name, i) in done
    ]


def _figure(value: float | None) -> str:
    return "of no use" if value is None else f"{value:.4f}"


def _key(name: str, i: int) -> str:
    return f"confirm {name} {i}"


def confirmed(study: optuna.Study, config: Config) -> list[Confirmed]:
    """The candidates that came through on every fresh seed, the best first, beside the defaults on the seeds on which
    those did."""
    done, seeds = study.user_attrs, range(config.tune.confirm.seeds)
    usual: dict[int, float] = {i: v for i in seeds if (v := done.get(_key(DEFAULTS, i))) is not None}
    found = []
    for name in candidates(study, config) if usual else []:
        told = [done.get(_key(name, i)) for i in (usual if name == DEFAULTS else seeds)]
        if None not in told:
            values = {i: float(done[_key(name, i)]) for i in usual}
            found.append(Confirmed(name, list(values.values()), [v - usual[i] for i, v in values.items()]))
    return sorted(found, key=lambda c: -c.gain)


def winner(study: optuna.Study, config: Config) -> Confirmed | None:
    """The candidate that is best on fresh seeds; None where that is what params.yaml said when the study began."""
    found = confirmed(study, config)
    return found[0] if found and found[0].name != DEFAULTS else None


def verdict(study: optuna.Study, config: Config) -> str:
    """A sentence on the winner, and on how sure that is."""
    found, among = winner(study, config), len(candidates(study, config)) - 1
    if not confirmed(study, config):
        return "Nothing was confirmed on fresh seeds."
    if found is None:
        return "No trial is better than the parameters that the study began with."
    sure = "" if found.surely(among) else f" That is within what chance gives the best of {among}."
    return f"Trial {found.name}: {found}.{sure}"


def describe(study: optuna.Study, config: Config) -> str:
    """The outcome in Markdown."""
    ended, pareto = over(study), len(study.directions) > 1
    stopped = [trial for trial in ended if trial.state != TrialState.COMPLETE]
    rows = [
        _row(str(trial.number), trial, rounded(trial.params))
        for trial in (best(study) if pareto else best(study)[:_SHOWN])
    ]
    parts = [
        f"# Study {config.tune.study}",
        f"{len(ended)} trials, {len(stopped)} of them pruned or of no use. Objective: {_objective(config)}.",
        "## The front" if pareto else "## Best trials",
        markdown(rows)
        if rows
        else "No trial kept within its constraints (readable and distinct texts, as many as were asked for).",
    ]
    if found := confirmed(study, config):
        rows = [
            {"trial": c.name, "AUROC": _spread(c.values), "over the defaults": f"{c.gain:+.5f} ± {c.error:.5f}"}
            for c in found
        ]
        parts += ["## On fresh seeds", markdown(rows), verdict(study, config)]
        parts += ["`kka tune --apply` writes it into params.yaml."] if winner(study, config) else []
    now = {path: value(config, path) for path in config.tune.space}
    parts += [
        "## The parameters that it began with",
        markdown([{"parameter": k, "value": str(v)} for k, v in now.items()]),
    ]
    return "\n\n".join(p.strip() for p in parts) + "\n"


def _objective(config: Config) -> str:
    if config.tune.objective == "validation":
        return "AUROC on the validation split"
    return (
        "AUROC of held-out normals against a panel of generated anomalies, the mean over the rounds that they come from"
    )


def _row(name: str, trial: FrozenTrial, values: Mapping[str, Any]) -> dict[str, str]:
    more = {"images": f"{trial.values[1]:.0f}"} if len(trial.values) > 1 else {}
    return {
        "trial": name,
        "AUROC": f"{trial.values[0]:.4f}",
        **more,
        **{k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in values.items()},
    }


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.5f}" + (f" ± {statistics.stdev(values):.5f}" if len(values) > 1 else "")
