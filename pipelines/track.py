"""MLflow: one parent run for each lineage of parameters, one child run for each of its rounds.

    kka track                    brings MLflow up to date with what dvc.lock vouches for; may be run at any time
    kka track all                the same for every commit and experiment of DVC; a removed database comes back like this
    kka track show RUN           where a run came from, and how to bring its files back
    kka track params RUN         its params.yaml
    kka track relocate           after the project's folder was moved: MLflow finds its artifacts again

RUN is the id of a run, a path in dvc.lock (data/r3/detector), or an MD5 of DVC.

A lineage is all of params.yaml but `rounds`, `last` and `tune`. Runs are found by their tags and a figure that is there
already is not logged again, so live logging and reconciliation may follow each other in any order. Results that DVC
restored from its run cache, whose stages never ran here, appear as well, and nothing appears twice."""

import hashlib
import os
import re
from pathlib import Path

from filelock import FileLock

from kka.errors import KkaError
from kka.project.config import read_config
from kka.records import read_json, write_json
from pipelines.tracking.dvc_lock import lock_file
from pipelines.tracking.live import home


def update(root: Path, folder: Path, *, reported: bool = False) -> None:
    """Brings MLflow up to date; in a moment, where nothing has happened since the last time. `reported`: called by the
    report's stage."""
    read_config(root / "params.yaml")
    state, spool = folder / "reconciled.json", folder / "spool"
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    # without the report's own stage, which is noted there when it has ended, after it has been told of
    locked = re.sub(r"^  report:\n(?: {4}.*\n)*", "", lock_file(root).read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = [(root / "params.yaml").read_bytes(), locked.encode(), f"{folder} {server}".encode()]
    # what `dvc checkout` brings back is new here too
    places = [
        root / "report",
        *(p for kind in ("data/*/detector", "data/*/scores.csv", "metrics/*/*.json") for p in sorted(root.glob(kind))),
    ]
    parts += [f"{path} {path.stat().st_mtime_ns}".encode() for path in places if path.exists()]
    key = hashlib.sha256(b"\n".join(parts)).hexdigest()
    there = not server and (folder / "mlflow.db").exists()  # what a server has forgotten only a look can tell
    if there and not reported and not any(spool.glob("*.jsonl")) and state.exists() and read_json(state) == key:
        return
    from pipelines.tracking.reconcile import reconcile
    from pipelines.tracking.watch import Reader

    Reader(folder, monitors=False).drain()
    with FileLock(folder / "spool.lock"):  # not while a watcher looks for what is missing
        reconcile(root, folder, reported=reported)
    write_json(state, key)


def main(words: list[str]) -> None:
    """See the module's head."""
    match words:
        case ["show" | "params" as word]:
            raise KkaError(f"track {word} wants a run: its id, a path such as data/r3/detector, or an MD5.")
        case []:
            lost = "MLFLOW_TRACKING_URI" not in os.environ and not (home() / "mlflow.db").exists()
            update(Path(), home())
            if lost:
                from pipelines.tracking.history import replay

                replay(home())
        case ["all"]:
            from pipelines.tracking.history import replay

            print(f"MLflow holds the results of all commits and experiments that DVC's cache has: {replay(home())}")
        case ["watch", folder]:  # started by the stages themselves
            from pipelines.tracking.watch import watch

            watch(Path(folder))
        case ["reported"]:  # by the report's stage
            update(Path(), home(), reported=True)
        case ["show", run]:
            from pipelines.tracking.provenance import describe

            print(describe(home(), run))
        case ["params", run]:
            from pipelines.tracking.provenance import parameters

            print(parameters(home(), run), end="")
        case ["relocate"]:
            from pipelines.tracking.database import connect

            client, experiment = connect(home())
            print(f"MLflow's artifacts are at {client.get_experiment(experiment).artifact_location}")
        case ["--help" | "-h"]:
            print(__doc__)
        case _:
            raise KkaError(f"track wants nothing, or all, show RUN, params RUN or relocate, got '{' '.join(words)}'.")


if __name__ == "__main__":
    from pipelines.tracking.database import command

    command(main)
