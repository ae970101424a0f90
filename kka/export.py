"""A fitted detector as one ONNX file: pictures of any size in, scores out, and maps where the detector has them.

What kka.images.prepare does, Pillow's resize to the last bit included, is a part of the graph, so that whoever has the
file needs neither this project nor Pillow. Every file is compared with the detector before it is written."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from kka.errors import KkaError
from kka.images import prepare
from kka.records import Images, write_bytes
from kka.scoring import Scorer

Floats = NDArray[Any]
TOLERANCE = 1e-4  # a score, or a pixel of a map, may differ by this, and by this share of itself
_CHECKED = 32  # pictures that are compared at each size
_BITS = 22  # Pillow's weights are fixed-point numbers with so many binary places
_TALL_FIRST = int(PIL.__version__.split(".")[0]) >= 13  # since then much taller pictures are resized vertically first


class Prepared(nn.Module):
    """`scorer` behind the preparation: uint8 pictures (n, h, w, 3) -> what it makes of them, scores (n,) or those and
    maps (n, side, side)."""

    def __init__(self, scorer: nn.Module, side: int, squeeze: bool) -> None:
        super().__init__()
        self.scorer, self.side, self.squeeze = scorer, side, squeeze

    def forward(self, pictures: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        made: Tensor | tuple[Tensor, Tensor] = self.scorer(self.resized(pictures).float() / 255)
        return made

    def resized(self, pictures: Tensor) -> Tensor:
        """Whole numbers from 0 to 255 as float64 (n, 3, side, side): exact sums, which Pillow's integers are too."""
        height, width = pictures.shape[1:3]
        shorter = torch.sym_min(height, width)
        down = self._weights(height, height if self.squeeze else shorter)
        across = self._weights(width, width if self.squeeze else shorter).T
        x = pictures.permute(0, 3, 1, 2).double()
        made = _rounded(down @ _rounded(x @ across))
        if _TALL_FIRST:
            taller, wider = (torch.full((), n) - self.side for n in (height, width))
            made = torch.where((taller > 0) & (taller > 2 * wider), _rounded(_rounded(down @ x) @ across), made)
        return made

    def _weights(self, whole: int, part: int) -> Tensor:
        """What each of `whole` pixels is worth for each of the `side` that are made of the `part` in their middle:
        (side, whole).

        Pillow's bicubic window, a = -0.5, stretched where it makes smaller; it reaches beyond the part, but not beyond
        the whole."""
        scale = torch.full((), part, dtype=torch.float64) / self.side
        centres = (whole - part) // 2 + (torch.arange(self.side, dtype=torch.float64) + 0.5) * scale
        x = ((torch.arange(whole, dtype=torch.float64) + 0.5 - centres[:, None]) / scale.clamp_min(1)).abs()
        near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
        window = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
        weights: Tensor = (window / window.sum(1, keepdim=True) * 2**_BITS).round() / 2**_BITS
        return weights


def _rounded(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)


