"""What MLflow serves: pictures in; score, p-value, alarm, heat map and regions out. MLflow copies this file into
each model and runs it there, with the `kka` that the model carries: nothing of the project is needed.

The input is a column `image`: encoded bytes (png, jpg, ...), the same in base64 (a data URI too), arrays (h, w) or (h,
w, 1 to 4), or, with the parameter `paths`, paths. MLflow's server reads none: whoever can reach it could look into its
files."""

import base64
import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray
from PIL import Image as PILImage

from kka import detectors
from kka.errors import KkaError
from kka.images import DETAIL, UnreadablePicture, open_picture, prepare
from kka.records import Images, read_json
from kka.scoring import Scorer

_BATCH = 64  # pictures in memory at a time


class Served(PythonModel):  # type: ignore[misc]  # MLflow is untyped
    """Keeps a Scorer, and prepares pictures for it as the data set's were."""

    def load_context(self, context: Any) -> None:
        """`context.artifacts`: the folder `detector`, the file `facts`, and where the backbone is the user's own,
        `backbone`."""
        facts, own = read_json(Path(context.artifacts["facts"])), context.artifacts.get("backbone")
        options = {"backbone": f"{own}{facts['function']}"} if own else {}
        detector = detectors.load(Path(context.artifacts["detector"]), **options)
        calibration, threshold = np.array(facts["calibration"]), facts["pixel_threshold"]
        self.scorer = Scorer(detector, calibration, facts["image_size"], facts["squeeze"], threshold)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row a picture; of one that cannot be read, `error` says why, and the rest is empty. Of `params`, `fpr` is
        the share of normal pictures that may give an alarm, `maps` asks for heat maps, as PNG in base64, `regions` for
        where the picture is anomalous, in its own pixels, both where the detector has maps, and with `paths` texts are
        files."""
        wanted = {"fpr": 0.05, "maps": False, "regions": False, "paths": False} | (params or {})
        wanted["paths"] &= "__pyfunc_model_path__" not in os.environ  # the mark of MLflow's server
        images, rows = list(model_input["image"]), []
        for start in range(0, len(images), _BATCH):
            rows += self._rows(images[start : start + _BATCH], **wanted)
        asked = [column for name, column in (("maps", "heat_map"), ("regions", "regions")) if wanted[name]]
        columns = ["score", "p_value", "alarm", "error", *asked]
        return pd.DataFrame(rows, columns=columns).replace({np.nan: None})

    def _rows(self, images: list[Any], fpr: float, maps: bool, regions: bool, paths: bool) -> list[dict[str, Any]]:
        pictures = [self._read(image, paths) for image in images]
        rows: list[dict[str, Any]] = [{"error": p if isinstance(p, str) else None} for p in pictures]
        whole = [(row, *p) for row, p in zip(rows, pictures, strict=True) if not isinstance(p, str)]
        if not whole:
            return rows
        pixels = np.concatenate([image for _, image, _ in whole])
        scores, found = self.scorer.examine(pixels) if maps or regions else (self.scorer.detector.score(pixels), None)
        for (row, _, _), score, p in zip(whole, scores, self.scorer.p_values(scores), strict=True):
            row |= {"score": float(score), "p_value": float(p), "alarm": bool(p <= fpr)}
        for (row, image, size), scored in zip(whole, () if found is None else found, strict=found is not None):
            row |= {"heat_map": _png(self.scorer.heat_maps(image, scored[None])[0])} if maps else {}
            row |= {"regions": [asdict(r) for r in self.scorer.regions(scored, size)]} if regions else {}
        return rows

    def _read(self, image: Any, paths: bool) -> tuple[Images, tuple[int, int]] | str:
        """The prepared picture (1, h, w, 3), and its own width and height; or why there is none."""
        try:
            if isinstance(image, list | np.ndarray):
                levels = _levels(image)
                return self._prepared(levels), (levels.shape[1], levels.shape[0])
            picture = open_picture(_source(image, paths), side=DETAIL * self.scorer.image_size)
            return self._prepared(picture.rgb), picture.upright
        except UnreadablePicture as error:
            return error.reason
        except (KkaError, ValueError, OverflowError) as error:
            return " ".join(str(error).split())[:160]

    def _prepared(self, picture: PILImage.Image | NDArray[Any]) -> Images:
        return prepare([picture], self.scorer.image_size, squeeze=self.scorer.squeeze)


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
    PILImage.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


set_model(Served())
