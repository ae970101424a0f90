"""MLflow: one parent run for each lineage of parameters, one child run for each of its rounds.

    kka track                    brings MLflow up to date with what dvc.lock vouches for; may be run at any time
    kka track show RUN           where a run came from, and how to bring its files back
    kka track params RUN         its params.yaml
    kka track relocate           after the project's folder was moved: MLflow finds its artifacts again

RUN is the id of a run, a path in dvc.lock (data/r3/detector), or an MD5 of DVC.

A lineage is all of params.yaml but `rounds`, `last` and `tune`. Runs are found by their tags and a figure that is there already is not
logged again, so live logging and reconciliation may follow each other in any order. Results that DVC restored from its run
cache, whose stages never ran here, appear as well, and nothing appears twice.
"""

import hashlib
import os
import sys
from pathlib import Path

from filelock import FileLock

from kka.errors import KkaError
from kka.records import read_json, write_json
from pipelines._lock import lock_file
from pipelines._spool import home


def update(root: Path, folder: Path) -> None:
    """Brings MLflow up to date; in a moment, where nothing has happened since the last time."""
    state, spool = folder / "reconciled.json", folder / "spool"
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    parts = [(root / "params.yaml").read_bytes(), lock_file(root).read_bytes(), f"{folder} {server}".encode()]
    # what `dvc checkout` brings back is new here too
    places = [root / "report", *sorted(root.glob("data/*/detector"))]
    parts += [f"{path} {path.stat().st_mtime_ns}".encode() for path in places if path.exists()]
    key = hashlib.sha256(b"\n".join(parts)).hexdigest()
    there = bool(server) or (folder / "mlflow.db").exists()
    if there and not any(spool.glob("*.jsonl")) and state.exists() and read_json(state) == key:
        return
    from mlflow.exceptions import MlflowException

    from pipelines._reconcile import reconcile
    from pipelines._watch import Reader

    try:
        Reader(folder).drain()
        with FileLock(folder / "spool.lock"):  # not while a watcher looks for what is missing
            reconcile(root, folder)
    except MlflowException as error:
        raise KkaError(f"track: MLflow failed ({' '.join(str(error).split())[:200]}). Nothing is lost: run `kka track` again.") from None
    write_json(state, key)


def main(words: list[str]) -> None:
    """See the module's head."""
    match words:
        case []:
            update(Path(), home())
        case ["watch", folder]:  # started by the stages themselves
            from pipelines._watch import watch

            watch(Path(folder))
        case ["show", run]:
            from pipelines._provenance import describe

            print(describe(home(), run))
        case ["params", run]:
            from pipelines._provenance import parameters

            print(parameters(home(), run), end="")
        case ["relocate"]:
            from pipelines._tracker import connect

            connect(home())
            print(f"MLflow's artifacts are those in {home() / 'artifacts'}")
        case ["--help" | "-h"]:
            print(__doc__)
        case _:
            raise KkaError(f"track wants nothing, or show RUN, params RUN or relocate, got '{' '.join(words)}'.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KkaError as error:
        sys.exit(f"kka: {error}")
