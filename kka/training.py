"""Normals and generated pictures -> the fits of a detector."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kka import detectors
from kka.detectors import Detector
from kka.log import Log, silent
from kka.records import Changes, Images


def fit_over_seeds(
    name: str,
    seeds: Sequence[int],
    options: Mapping[str, Any],
    normals: Images,
    anomalies: Images | None = None,
    generated_normals: Images | None = None,
    *,
    changes: Changes | None = None,
    log: Log = silent,
) -> Iterator[Detector]:
    """The detector `name` fitted from each seed in turn, on uint8 (n, h, w, 3), with the anomalies' `changes` where
    they are known. The first is the one to go on with, and alone logs; the others tell how far its figures wander."""
    for i, seed in enumerate(seeds):
        detector = detectors.create(name, seed, **options)
        known = {} if changes is None else {"changes": changes}
        yield detector.fit(normals, anomalies, generated_normals=generated_normals, log=silent if i else log, **known)
