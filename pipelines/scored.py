"""What a round's detector, its first fit, makes of real pictures: every score, the ROC, and the pictures scored most
wrongly."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kka import evaluation
from kka.detectors import Images
from kka.images import read_images, write_images
from kka.records import Mistake, Split, read_records, write_records
from pipelines.layout import read_csv, write_csv
from pipelines.stage import Run

MOST = 8  # mistakes of either kind
_CALIBRATION = "calibration"
_MISTAKES = "mistakes.jsonl"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The scores of the test split with their labels (0 normal, 1 anomalous)."""

    values: Floats
    labels: NDArray[np.int64]

    @property
    def normals(self) -> Floats:
        found: Floats = self.values[self.labels == 0]
        return found

    @property
    def anomalies(self) -> Floats:
        found: Floats = self.values[self.labels == 1]
        return found


def write_scored(run: Run, splits: Mapping[str, tuple[Split, Floats]]) -> None:
    """Writes scores.csv of the splits in their order, each with its scores, and of the last one the ROC and the
    mistakes."""
    parts = [
        (name, *row)
        for name, (s, scores) in splits.items()
        for row in zip(s.labels.tolist(), s.groups, scores.tolist(), strict=True)
    ]
    columns = ("split", "label", "group", "score")
    write_csv(
        run.path("data", run.round, "scores.csv"), columns, [dict(zip(columns, part, strict=True)) for part in parts]
    )
    split, scores = list(splits.values())[-1]
    write_csv(run.path("plots", run.round, "roc.csv"), ("fpr", "tpr"), evaluation.roc_points(scores, split.labels))
    rows = evaluation.worst(scores, split.labels, MOST)
    with run.whole("data", run.round, "mistakes") as folder:
        write_images(folder, split.images[rows])
        found = [Mistake(i, int(split.labels[i]), split.groups[i], split.captions[i], float(scores[i])) for i in rows]
        write_records(folder / _MISTAKES, found)


def read_scores(run: Run, name: str) -> Scores:
    """What the test split scored in round `name`."""
    rows = [row for row in read_csv(run.path("data", name, "scores.csv")) if row["split"] != _CALIBRATION]
    return Scores(np.array([float(r["score"]) for r in rows]), np.array([int(r["label"]) for r in rows]))


def read_mistakes(run: Run, name: str) -> tuple[list[Mistake], Images]:
    """The mistakes of round `name` with their pictures."""
    folder = run.path("data", name, "mistakes")
    return read_records(folder / _MISTAKES, Mistake), read_images(folder)
