"""How stages read generated pictures: those that records name, and the controls (generated normal images)."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kka.errors import KkaError
from kka.images import read_images
from kka.records import Anomaly, Description, read_json, read_records, sha256
from pipelines.stage import Run

Images = NDArray[np.uint8]


def pictures(run: Run, anomalies: Sequence[Anomaly]) -> Images:
    """The anomalies' pictures in their order, uint8 (n, h, w, 3). Raises KkaError where a picture is not the one that
    was recorded."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for place, anomaly in enumerate(anomalies):
        wanted[anomaly.round].append(place)
    found: dict[int, Images] = {}
    for name, places in wanted.items():
        stored = read_images(run.path("data", name, "anomalies"))
        found |= {place: _picture(stored, anomalies[place]) for place in places}
    return np.stack([found[i] for i in range(len(anomalies))])


def _picture(stored: Images, anomaly: Anomaly) -> Images:
    if anomaly.row >= len(stored) or sha256(stored[anomaly.row]) != anomaly.sha256:
        raise KkaError(
            f"data/{anomaly.round}/anomalies: picture {anomaly.row} is not the one that the pool's record {anomaly.id} names."
            f" Run `dvc repro --force synthesize@{anomaly.round}`, then `dvc repro`."
        )
    picture: Images = stored[anomaly.row]
    return picture


def new_pictures(run: Run) -> tuple[list[Description], Images]:
    """This round's kept descriptions, and a picture of each. Raises KkaError where they are not equally many."""
    kept = [
        d for d in read_records(run.path("data", run.round, "descriptions.jsonl"), Description) if d.outcome == "kept"
    ]
    images = read_images(folder := run.path("data", run.round, "anomalies"))
    _same_number(folder, run.round, len(kept), len(images))
    return kept, images


def training_controls(run: Run) -> Images | None:
    """Generated normals to train with: the first half of the controls of this round and those before it; None where
    there are none."""
    found = [
        images[: len(images) // 2]
        for name in run.config.lineage(run.round)
        if (images := _controls(run, name)) is not None
    ]
    return np.concatenate(found) if found else None


def measuring_controls(run: Run) -> Images | None:
    """Generated normals that no detector trained on: the second half of this round's; None where there are none."""
    images = _controls(run, run.round)
    return None if images is None else images[len(images) // 2 :]


def _controls(run: Run, name: str) -> Images | None:
    folder = run.path("data", name, "controls")
    captions = read_json(folder / "captions.json")
    if not captions:
        return None
    images = read_images(folder)
    _same_number(folder, name, len(captions), len(images))
    return images


def _same_number(folder: Path, name: str, wanted: int, got: int) -> None:
    if wanted != got:
        raise KkaError(
            f"{folder}: wanted {wanted} pictures, got {got}. Run `dvc repro --force synthesize@{name}`, then `dvc repro`."
        )
