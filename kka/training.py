"""A detector, normals and generated pictures -> fitted detectors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from kka import detectors
from kka.detectors import Detector
from kka.log import Log, silent
from kka.records import Images

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


def fit_over_seeds(
    name: str,
    seeds: Sequence[int],
    options: Mapping[str, Any],
    normals: Images,
    anomalies: Images | None = None,
    generated_normals: Images | None = None,
    *,
    log: Log = silent,
) -> Iterator[Detector]:
    """The detector `name` fitted from each seed in turn. The first is the one to go on with, and alone logs; the others
    tell how far its figures wander."""
    for i, seed in enumerate(seeds):
        detector = detectors.create(name, seed, **options)
        yield train(detector, normals, anomalies, generated_normals, log=silent if i else log)


def _some(images: Images | None) -> Images | None:
    return images if images is not None and len(images) else None
