"""What MLflow serves: pictures in; score, p-value, alarm and heat map out. MLflow copies this file into each model and
runs it there, with the `kka` that the model carries: nothing of the project is needed.

The input is a column `image`: encoded bytes (png, jpg, ...), the same in base64 (a data URI too), arrays (h, w) or (h,
w, 1 to 4), or, with the parameter `paths`, paths. MLflow's server reads none: whoever can reach it could look into its
files."""

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray
from PIL import Image

from kka import detectors
from kka.errors import KkaError
from kka.images import UnreadablePicture, prepare, read_picture
from kka.records import Images, read_json
from kka.scoring import Scorer

_BATCH = 256  # pictures in memory at a time


class Served(PythonModel):  # type: ignore[misc]  # MLflow is untyped
    """Keeps a Scorer, and prepares pictures for it as the data set's were."""

    def load_context(self, context: Any) -> None:
        """`context.artifacts`: the folder `detector`, the file `facts`, and where the backbone is the user's own,
        `backbone`."""
        facts, own = read_json(Path(context.artifacts["facts"])), context.artifacts.get("backbone")
        options = {"backbone": f"{own}{facts['function']}"} if own else {}
        detector = detectors.load(Path(context.artifacts["detector"]), **options)
        self.scorer = Scorer(detector, np.array(facts["calibration"]), facts["image_size"], facts["squeeze"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row a picture; of one that cannot be read, `error` says why, and the rest is empty. Of `params`, `fpr` is
        the share of normal pictures that may give an alarm, `maps` asks for heat maps, as PNG in base64, where the
        detector has them, and with `paths` texts are files."""
        wanted = {"fpr": 0.05, "maps": False, "paths": False} | (params or {})
        wanted["paths"] &= "__pyfunc_model_path__" not in os.environ  # the mark of MLflow's server
        images, rows = list(model_input["image"]), []
        for start in range(0, len(images), _BATCH):
            rows += self._rows(images[start : start + _BATCH], **wanted)
        columns = ["score", "p_value", "alarm", "error", *(["heat_map"] if wanted["maps"] else [])]
        return pd.DataFrame(rows, columns=columns).replace({np.nan: None})

    def _rows(self, images: list[Any], fpr: float, maps: bool, paths: bool) -> list[dict[str, Any]]:
        pictures = [self._read(image, paths) for image in images]
        rows: list[dict[str, Any]] = [{"error": p if isinstance(p, str) else None} for p in pictures]
        whole = [i for i, p in enumerate(pictures) if not isinstance(p, str)]
        if whole:
            pixels = np.concatenate([pictures[i] for i in whole])
            scores = self.scorer.detector.score(pixels)
            heat = self.scorer.maps(pixels) if maps else None
            for place, (i, score, p) in enumerate(zip(whole, scores, self.scorer.p_values(scores), strict=True)):
                rows[i] |= {"score": float(score), "p_value": float(p), "alarm": bool(p <= fpr)}
                rows[i] |= {} if heat is None else {"heat_map": _png(heat[place])}
        return rows

    def _read(self, image: Any, paths: bool) -> Images | str:
        """The prepared picture (1, h, w, 3), or why there is none."""
        size, squeeze = self.scorer.image_size, self.scorer.squeeze
        try:
            if isinstance(image, list | np.ndarray):
                return prepare([_levels(image)], size, squeeze=squeeze)
            return read_picture(_source(image, paths), size, squeeze=squeeze)
        except UnreadablePicture as error:
            return error.reason
        except (KkaError, ValueError, OverflowError) as error:
            return " ".join(str(error).split())[:160]


def _levels(image: Any) -> NDArray[Any]:
    """An array as it is, or a list as one of bytes. Raises ValueError for what does not hold whole numbers from 0 to
    255."""
    levels = np.asarray(image)
    if (
        isinstance(image, list)
        and levels.dtype.kind in "iu"
        and levels.size
        and levels.min() >= 0
        and levels.max() <= 255
    ):
        return levels.astype(np.uint8)
    if isinstance(image, list):
        raise ValueError("an array must hold whole numbers from 0 to 255, in the shape (h, w) or (h, w, 1 to 4)")
    return levels


def _source(image: Any, paths: bool) -> bytes | Path:
    """The bytes or the path that Pillow reads the picture from. Raises ValueError where the input is neither."""
    if isinstance(image, bytes):
        return image
    if paths and isinstance(image, str | Path):
        return Path(image)
    if not isinstance(image, str):
        raise ValueError(f"wanted bytes, base64 or an array, got {type(image).__name__}")
    try:
        text = image.partition("base64,")[2] if image.startswith("data:") else image
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:  # of characters, or of their number
        raise ValueError(
            f"'{image[:40]}' is no base64. Paths are read with the parameter paths only, and never by a server"
        ) from None


def _png(image: Images) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


set_model(Served())
