"""What a round's detector said of each test picture, for those who may not read the test split: the report, MLflow, the registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kka.detectors import Images
from kka.images import read_images, write_images
from kka.records import Split, read_records, write_records
from pipelines._csv import write_csv
from pipelines._stage import Run

MOST = 8  # pictures of each kind of mistake


@dataclass(frozen=True)
class Mistake:
    """A test picture on the wrong side, or nearest to it: `row` is its place in the test split."""

    row: int
    label: int
    group: str
    caption: str
    score: float


Floats = NDArray[np.float64]


def write_tested(run: Run, test: Split, scores: Floats, calibration: Split, boundary: Floats, roc: Sequence[Mapping[str, float]]) -> None:
    """Writes the ROC (`plots/<round>/roc.csv`), every score of calibration normals and of the test split, in their order
    (`data/<round>/scores.csv`), and the pictures that were most wrongly scored (`data/<round>/mistakes`)."""
    write_csv(run.path("plots", run.round, "roc.csv"), ("fpr", "tpr"), roc)
    rows = [*_rows("calibration", calibration, boundary), *_rows("test", test, scores)]
    write_csv(run.path("data", run.round, "scores.csv"), ("split", "label", "group", "score"), rows)
    order = np.argsort(scores, kind="stable")
    alarms, missed = order[test.labels[order] == 0][::-1][:MOST], order[test.labels[order] == 1][:MOST]
    wrong = np.concatenate([alarms, missed])
    with run.whole("data", run.round, "mistakes") as folder:
        write_images(folder, test.images[wrong])
        found = [Mistake(int(i), int(test.labels[i]), test.groups[i], test.captions[i], float(scores[i])) for i in wrong]
        write_records(folder / "mistakes.jsonl", found)


def _rows(name: str, split: Split, scores: Floats) -> list[dict[str, object]]:
    columns = zip(split.labels.tolist(), split.groups, scores.tolist(), strict=True)
    return [{"split": name, "label": label, "group": group, "score": score} for label, group, score in columns]


def read_mistakes(run: Run, name: str) -> tuple[Sequence[Mistake], Images]:
    """What `write_tested` wrote of round `name`: the normals that score highest, then the anomalies that score lowest."""
    folder = run.path("data", name, "mistakes")
    return read_records(folder / "mistakes.jsonl", Mistake), read_images(folder)
