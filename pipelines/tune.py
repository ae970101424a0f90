"""`kka tune`: a study of Optuna on what the section `tune` of params.yaml says, gone on with where it was left.

    kka tune                    runs trials, then the best of them again on fresh seeds; prints the outcome
    kka tune --apply [TRIAL]    writes the winner, or that trial, into params.yaml

Trials run in processes of their own, so that one that is killed costs its trial alone; this process, of which a study
has one at a time on a machine, looks after them and tells MLflow."""

import difflib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from kka.errors import KkaError, out_of_space
from kka.project.commands import Guard
from kka.project.config import Config, check_config, read_config
from kka.project.doctor import preflight
from kka.project.presets import edited
from kka.records import write_text
from pipelines.stage import prepare_torch
from pipelines.tracking.live import home
from pipelines.tuning.confirm import WINNER, choose, confirm
from pipelines.tuning.space import check_space, rounded
from pipelines.tuning.study import begun_with, first_difference, load_study, work
from pipelines.tuning.trial import dvc, experiment_name
from pipelines.tuning.workers import conduct, follow

PARAMS = Path("params.yaml")
_GOES_ON = "`kka tune` goes on where it was."


class Command(Guard, TyperCommand):
    """A study goes on after any error that is no fault of the program."""

    def explain(self, error: Exception) -> str | None:
        if out_of_space(error):
            return f"tune: no space left to write to ({error}). Free some; {_GOES_ON}"
        return super().explain(error)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def main(
    trial: Annotated[
        str | None, typer.Argument(metavar="TRIAL", help="With --apply: the trial to take, in place of the winner.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="In place of tune.trials.")] = None,
    study: Annotated[str | None, typer.Option(help="In place of tune.study.")] = None,
    workers: Annotated[int | None, typer.Option(help="In place of tune.workers.")] = None,
    as_dvc: Annotated[
        bool, typer.Option("--dvc", help="Run each trial as an experiment of DVC, without pruning between rounds.")
    ] = False,
    to_apply: Annotated[
        bool, typer.Option("--apply", help="Write the winner, or TRIAL, into params.yaml instead of running trials.")
    ] = False,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
    deadline: Annotated[float, typer.Option(hidden=True)] = 0.0,
) -> None:
    """Run the study of Optuna that the section tune of params.yaml describes, or go on with it."""
    if trial is not None and not to_apply:
        raise KkaError(f"tune wants no trial but with --apply, got '{trial}'. Run `kka tune --apply {trial}`.")
    config = read_config(PARAMS)
    options = {"trials": trials, "study": study, "workers": workers}
    own = {name: value for name, value in options.items() if value is not None}
    config = check_config(config.model_dump() | {"tune": config.tune.model_dump() | own})
    mode = "dvc" if as_dvc else "in process"
    if worker is not None:
        work_for_another(config, worker, deadline)
    elif to_apply:
        apply(config, trial or WINNER, mode)
    else:
        preflight(config, Path.cwd())
        check_space(config, Path.cwd())
        prepare_torch()
        typer.echo(conduct(config, home(), mode))


def work_for_another(config: Config, worker: str, deadline: float) -> None:
    """Does the work of a process that another one conducts, and ends with that."""
    follow(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conductor gets it too, and stops its workers
    prepare_torch()
    study = load_study(config, home())
    if worker == "trials":
        work(study, config, home(), deadline)
    else:
        confirm(study, config, home())


def apply(config: Config, number: str, mode: str) -> None:
    """Writes the winner, or the trial of that number, into params.yaml, and says what has changed and how sure it
    is."""
    study = load_study(config, home())
    begun = begun_with(study, config)
    trial, certainty = choose(study, begun, number)
    if mode == "dvc":
        dvc(["exp", "apply", experiment_name(config, trial.number)])
        typer.echo(certainty)
        return
    values, before = rounded(trial.params), PARAMS.read_text(encoding="utf-8")
    after = edited(before, values)
    write_text(PARAMS, after)
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "params.yaml", "params.yaml", n=0)
    typer.echo("".join(lines) or f"params.yaml holds trial {trial.number} already.")
    typer.echo(certainty)
    sections = {path.split(".")[0] for path in values} | {"tune"}
    was, now = (
        {name: section for name, section in c.model_dump().items() if name not in sections} for c in (begun, config)
    )
    difference = first_difference(was, now).replace("is now asked to go on with", "params.yaml now says")
    if difference:
        typer.echo(f"Mind that the study began with {difference}.")


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(f"kka: stopped. {_GOES_ON}"))
    app(prog_name="kka tune")
