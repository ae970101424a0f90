"""The best detector, by name: a round's detector becomes a version in MLflow's registry.

    kka register [RUN] [--force] [--name NAME]

RUN is the id of a round's run, or what `kka track show` takes; by default the last round of params.yaml. The new version gets the
alias `candidate`. The alias `champion` moves to it if there is none yet, or if its AUROC is higher by more than the interval of the
difference leaves open, on the same test split; `--force` moves it anyway. Its description says how the two compare.
"""

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from kka import metrics
from kka.config import read_config
from kka.errors import KkaError
from pipelines._provenance import find_run
from pipelines._spool import home
from pipelines._tracker import Tracker

CANDIDATE, CHAMPION = "candidate", "champion"
SAMPLES, LEVEL = 2000, 0.95  # of the bootstrap behind the interval


@dataclass(frozen=True)
class Tested:
    """A round's run, its model, and what its detector said of the test split that `digest` tells from others."""

    run: Any
    model: str
    digest: str
    scores: list[float]
    labels: list[int]

    @property
    def auroc(self) -> float:
        return metrics.auroc(self.scores, self.labels)


def register(folder: Path, wanted: str, name: str | None, force: bool) -> str:
    """Registers a round's detector, once, and says what became of it."""
    client, run, _ = find_run(folder, wanted)
    new = tested(client, run)
    name = name or f"kka-{run.data.tags['kka.dataset']}"
    with FileLock(folder / "runs.lock"):
        version = _version(client, name, new)
        champion = _by_alias(client, name, CHAMPION)
        if champion is not None and champion.version == version.version:
            return f"{name} version {version.version} is the champion already."
        better, said = _compare(client, new, champion)
        client.update_model_version(name, version.version, description=said)
        client.set_registered_model_alias(name, CANDIDATE, version.version)
        if better or force:
            client.set_registered_model_alias(name, CHAMPION, version.version)
    moved = "champion" if better else "champion, as --force says" if force else f"candidate; version {champion.version} stays champion"
    return f"{name} version {version.version} is the {moved}. {said}"


def tested(client: Any, run: Any) -> Tested:
    """Raises KkaError where the run is no round's, or lacks a model or test scores."""
    tags, number = run.data.tags, run.info.run_id
    if "kka.round" not in tags:
        raise KkaError(f"register wants a round's run, got {run.info.run_name} ({number}). `kka track show {number}` names its rounds.")
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{number}'", max_results=100)
    ready = [m for m in models if m.status.value == "READY" and m.tags.get("dvc.detector") == tags.get("dvc.detector")]
    digests = [i.dataset.digest for i in run.inputs.dataset_inputs if any(t.value == "testing" for t in i.tags)]
    if not ready or not digests:
        raise KkaError(
            f"register wants a round that has been evaluated, got {tags['kka.round']} ({number}). Run `dvc repro`, then `kka track`."
        )
    with Path(client.download_artifacts(number, "scores.csv")).open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == "test"]
    return Tested(run, ready[0].model_id, digests[0], [float(r["score"]) for r in rows], [int(r["label"]) for r in rows])


def _version(client: Any, name: str, new: Tested) -> Any:
    """The version of this model, which is made where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(client.tracking_uri)  # the registry looks for the model with a client of its own
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="Detectors of rounds of kka; `champion` is the one to serve.")
    tag = "kka.model"
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(tag) == new.model]
    if known:
        return known[0]
    return client.create_model_version(name, f"models:/{new.model}", new.run.info.run_id, tags={tag: new.model}, model_id=new.model)


def _by_alias(client: Any, name: str, alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def _compare(client: Any, new: Tested, champion: Any) -> tuple[bool, str]:
    """Whether the new one is better than the champion for sure, and how the two compare."""
    known = bool(np.any(new.labels))
    own = f"AUROC {new.auroc:.4f} on {len(new.labels)} test pictures" if known else "The test split holds no anomalies"
    if champion is None:
        return True, f"{own}. There was no champion."
    old = tested(client, client.get_run(champion.run_id))
    if old.digest != new.digest:
        return False, f"{own}. Version {champion.version} was tested on another split, so nobody can tell which is better."
    if not known:
        return False, f"{own}, so nobody can tell whether it is better than version {champion.version}."
    low, high = metrics.difference_interval(metrics.auroc, new.scores, old.scores, new.labels, samples=SAMPLES, level=LEVEL, seed=0)
    verdict = "better for sure" if low > 0 else "worse for sure" if high < 0 else "no better for sure"
    return low > 0, (
        f"{own}, version {champion.version}: {old.auroc:.4f}. Difference {new.auroc - old.auroc:+.4f}"
        f" ({LEVEL:.0%} interval {low:+.4f} to {high:+.4f}, the same pictures): {verdict}."
    )


def main(words: list[str]) -> None:
    """See the module's head."""
    parser = argparse.ArgumentParser(prog="kka register", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="the id of a round's run, a path in dvc.lock, or an MD5; default: the last round")
    parser.add_argument("--name", help="of the registered model; default: kka-DATASET")
    parser.add_argument("--force", action="store_true", help="make it the champion whatever the comparison says")
    given = parser.parse_args(words)
    wanted = given.run or _last(home())
    print(register(home(), wanted, given.name, given.force))


def _last(folder: Path) -> str:
    """The run of params.yaml's last round, brought up to date."""
    from pipelines.track import update

    update(Path(), folder)
    config = read_config(Path("params.yaml"))
    return Tracker(folder, config).round(config.last)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KkaError as error:
        sys.exit(f"kka: {error}")
