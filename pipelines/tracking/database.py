"""Where MLflow keeps its records: on a server, or in a database of the project, which may be moved with its folder."""

import logging
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock
from typer.core import TyperCommand, TyperGroup

from kka.errors import KkaError
from kka.project.commands import Guard

EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME", "kka")
# else the page of an experiment opens on traces of language models
KIND = {"mlflow.experimentKind": "custom_model_development"}
PLACES = (  # of artifacts, in MLflow's database: table and column
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
os.environ.update(QUIET)  # here, for MLflow looks when it is imported


def own_database(home: Path) -> Path:
    """The project's own database, which is used where there is no `server`."""
    return home / "mlflow.db"


def server(home: Path) -> str:
    """The URI in MLFLOW_TRACKING_URI: a server, or a database elsewhere. Empty where MLflow's records are in the
    project's own database under `home`, whether the variable names it or nothing."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    path = uri.removeprefix("sqlite:///")
    own = path != uri and Path(path).resolve() == own_database(home).resolve()
    return "" if own else uri


def connect(home: Path) -> tuple[Any, str]:
    """A client, and the id of the experiment: on the `server`, or in the database under `home`. Only one process at a
    time may create the database: a race would break it for good. Raises KkaError where the server cannot be reached."""
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow  # set_tracking_uri would set the variable for whoever asks next

    home.mkdir(parents=True, exist_ok=True)
    database, artifacts = own_database(home), (home / "artifacts").as_uri()
    remote = server(home)
    with FileLock(home / "database.lock"):
        if not remote and not database.exists():
            _create(database, artifacts)
        uri = remote or f"sqlite:///{database}"
        if remote:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # not minutes of silence
        client = mlflow.MlflowClient(tracking_uri=uri)
        try:
            experiment = client.get_experiment_by_name(EXPERIMENT) or client.get_experiment(
                client.create_experiment(EXPERIMENT, None if remote else artifacts, tags=KIND)
            )
        except mlflow.MlflowException as error:
            raise KkaError(
                f"cannot reach MLflow at {uri}: {one_line(error, 160)}... Nothing is lost: run the command again when"
                " it is there."
            ) from None
        if not remote:
            _settle(database, experiment.artifact_location, artifacts)
    return client, str(experiment.experiment_id)


def _create(database: Path, artifacts: str) -> None:
    """Creates a database with all its tables, or none: MLflow makes one table after another, and cannot go on with half
    of them."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = database.with_name(f"{database.name}.part")
    for path in (database, part):  # left by a database that somebody removed, or by a killed process
        for end in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    SqlAlchemyStore(f"sqlite:///{part}", artifacts).engine.dispose()
    part.replace(database)


def _settle(database: Path, before: str, artifacts: str) -> None:
    """Switches to WAL, so that readers and a writer go side by side, and twice as fast. Where the folder was moved or
    copied since, updates all places of artifacts in the database, for MLflow keeps them as absolute paths, whichever
    way they are given."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        if before != artifacts and before.startswith("file:") and before.endswith("/artifacts"):
            _move(connection, before, artifacts)


def _move(connection: sqlite3.Connection, before: str, artifacts: str) -> None:
    """No API of MLflow does this. The tests do it with each version that pyproject.toml allows. Where another version
    lacks a column, a line on stderr says so."""
    missing = []
    for table, column in PLACES:
        columns = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        if (column,) not in columns:
            missing.append(f"{table}.{column}")
            continue
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (artifacts, len(before) + 1, before, len(before) + 1, f"{before}/"),
        )
    if missing:
        print(
            f"kka: this version of MLflow has no {', '.join(missing)}: some artifacts may still be looked for where the"
            f" project was, in {before}.",
            file=sys.stderr,
        )


def address(experiment: str, server: str) -> str:
    """Where the user interface at `server` shows the runs."""
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def one_line(error: Exception, length: int) -> str:
    """The first `length` characters of an error, on one line."""
    return " ".join(str(error).split())[:length]


class _Guard(Guard):
    """Prints an error of MLflow as one sentence, like a user's mistake."""

    def explain(self, error: Exception) -> str | None:
        if explained := super().explain(error):
            return explained
        mlflow = sys.modules.get("mlflow")  # where it is not imported, the error is not its own
        if mlflow is None or not isinstance(error, mlflow.MlflowException):
            return None
        return f"MLflow says: {one_line(error, 300)}. Nothing is lost: mend that, and run the command again."


class Commands(_Guard, TyperGroup):
    """Commands that use MLflow."""


class Command(_Guard, TyperCommand):
    """A command that uses MLflow."""
