"""A round's detector as a LoggedModel of MLflow, with all that it needs to be served anywhere (weights, calibration
scores, `kka`), and as a version in MLflow's registry."""

import base64
import io
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from kka import metrics
from kka.detectors.shared import PACKAGED
from kka.errors import KkaError
from kka.images import read_shard, shard_path
from kka.project.config import Config
from kka.records import read_json, write_json
from pipelines.layout import SCORES, Layout, Scores, read_scores
from pipelines.tracking.database import one_line
from pipelines.tracking.runs import Tracker

CANDIDATE, CHAMPION = "candidate", "champion"
MODEL = "kka.model"  # the tag of a version that names its model, which databases do not keep
SAMPLES, LEVEL = 2000, 0.95  # of the bootstrap that compares two detectors
NEEDED = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "scipy", "torch", "tqdm")


def log_model(tracker: Tracker, run: str, name: str, root: Path, digests: Mapping[str, str]) -> str:
    """The id of the round's LoggedModel with these `digests` of its detector and of the test split; it is created where
    there is none. Unfinished ones are deleted, unless another machine may still be writing them."""
    client, config, experiment = tracker.client, tracker.config, tracker.experiment
    known = client.search_logged_models([experiment], f"source_run_id = '{run}'", max_results=1000)
    for model in (m for m in known if digests.items() <= m.tags.items()):
        if model.status.value == "READY":
            return str(model.model_id)
        if tracker.uri.startswith("sqlite:") or time.time() - model.creation_timestamp / 1000 > 3600:
            client.delete_logged_model(model.model_id)
    about = {
        **digests,
        "kka.dataset": config.prepare.dataset,
        "kka.detector": config.detect.detector,
        "kka.round": name,
    }
    model = client.create_logged_model(
        experiment, name=f"detector-{name}", source_run_id=run, tags=about, model_type="pyfunc"
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"), Layout(root), name, config, model, run)
        client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def save_model(folder: Path, layout: Layout, name: str, config: Config, logged: Any, run: str) -> None:
    """Writes the model of round `name` in MLflow's format; `logged` is its LoggedModel."""
    import mlflow.pyfunc
    from mlflow.models import Model

    with _parts(layout, name, config) as (artifacts, code):
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("served.py")),
            mlflow_model=Model(
                artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run, model_id=logged.model_id
            ),
            artifacts={k: str(v) for k, v in artifacts.items()},
            code_paths=[str(code)],
            signature=_signature(),
            input_example=_example(layout),
            pip_requirements=_requirements(artifacts["detector"]),
        )
    for cache in folder.rglob("__pycache__"):  # saving runs the code once
        shutil.rmtree(cache)


@contextmanager
def _parts(layout: Layout, name: str, config: Config) -> Iterator[tuple[dict[str, Path], Path]]:
    """The artifacts by name, and `kka` without the models that no detector needs."""
    import kka

    files = layout.round(name)
    options = _options(files.detector)
    place, function = _own_backbone(layout.root, options)
    spared = () if "backbone" in options else ("features",)
    with tempfile.TemporaryDirectory() as folder:
        code, facts = Path(folder, "kka"), Path(folder, "facts.json")
        shutil.copytree(
            Path(kka.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__", "lm", "t2i", *spared)
        )
        prepared = {"image_size": config.prepare.image_size, "squeeze": config.prepare.squeeze}
        calibration = np.sort(files.read_scores("calibration").values).tolist()
        threshold = read_json(files.metrics("evaluate")).get("pixel_threshold")
        known = {"calibration": calibration, "pixel_threshold": threshold, "function": function}
        write_json(facts, prepared | known)
        artifacts = {"detector": files.detector, "facts": facts, "scores": files.scores}
        yield artifacts | ({"backbone": place} if place else {}), code


def _options(detector: Path) -> dict[str, Any]:
    from kka.detectors.shared.state import facts  # which imports torch

    options: dict[str, Any] = facts(detector)["options"]
    return options


def _own_backbone(root: Path, options: Mapping[str, Any]) -> tuple[Path | None, str]:
    """Where the detector's backbone stands, and ':function' in it, if it is a file or folder of the user's own."""
    from kka.detectors.shared.backbones import BUILT_IN, is_factory

    named = options.get("backbone", BUILT_IN)
    place, colon, function = named.rpartition(":") if is_factory(named) else (named, "", "")
    path = root / Path(place).expanduser()
    return (path, colon + function) if named != BUILT_IN and path.exists() else (None, "")


def _requirements(detector: Path) -> list[str]:
    """What `kka` needs to score, in the versions of now."""
    backbone = _options(detector).get("backbone")
    needed = (*NEEDED, *((PACKAGED.get(backbone, "transformers"),) if backbone else ()))
    return [f"{name}=={version(name).partition('+')[0]}" for name in needed]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, DataType, Object, Property

    flags = ("maps", "regions", "paths")
    box = [Property(name, DataType.long) for name in ("x", "y", "width", "height", "area")]
    outs: dict[str, Any] = {"score": "double", "p_value": "double", "alarm": "boolean", "error": "string"}
    outs |= {"heat_map": "string", "regions": Array(Object([*box, Property("score", DataType.double)]))}
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema([ColSpec(kind, name, required=False) for name, kind in outs.items()]),
        params=ParamSchema([ParamSpec("fpr", "double", 0.05), *(ParamSpec(n, "boolean", False) for n in flags)]),
    )


