"""`kka track`: MLflow has one parent run for each set of parameters, and one child run for each of its rounds.

The parameters are all of params.yaml but `rounds`, `last` and `tune`. Runs are found by their tags, and a figure that
is there already is not logged again, so live records and reconciliation may follow each other in any order. Results
that DVC restored from its run cache, whose stages never ran here, appear as well, and nothing appears twice."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kka.errors import KkaError
from pipelines.tracking.database import Commands, address, connect, own_database, server
from pipelines.tracking.live import home, watch
from pipelines.tracking.provenance import parameters, provenance_of, replay
from pipelines.tracking.reconcile import bring_up_to_date

app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
_RUN = typer.Argument(metavar="RUN", help="The id of a run, a path such as data/r3/detector, or an MD5.")


@app.callback(invoke_without_command=True)
def update(ctx: typer.Context) -> None:
    """Bring MLflow up to date with what dvc.lock vouches for. May be run at any time; a removed database comes back
    with all that git remembers."""
    if ctx.invoked_subcommand is None:
        bring_all()


def bring_all() -> None:
    """What `kka track` does."""
    lost = not server(home()) and not own_database(home()).exists()
    bring_up_to_date(Path(), home())
    if lost:
        try:
            replay(home())
        except KkaError as error:  # a project may do without git
            typer.echo(f"kka: MLflow lacks what other commits hold. {error}", err=True)


@app.command("all")
def all_commits() -> None:
    """The same for every commit and experiment of DVC."""
    typer.echo(f"MLflow holds the results of all commits and experiments that DVC's cache has: {replay(home())}")


@app.command()
def show(run: Annotated[str, _RUN]) -> None:
    """Print where a run came from, and how to bring its files back."""
    typer.echo(provenance_of(home(), run))


@app.command()
def params(run: Annotated[str, _RUN]) -> None:
    """Print a run's params.yaml."""
    typer.echo(parameters(home(), run), nl=False)


@app.command()
def relocate() -> None:
    """After the project's folder was moved: MLflow finds its artifacts again."""
    client, experiment = connect(home())
    typer.echo(f"MLflow's artifacts are at {client.get_experiment(experiment).artifact_location}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Of this machine.")] = 5000) -> None:
    """Show the runs in a browser: say where, and serve them until Ctrl-C."""
    client, experiment = connect(home())
    if client.tracking_uri.startswith("http"):
        typer.echo(f"They are at {address(experiment, client.tracking_uri)}")
        return
    typer.echo(f"In half a minute: {address(experiment, f'http://127.0.0.1:{port}')}")
    sys.stdout.flush()
    words = ["ui", "--backend-store-uri", client.tracking_uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words])


@app.command("watch", hidden=True)
def watch_stages(folder: Path) -> None:
    """Record what stages write to the spool; started by the stages themselves."""
    watch(folder)


@app.command(hidden=True)
def reported() -> None:
    """Bring MLflow up to date; called by the report's stage."""
    bring_up_to_date(Path(), home(), reported=True)


if __name__ == "__main__":
    app(prog_name="kka track")
