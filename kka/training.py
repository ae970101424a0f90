"""A detector, normals and generated pictures -> the fitted detector."""

from typing import TypeVar

from kka.detectors import Detector, Images
from kka.log import Log, silent

D = TypeVar("D", bound=Detector)


def train(
    detector: D,
    normals: Images,
    anomalies: Images | None = None,
    generated_normals: Images | None = None,
    *,
    log: Log = silent,
) -> D:
    """Fits on uint8 (n, h, w, 3). A round without anomalies, or without generated normals, may hand over empty
    arrays."""
    return detector.fit(normals, _some(anomalies), generated_normals=_some(generated_normals), log=log)


def _some(images: Images | None) -> Images | None:
    return images if images is not None and len(images) else None
