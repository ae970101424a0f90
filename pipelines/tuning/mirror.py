"""A study in MLflow: one parent run, a nested run for each trial that has ended. May be brought up to date at any
time."""

import statistics
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kka.project.config import Config
from kka.records import write_text
from pipelines.tracking.database import connect
from pipelines.tuning.confirm import confirmed, verdict
from pipelines.tuning.space import rounded
from pipelines.tuning.study import ended_trials, finished_trials

_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
_PLOTS = ("optimization_history", "intermediate_values", "slice", "param_importances")


class Mirror:
    """The runs of one study. Only the process that conducts it writes here."""

    def __init__(self, home: Path, config: Config) -> None:
        self.config = config
        self.client, self.experiment = connect(home)
        self.parent = self._find("parent") or self._begin_study()
        ended = self._search(f"tags.`mlflow.parentRunId` = '{self.parent}' and attributes.status != 'RUNNING'")
        self.known = {run.data.tags["kka.trial"] for run in ended}  # a trial that is half written is written anew

    def _begin_study(self) -> str:
        run, tune = self._begin("parent", f"study {self.config.tune.study}", {}), self.config.tune
        for path, d in tune.space.items():
            dimension = f"one of {d.choices}" if d.choices else f"{d.low:g} to {d.high:g}{', log' if d.log else ''}"
            self.client.log_param(run, path, dimension)
        self.client.log_param(run, "tune.objective", tune.objective)
        return run

    def update(self, study: optuna.Study) -> None:
        """Adds the trials that have ended and are not there yet."""
        for trial in ended_trials(study):
            if str(trial.number) not in self.known:
                self._add(trial)
                self.known.add(str(trial.number))

    def finish(self, study: optuna.Study, report: str, folder: Path) -> None:
        """The outcome on the parent: its figures, plots and report."""
        self.update(study)
        for name, share in _importances(study).items():
            self.client.log_metric(self.parent, f"importance/{name}", share)
        for candidate in confirmed(study, self.config):
            mean = statistics.fmean(candidate.values)
            self.client.log_metric(self.parent, f"fresh_seeds/{candidate.name}", mean)
        self.client.set_tag(self.parent, "kka.winner", verdict(study, self.config))
        self.client.set_tag(self.parent, "kka.judges", study.user_attrs.get("judges", ""))
        self.client.set_tag(self.parent, "mlflow.note.content", report)
        write_text(folder / "study.md", report)
        for path in [folder / "study.md", *draw(study, folder)]:
            self.client.log_artifact(self.parent, str(path))
        self.client.set_terminated(self.parent, "FINISHED")

    def _add(self, trial: FrozenTrial) -> None:
        run = self._find(str(trial.number)) or self._begin(
            str(trial.number), f"trial {trial.number}", {"mlflow.parentRunId": self.parent}, trial
        )
        self._write(run, trial)
        ended = int(trial.datetime_complete.timestamp() * 1000) if trial.datetime_complete else None
        self.client.set_terminated(run, _STATUS[trial.state], ended)

    def _write(self, run: str, trial: FrozenTrial) -> None:
        for path, value in rounded(trial.params).items():
            self.client.log_param(run, path, value)
        for number, name in enumerate(self.config.lineage(self.config.last), start=1):
            for key, value in trial.user_attrs.get(name, {}).items():
                self.client.log_metric(run, key, value, step=number)
        if "seconds" in trial.user_attrs:
            self.client.log_metric(run, "seconds", trial.user_attrs["seconds"])
        if "reason" in trial.user_attrs:
            self.client.set_tag(run, "kka.reason", trial.user_attrs["reason"][:4000])
        if trial.state == TrialState.COMPLETE:  # trials side by side on the parent, by their number
            self.client.log_metric(self.parent, "auroc", trial.values[0], step=trial.number)

    def _begin(self, number: str, name: str, tags: dict[str, str], trial: FrozenTrial | None = None) -> str:
        about = {"kka.study": self.config.tune.study, "kka.trial": number, "mlflow.runName": name, **tags}
        started = int(trial.datetime_start.timestamp() * 1000) if trial and trial.datetime_start else None
        return str(self.client.create_run(self.experiment, start_time=started, tags=about).info.run_id)

    def _find(self, number: str) -> str | None:
        runs = self._search(f"tags.`kka.study` = '{self.config.tune.study}' and tags.`kka.trial` = '{number}'")
        return str(runs[0].info.run_id) if runs else None

    def _search(self, query: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment], query, max_results=5000))


def _importances(study: optuna.Study) -> dict[str, float]:
    """How much of the objective's variance each parameter explains (fANOVA); empty where fewer than ten finished, or
    all are alike."""
    finished = finished_trials(study)
    if len(finished) < 10 or len({t.values[0] for t in finished}) < 2:
        return {}
    target = (lambda t: float(t.values[0])) if len(finished[0].values) > 1 else None
    return dict(optuna.importance.get_param_importances(study, evaluator=_evaluator(), target=target))


def _evaluator() -> Any:
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def draw(study: optuna.Study, folder: Path) -> list[Path]:
    """Optuna's plots of the study as pictures."""
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    pareto = len(study.directions) > 1
    names = ("pareto_front",) if pareto else _PLOTS if _importances(study) else _PLOTS[:3]
    paths = []
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its own plots experimental
            options = {"evaluator": _evaluator()} if name == "param_importances" else {}
            axes = getattr(plots, f"plot_{name}")(study, **options)
        figure = getattr(axes, "figure", None) or axes[0].figure
        figure.set_size_inches(16 if name == "slice" else 9, 5)
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        plt.close(figure)
        paths.append(folder / f"{name}.png")
    return paths