def write(scorer: Scorer, calibration: Images, out: Path) -> float:
    """Writes the ONNX file whole or not at all; returns by how much a score, or a pixel of a map, differs at most.
    `calibration` are the pictures (n, side, side, 3) it is tried on. Raises KkaError where the detector cannot be
    exported, or the file would say otherwise than it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise KkaError(
                f"export wants the package '{package}', which is not installed. Say: pip install -e '.[onnx]'"
            )
    content = _converted(scorer, calibration)
    worst = _compared(scorer, content, calibration[:_CHECKED])
    write_bytes(out, content)
    return worst


def facts(scorer: Scorer) -> dict[str, str]:
    """What the file says of itself: enough to tell an alarm from a score. A picture whose score lies above `threshold`
    has a p-value of at most 0.05; with fewer than 19 calibration normals there is none. Regions are where a map lies
    above `pixel_threshold`."""
    from kka import __version__

    scores, n = scorer.calibration, len(scorer.calibration)
    above = int(0.05 * (n + 1) + 1e-9)  # the picture itself and the normals that may score as high
    properties = {
        "detector": scorer.name,
        "image_size": str(scorer.image_size),
        "squeeze": json.dumps(scorer.squeeze),
        "calibration": json.dumps(scores.tolist()),
        "kka": __version__,
        "pillow": PIL.__version__,
    }
    properties |= {"threshold": repr(float(scores[n - above]))} if above else {}
    has_maps = hasattr(scorer.detector, "mapper") and scorer.pixel_threshold is not None
    return properties | ({"pixel_threshold": repr(scorer.pixel_threshold)} if has_maps else {})


def outputs(scorer: Scorer) -> list[str]:
    """The names of what the file gives: `maps` of a detector that has a module for them."""
    return ["scores", *(["maps"] if hasattr(scorer.detector, "mapper") else [])]


def _converted(scorer: Scorer, calibration: Images) -> bytes:
    """The bytes of the ONNX file."""
    make = getattr(scorer.detector, "mapper", getattr(scorer.detector, "scorer", None))
    if make is None:
        raise KkaError(
            f"export: the detector '{scorer.name}' has no scorer(), the module that is exported. Give it one, or use"
            " `kka predict`."
        )
    graph = Prepared(make(), scorer.image_size, scorer.squeeze).eval()
    n, height, width = (torch.export.Dim(d) for d in ("n", "height", "width"))
    side = scorer.image_size
    example = torch.from_numpy(calibration[:1]).new_zeros(
        2, 2 * side + 1, side + 3, 3
    )  # all sides different, so that none is fixed
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                graph, (example,), dynamic_shapes=({0: n, 1: height, 2: width},), strict=False
            )
            made: Any = torch.onnx.export(
                program, dynamo=True, input_names=["pictures"], output_names=outputs(scorer), verbose=False
            )
            made.model.metadata_props.update(facts(scorer))
            content: bytes = made.model_proto.SerializeToString()
    except Exception as error:  # of torch, onnxscript, onnx or protobuf, each of its own kind
        reason = " ".join(str(error).split())[:160]
        raise KkaError(
            f"export: the detector '{scorer.name}' cannot be made an ONNX file of at most 2 GB ({reason}). Use"
            " `kka predict`."
        ) from error
    return content


def _compared(scorer: Scorer, content: bytes, pictures: Images) -> float:
    """The largest difference between what the file makes of pictures and what the detector does. Raises KkaError where
    one is too large."""
    import onnxruntime

    session, names = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), outputs(scorer)
    worst = 0.0
    for height, width in sizes(scorer.image_size):
        given = np.stack([np.asarray(Image.fromarray(p).resize((width, height))) for p in pictures])
        found = session.run(names, {"pictures": given})
        examined = scorer.examine(prepare(list(given), scorer.image_size, squeeze=scorer.squeeze))
        wanted = [exact for exact in examined if exact is not None]
        for name, got, exact in zip(names, found, wanted, strict=False):  # not every detector's maps are exported
            worst = max(worst, _apart(name, f"{width}x{height}", got, exact))
    return worst


def _apart(name: str, size: str, got: Floats, wanted: Floats) -> float:
    """The largest difference. Raises KkaError where one is too large."""
    apart = np.abs(got - wanted)
    if not (apart <= TOLERANCE * (1 + np.abs(wanted))).all():
        raise KkaError(
            f"export: the ONNX file's {name} differ from the detector's by up to {apart.max():.2g} on pictures of"
            f" {size} pixels; {TOLERANCE:g} and {TOLERANCE:g} of the score may be. Nothing is written. Use"
            " `kka predict`."
        )
    return float(apart.max())


def sizes(side: int) -> list[tuple[int, int]]:
    """Heights and widths that the file is tried at: the detector's own, a pixel beside it, small, large, wide and
    tall."""
    return [
        (side, side),
        (side - 1, side + 1),
        (side + 1, side),
        (side // 2 + 1, side // 3),
        (3 * side + 1, 2 * side + 7),
        (side + 3, 4 * side - 1),
        (5 * side + 1, side + 5),
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript say to their own developers: a failure is an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
