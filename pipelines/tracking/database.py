"""Where MLflow keeps its records: a server, or a database in the project that is made whole and goes with the
folder."""

import logging
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from kka.errors import KkaError

EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME", "kka")
KIND = {
    "mlflow.experimentKind": "custom_model_development"
}  # else the page of an experiment opens on traces of language models
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


def connect(home: Path) -> tuple[Any, str]:
    """A client, and the id of the experiment: on the server that MLFLOW_TRACKING_URI names, or in the database under
    `home`, which only one process at a time may create: racing breaks it for good. Raises KkaError where the server
    cannot be had."""
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow  # set_tracking_uri would set the variable for whoever asks next

    home.mkdir(parents=True, exist_ok=True)
    database = home / "mlflow.db"
    server = os.environ.get("MLFLOW_TRACKING_URI", "").replace(f"sqlite:///{database}", "")
    with FileLock(home / "database.lock"):
        if not server and not database.exists():
            _create(database, (home / "artifacts").as_uri())
        place = server or f"sqlite:///{database}"
        if server:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # not minutes of silence
        client, artifacts = mlflow.MlflowClient(tracking_uri=place), None if server else (home / "artifacts").as_uri()
        try:
            found = client.get_experiment_by_name(EXPERIMENT)
            number = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts, tags=KIND)
        except mlflow.MlflowException as error:
            raise KkaError(
                f"MLflow at {place} wants to be reached, got: {' '.join(str(error).split())[:160]}... Nothing is lost: when it is there,"
                " run the command again."
            ) from None
        if artifacts:
            _settle(database, artifacts)
    return client, str(number)


def _create(database: Path, artifacts: str) -> None:
    """A database with all its tables, whole or not at all: MLflow's makes one table after another, and never goes on
    with half of them."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = database.with_name(f"{database.name}.part")
    for whose in (database, part):  # of one that somebody removed, to end in the new one; or of a killed process
        for end in ("-wal", "-shm", "-journal"):
            whose.with_name(whose.name + end).unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    SqlAlchemyStore(f"sqlite:///{part}", artifacts).engine.dispose()
    part.replace(database)


def _settle(database: Path, artifacts: str) -> None:
    """WAL, so that readers and a writer go side by side, and twice as fast. And where the folder was moved, or copied,
    since: all places of artifacts in it that the database names, for MLflow writes them down in full."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        known = "SELECT artifact_location FROM experiments WHERE name = ?"
        before = str(connection.execute(known, (EXPERIMENT,)).fetchone()[0])
        moved = before != artifacts and before.startswith("file:") and before.endswith("/artifacts")
        for table, column in PLACES if moved else ():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (artifacts, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )
    connection.close()


def command(main: Callable[[list[str]], None]) -> None:
    """Runs `main` on argv; what goes wrong in MLflow is one sentence, as a user's mistakes are."""
    from mlflow.exceptions import MlflowException

    try:
        main(sys.argv[1:])
    except KkaError as error:
        sys.exit(f"kka: {error}")
    except MlflowException as error:
        sys.exit(
            f"kka: MLflow says: {' '.join(str(error).split())[:300]}. Nothing is lost: mend that, and run the command again."
        )
