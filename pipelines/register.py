"""The best detector, by name: a round's detector becomes a version in MLflow's registry.

    kka register [RUN] [--force] [--name NAME]

RUN is the id of a round's run, or what `kka track show` takes; by default the last round of params.yaml. The new
version gets the alias `candidate`. The alias `champion` moves to it if there is none yet, or if its AUROC is higher by
more than the interval of the difference leaves open, on the same test split; `--force` moves it anyway. Its description
says how the two compare."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from kka import metrics
from kka.errors import KkaError
from kka.project.config import read_config
from pipelines.layout import read_csv
from pipelines.tracking.database import command
from pipelines.tracking.live import home
from pipelines.tracking.provenance import find_run
from pipelines.tracking.runs import Tracker

CANDIDATE, CHAMPION = "candidate", "champion"
MODEL = "kka.model"  # the tag of a version that names its model, which databases do not keep
SAMPLES, LEVEL = 2000, 0.95  # of the bootstrap behind the interval


@dataclass(frozen=True)
class Tested:
    """A model, and what its detector said of the test split that `digest` tells from others."""

    model: str
    digest: str
    scores: list[float]
    labels: list[int]

    @property
    def auroc(self) -> float:
        """Of this detector, the round's first fit; that of MLflow's figures is the mean over all fits."""
        return metrics.auroc(self.scores, self.labels)


def register(folder: Path, wanted: str, name: str | None, force: bool) -> str:
    """Registers a round's detector, once, and says what became of it."""
    import mlflow

    client, run, _ = find_run(folder, wanted)
    mlflow.set_tracking_uri(client.tracking_uri)  # the registry looks for models with a client of its own
    new = tested(client, _model_of(client, run))
    name = name or f"kka-{run.data.tags['kka.dataset']}"
    with FileLock(folder / "runs.lock"):
        version = _version(client, name, new, run.info.run_id)
        champion = _by_alias(client, name, CHAMPION)
        if champion is not None and champion.version == version.version:
            return f"{name} version {version.version} is the champion already."
        better, said = _compare(client, new, champion)
        client.update_model_version(name, version.version, description=said)
        client.set_registered_model_alias(name, CANDIDATE, version.version)
        if better or force:
            client.set_registered_model_alias(name, CHAMPION, version.version)
    moved = (
        "champion"
        if better
        else "champion, as --force says"
        if force
        else f"candidate; version {champion.version} stays champion"
    )
    return f"{name} version {version.version} is the {moved}. {said}"


def _model_of(client: Any, run: Any) -> Any:
    """The model of a round's run. Raises KkaError where there is none."""
    tags, number = run.data.tags, run.info.run_id
    if "kka.round" not in tags:
        raise KkaError(
            f"register wants a round's run, got {run.info.run_name} ({number}). `kka track show {number}` names its rounds."
        )
    digests = {key: tags.get(key) for key in ("dvc.detector", "dvc.test")}
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{number}'", max_results=1000)
    ready = [m for m in models if m.status.value == "READY" and digests.items() <= m.tags.items()]
    if not ready:
        raise KkaError(
            f"register wants a round that has been evaluated, got {tags['kka.round']} ({number}). Run `dvc repro`, then `kka track`."
        )
    return ready[0]


def tested(client: Any, model: Any) -> Tested:
    """What a LoggedModel carries of its test. Raises MLflow's errors where it is none of ours."""
    import mlflow

    place = f"{model.artifact_location}/artifacts/scores.csv"
    path = mlflow.artifacts.download_artifacts(place, tracking_uri=client.tracking_uri)
    rows = [row for row in read_csv(Path(path)) if row["split"] == "test"]
    return Tested(
        model.model_id, model.tags["dvc.test"], [float(r["score"]) for r in rows], [int(r["label"]) for r in rows]
    )


def _version(client: Any, name: str, new: Tested, run: str) -> Any:
    """The version of this model, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="Detectors of rounds of kka; `champion` is the one to serve.")
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(MODEL) == new.model]
    return (
        known[0]
        if known
        else client.create_model_version(name, f"models:/{new.model}", run, tags={MODEL: new.model}, model_id=new.model)
    )


def _by_alias(client: Any, name: str, alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def _compare(client: Any, new: Tested, champion: Any) -> tuple[bool, str]:
    """Whether the new one is better than the champion for sure, and how the two compare."""
    from mlflow.exceptions import MlflowException

    known = bool(np.any(new.labels))
    own = (
        f"AUROC {new.auroc:.4f} by this one fit on {len(new.labels)} test pictures"
        if known
        else "The test split holds no anomalies"
    )
    if champion is None:
        return True, f"{own}. There was no champion."
    try:
        old = tested(client, client.get_logged_model(champion.tags[MODEL]))
    except (MlflowException, OSError, KeyError) as error:
        return (
            False,
            f"{own}. Version {champion.version} does not say how it was tested ({' '.join(str(error).split())[:80]}).",
        )
    if old.digest != new.digest:
        return (
            False,
            f"{own}. Version {champion.version} was tested on another split, so nobody can tell which is better.",
        )
    if not known:
        return False, f"{own}, so nobody can tell whether it is better than version {champion.version}."
    found = metrics.compare_scores(
        metrics.auroc, new.scores, old.scores, new.labels, samples=SAMPLES, level=LEVEL, seed=0
    )
    return found.better, (
        f"{own}, version {champion.version}: {old.auroc:.4f}. Difference {found}, by the pictures of this test split alone."
    )


def main(words: list[str]) -> None:
    """See the module's head."""
    parser = argparse.ArgumentParser(
        prog="kka register", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", nargs="?", help="the id of a round's run, a path in dvc.lock, or an MD5; default: the last round"
    )
    parser.add_argument("--name", help="of the registered model; default: kka-DATASET")
    parser.add_argument("--force", action="store_true", help="make it the champion whatever the comparison says")
    given = parser.parse_args(words)
    if given.name and not re.fullmatch(r"[\w. -]+", given.name):
        raise KkaError(f"register: --name wants letters, digits, '.', '_', '-' and blanks, got '{given.name}'.")
    wanted = given.run or _last(home())
    print(register(home(), wanted, given.name, given.force))


def _last(folder: Path) -> str:
    """The run of params.yaml's last round, brought up to date."""
    from pipelines.track import update

    update(Path(), folder)
    config = read_config(Path("params.yaml"))
    if not (run := Tracker(folder, config).known(config.last)):
        raise KkaError(f"register: nothing of round {config.last} has been run with these parameters. Run `dvc repro`.")
    return run


if __name__ == "__main__":
    command(main)
