"""`kka register`: a round's detector becomes a version in MLflow's registry, the champion if it is better for sure."""

import re
from pathlib import Path
from typing import Annotated

import typer

from kka.errors import KkaError
from kka.project.config import read_config
from pipelines.tracking.database import Command
from pipelines.tracking.live import home
from pipelines.tracking.package import register
from pipelines.tracking.provenance import find_run
from pipelines.tracking.reconcile import bring_up_to_date
from pipelines.tracking.runs import Tracker

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def main(
    run: Annotated[
        str | None,
        typer.Argument(
            help="The id of a round's run, a path in dvc.lock, or an MD5; by default the last round.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the registered model; by default kka-DATASET.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it the champion whatever the comparison says.")] = False,
) -> None:
    """Register a round's detector in MLflow: a new version, with the alias `candidate`.

    The alias `champion` moves to it if there is none yet, or if its AUROC is better for sure: on the same test split,
    the whole 95% interval of the difference lies above zero. The version's description says how the two compare.
    """
    if name and not re.fullmatch(r"[\w. -]+", name):
        raise KkaError(f"register: --name may hold letters, digits, '.', '_', '-' and blanks, got '{name}'.")
    client, record, _ = find_run(home(), run or _last(home()))
    typer.echo(register(client, record, home(), name, force))


def _last(folder: Path) -> str:
    """The run of params.yaml's last round, brought up to date."""
    bring_up_to_date(Path(), folder)
    config = read_config(Path("params.yaml"))
    if not (run := Tracker(folder, config).known(config.last)):
        raise KkaError(f"register: nothing of round {config.last} has been run with these parameters. Run `dvc repro`.")
    return run


if __name__ == "__main__":
    app(prog_name="kka register")
