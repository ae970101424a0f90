"""A round's detector as a LoggedModel of MLflow, with all that it needs to be served anywhere: weights, calibration
scores, `kka`."""

import base64
import io
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kka.project.config import Config
from kka.records import read_json, write_json
from pipelines.layout import read_csv
from pipelines.tracking.runs import Tracker

NEEDED = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "torch", "tqdm")


def log_model(tracker: Tracker, run: str, name: str, root: Path, digests: Mapping[str, str]) -> str:
    """The id of the round's LoggedModel, which is made where there is none yet with these `digests`, of its detector
    and of the test split; half-made ones are removed, but for those that another machine may be making."""
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
    made = client.create_logged_model(
        experiment, name=f"detector-{name}", source_run_id=run, tags=about, model_type="pyfunc"
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"), root, name, config, made, run)
        client.log_model_artifacts(made.model_id, str(Path(folder, "model")))
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run, [LoggedModelOutput(made.model_id, 0)])
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def save_model(folder: Path, root: Path, name: str, config: Config, made: Any, run: str) -> None:
    """Writes the model of round `name` in MLflow's format."""
    import mlflow.pyfunc
    from mlflow.models import Model

    with _parts(root, name, config) as (artifacts, code):
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("served.py")),
            mlflow_model=Model(
                artifact_path=made.artifact_location, model_uuid=made.model_id, run_id=run, model_id=made.model_id
            ),
            artifacts={k: str(v) for k, v in artifacts.items()},
            code_paths=[str(code)],
            signature=_signature(),
            input_example=_example(root),
            pip_requirements=_requirements(artifacts["detector"]),
        )
    for cache in folder.rglob("__pycache__"):  # saving runs the code once
        shutil.rmtree(cache)


@contextmanager
def _parts(root: Path, name: str, config: Config) -> Iterator[tuple[dict[str, Path], Path]]:
    """The artifacts by name, and `kka` without the models that no detector needs."""
    import kka

    detector = root / "data" / name / "detector"
    options = _options(detector)
    place, function = _own_backbone(root, options)
    spared = () if "backbone" in options else ("features",)
    with tempfile.TemporaryDirectory() as folder:
        code, facts = Path(folder, "kka"), Path(folder, "facts.json")
        shutil.copytree(
            Path(kka.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__", "lm", "t2i", *spared)
        )
        prepared = {"image_size": config.prepare.image_size, "squeeze": config.prepare.squeeze}
        write_json(facts, prepared | {"calibration": sorted(scores(root, name, "calibration")), "function": function})
        found = {
            "detector": detector,
            "facts": facts,
            "scores": root / "data" / name / "scores.csv",
        }  # the scores: for whoever compares
        yield found | ({"backbone": place} if place else {}), code


def _options(detector: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(detector / "detector.json")["options"]
    return found


def _own_backbone(root: Path, options: Mapping[str, Any]) -> tuple[Path | None, str]:
    """Where the detector's backbone stands, and ':function' in it, if it is a file or folder of the user's own."""
    from kka.detectors.shared.backbones import BUILT_IN, is_factory

    named = options.get("backbone", BUILT_IN)
    place, colon, function = named.rpartition(":") if is_factory(named) else (named, "", "")
    path = root / Path(place).expanduser()
    return (path, colon + function) if named != BUILT_IN and path.exists() else (None, "")


def scores(root: Path, name: str, split: str) -> list[float]:
    """The scores of a split's pictures by the round's detector, in their order."""
    return [float(row["score"]) for row in read_csv(root / "data" / name / "scores.csv") if row["split"] == split]


def _requirements(detector: Path) -> list[str]:
    """What `kka` needs to score, in the versions of now."""
    more = ("transformers",) if "backbone" in _options(detector) else ()
    return [f"{name}=={version(name).partition('+')[0]}" for name in (*NEEDED, *more)]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    outs = {"score": "double", "p_value": "double", "alarm": "boolean", "error": "string", "heat_map": "string"}
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema([ColSpec(kind, name, required=False) for name, kind in outs.items()]),
        params=ParamSchema(
            [
                ParamSpec("fpr", "double", 0.05),
                ParamSpec("maps", "boolean", False),
                ParamSpec("paths", "boolean", False),
            ]
        ),
    )


def _example(root: Path) -> Any:
    """A table of one calibration normal."""
    import pandas as pd
    from PIL import Image

    from kka.images import read_shard, shard_path

    buffer = io.BytesIO()
    Image.fromarray(read_shard(shard_path(root / "data" / "splits" / "calibration", 0))[0]).save(buffer, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode()]})