def _example(layout: Layout) -> Any:
    """A table of one calibration normal."""
    import pandas as pd
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(read_shard(shard_path(layout.split("calibration"), 0))[0]).save(buffer, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode()]})


@dataclass(frozen=True)
class Evaluated:
    """A model, and its detector's scores of the test split that `digest` tells from others."""

    model: str
    digest: str
    scores: Scores

    @property
    def auroc(self) -> float:
        """The AUROC of this detector, the round's first fit. MLflow's figures have the mean over all fits."""
        return metrics.auroc(self.scores.values, self.scores.labels)


def register(client: Any, run: Any, home: Path, name: str | None, force: bool) -> str:
    """Registers the detector of a round's run, once, as `name` (by default kka-DATASET), and returns a sentence on how
    it compares with the champion. Raises KkaError for a run that has no such detector."""
    import mlflow

    mlflow.set_tracking_uri(client.tracking_uri)  # the registry looks for models with a client of its own
    new = read_evaluated(client, _model_of(client, run))
    name = name or f"kka-{run.data.tags['kka.dataset']}"
    with FileLock(home / "runs.lock"):
        version = _version(client, name, new, run.info.run_id)
        champion = _by_alias(client, name, CHAMPION)
        if champion is not None and champion.version == version.version:
            return f"{name} version {version.version} is the champion already."
        better, comparison = _compare(client, new, champion)
        client.update_model_version(name, version.version, description=comparison)
        client.set_registered_model_alias(name, CANDIDATE, version.version)
        if better or force:
            client.set_registered_model_alias(name, CHAMPION, version.version)
    what = f"candidate; version {champion.version} stays champion" if champion else "champion"
    if better or force:
        what = "champion" if better else "champion, as --force says"
    return f"{name} version {version.version} is the {what}. {comparison}"


def _model_of(client: Any, run: Any) -> Any:
    """The model of a round's run. Raises KkaError where there is none."""
    tags, number = run.data.tags, run.info.run_id
    if "kka.round" not in tags:
        raise KkaError(
            f"register: {run.info.run_name} ({number}) is not the run of a round. `kka track show {number}` names its"
            " rounds."
        )
    digests = {key: tags.get(key) for key in ("dvc.detector", "dvc.test")}
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{number}'", max_results=1000)
    ready = [m for m in models if m.status.value == "READY" and digests.items() <= m.tags.items()]
    if not ready:
        raise KkaError(
            f"register: round {tags['kka.round']} ({number}) has not been evaluated. Run `dvc repro`, then `kka track`."
        )
    return ready[0]


def read_evaluated(client: Any, model: Any) -> Evaluated:
    """The test scores that a LoggedModel contains. Raises MLflow's errors, OSError or KeyError where `kka` has not
    written it."""
    import mlflow

    uri = f"{model.artifact_location}/artifacts/{SCORES}"
    path = Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=client.tracking_uri))
    return Evaluated(model.model_id, model.tags["dvc.test"], read_scores(path, "test"))


def _version(client: Any, name: str, new: Evaluated, run: str) -> Any:
    """The version of this model, which is created where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="Detectors of rounds of kka; `champion` is the one to serve.")
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.tags.get(MODEL) == new.model:
            return known
    tags = {MODEL: new.model}
    return client.create_model_version(name, f"models:/{new.model}", run, tags=tags, model_id=new.model)


def _by_alias(client: Any, name: str, alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def _compare(client: Any, new: Evaluated, champion: Any) -> tuple[bool, str]:
    """Whether the new one is better than the champion for sure, and how the two compare."""
    from mlflow.exceptions import MlflowException

    labels = new.scores.labels
    known = bool(labels.any())
    what = "The test split holds no anomalies"
    if known:
        what = f"AUROC {new.auroc:.4f} by this one fit on {len(labels)} test pictures"
    if champion is None:
        return True, f"{what}. There was no champion."
    other = f"version {champion.version}"
    try:
        old = read_evaluated(client, client.get_logged_model(champion.tags[MODEL]))
    except (MlflowException, OSError, KeyError) as error:
        return False, f"{what}. How {other} was tested is not known ({one_line(error, 80)})."
    if old.digest != new.digest:
        return False, f"{what}. The champion, {other}, was tested on another split, so nobody can tell which is better."
    if not known:
        return False, f"{what}, so nobody can tell whether it is better than {other}."
    comparison = metrics.compare_scores(
        metrics.auroc, new.scores.values, old.scores.values, labels, samples=SAMPLES, level=LEVEL, seed=0
    )
    scope = "by the pictures of this test split alone"
    return comparison.better, f"{what}, {other}: {old.auroc:.4f}. Difference {comparison}, {scope}."
