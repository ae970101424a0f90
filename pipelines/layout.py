"""Every file that the stages leave behind, by name, and the readers of those that several stages read.

Nothing here changes a result: where files lie, and what is wrong with those that do not fit together.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kka.detectors import Detector
from kka.errors import BrokenFile, KkaError
from kka.images import read_captions, read_changes, read_images, read_masks, read_split
from kka.project.config import BASELINE as BASELINE  # the stages have it from here
from kka.records import (
    Anomaly,
    Changes,
    Description,
    Images,
    Masks,
    Mistake,
    Split,
    read_json,
    read_records,
    sha256,
    whole_folder,
    write_text,
)

SCORES = "scores.csv"
CURVES = ("step", "loss", "accuracy", "margin")  # the columns of an alignment's curves
_MISTAKES = "mistakes.jsonl"
MASKS = "masks"  # a folder beside pictures
_CAPTIONS = "captions.json"


@dataclass(frozen=True)
class RoundFiles:
    """What the stages write of round `name` in the project `root`."""

    root: Path
    name: str

    @property
    def _data(self) -> Path:
        return self.root / "data" / self.name

    @property
    def detector(self) -> Path:
        """The first fit, which the next round goes on with."""
        return self._data / "detector"

    @property
    def repeats(self) -> Path:
        """The other fits, a folder each."""
        return self._data / "repeats"

    @property
    def adapter(self) -> Path:
        """The language model's adapter after this round."""
        return self._data / "adapter"

    @property
    def anomalies(self) -> Path:
        """The generated anomalies."""
        return self._data / "anomalies"

    @property
    def controls(self) -> Path:
        """The generated normals, and their captions."""
        return self._data / "controls"

    @property
    def descriptions(self) -> Path:
        return self._data / "descriptions.jsonl"

    @property
    def pool(self) -> Path:
        """The anomalies of this round and of all before it."""
        return self._data / "pool.jsonl"

    @property
    def pairs(self) -> Path:
        return self._data / "pairs.jsonl"

    @property
    def scores(self) -> Path:
        """The detector's scores of the calibration and of the test split."""
        return self._data / SCORES

    @property
    def mistakes(self) -> Path:
        """The test pictures that are scored most wrongly."""
        return self._data / "mistakes"

    def metrics(self, stage: str) -> Path:
        return self.root / "metrics" / self.name / f"{stage}.json"

    def plot(self, name: str) -> Path:
        return self.root / "plots" / self.name / f"{name}.csv"

    def fits(self) -> list[Path]:
        """The folders of all fits, that of the round's detector first."""
        return [self.detector, *sorted(self.repeats.iterdir())]

    def write_fits(self, fits: Iterable[Detector]) -> None:
        """The round's detector and its repeats, each as soon as it is fitted."""
        with whole_folder(self.repeats) as folder:
            for i, fitted in enumerate(fits):
                fitted.save(folder / str(i) if i else self.detector)

    def read_pool(self) -> list[Anomaly]:
        return read_records(self.pool, Anomaly)

    def read_descriptions(self) -> list[Description]:
        return read_records(self.descriptions, Description)

    def read_control_captions(self) -> list[str]:
        """The captions of the generated normals; none in round zero."""
        captions: list[str] = read_json(self.controls / _CAPTIONS)
        return captions

    def read_controls(self) -> Images | None:
        """The generated normals; None where there are none."""
        captions = self.read_control_captions()
        if not captions:
            return None
        images = read_images(self.controls)
        self._check_number(self.controls, len(captions), len(images))
        return images

    def read_anomalies(self) -> tuple[list[Description], Images]:
        """This round's kept descriptions, and a picture of each. Raises KkaError where they are not equally many."""
        kept = [d for d in self.read_descriptions() if d.outcome == "kept"]
        images = read_images(self.anomalies)
        self._check_number(self.anomalies, len(kept), len(images))
        return kept, images

    def _check_number(self, folder: Path, wanted: int, got: int) -> None:
        if wanted != got:
            raise KkaError(
                f"{folder}: wanted {wanted} pictures, got {got}. Run `dvc repro --force synthesize@{self.name}`, then"
                " `dvc repro`."
            )

    def read_scores(self, split: str = "test") -> "Scores":
        """The scores of the `test` or of the `calibration` split."""
        return read_scores(self.scores, split)

    def read_mistakes(self) -> tuple[list[Mistake], Images]:
        """The mistakes with their pictures."""
        return read_records(self.mistakes / _MISTAKES, Mistake), read_images(self.mistakes)

    def read_masks_of_mistakes(self) -> Masks | None:
        """Where they are anomalous, where the test split tells."""
        folder = self.mistakes / MASKS
        return read_masks(folder) if folder.exists() else None


@dataclass(frozen=True)
class Layout:
    """What the stages write in the project `root`."""

    root: Path

    def round(self, name: str) -> RoundFiles:
        return RoundFiles(self.root, name)

    def split(self, part: str) -> Path:
        """train, calibration, validation or test."""
        return self.root / "data" / "splits" / part

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def summary(self) -> Path:
        """The figures that an experiment is compared by."""
        return self.root / "metrics" / "summary.json"

    @property
    def curves(self) -> Path:
        """The figures over the rounds, for plots."""
        return self.root / "plots" / "rounds.csv"

    def read_split(self, part: str) -> Split:
        return read_split(self.split(part))

    def read_captions(self, part: str) -> tuple[str, ...]:
        """The captions of a split's normal pictures, of which one picture may have several."""
        return tuple(line for caption in read_captions(self.split(part)) for line in caption.splitlines())

    def read_pictures(self, anomalies: Sequence[Anomaly]) -> Images:
        """The anomalies' pictures in their order, uint8 (n, h, w, 3). Raises KkaError where a picture is not the one
        that was recorded."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, anomaly in enumerate(anomalies):
            places[anomaly.round].append(place)
        pictures: dict[int, Images] = {}
        for name, wanted in places.items():
            stored = read_images(self.round(name).anomalies)
            pictures |= {place: _recorded(stored, anomalies[place]) for place in wanted}
        return np.stack([pictures[place] for place in range(len(anomalies))])

    def read_changes(self, anomalies: Sequence[Anomaly]) -> Changes | None:
        """What the anomalies were made from, in their order; None where a round has not recorded it."""
        known = {name: read_changes(self.round(name).anomalies) for name in {a.round for a in anomalies}}
        rows = [(changes, a.row) for a in anomalies if (changes := known[a.round]) is not None]
        if not rows or len(rows) < len(anomalies):
            return None
        return Changes(np.stack([c.sources[i] for c, i in rows]), np.stack([c.masks[i] for c, i in rows]))

    def read_figures(self, name: str) -> dict[str, Any]:
        """All figures of a round by stage and name, e.g. {"evaluate": {"auroc": 0.9, ...}, ...}; stages that it lacks
        are empty. Raises KkaError where it has not been evaluated."""
        files = self.round(name)
        paths = {stage: files.metrics(stage) for stage in ("describe", "synthesize", "assess", "detect", "align")}
        figures = {stage: read_json(path) if path.exists() else {} for stage, path in paths.items()}
        return {"round": name} | figures | {"evaluate": read_json(files.metrics("evaluate"))}


@dataclass(frozen=True)
class Scores:
    """The scores of a split with their labels (0 normal, 1 anomalous), shape (n,) each."""

    values: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def normals(self) -> NDArray[np.float64]:
        return np.asarray(self.values[self.labels == 0])

    @property
    def anomalies(self) -> NDArray[np.float64]:
        return np.asarray(self.values[self.labels == 1])


def _recorded(stored: Images, anomaly: Anomaly) -> Images:
    if anomaly.row >= len(stored) or sha256(stored[anomaly.row]) != anomaly.sha256:
        raise KkaError(
            f"data/{anomaly.round}/anomalies: picture {anomaly.row} is not the one that the pool's record {anomaly.id}"
            f" names. Run `dvc repro --force synthesize@{anomaly.round}`, then `dvc repro`."
        )
    return np.asarray(stored[anomaly.row])


def read_scores(path: Path, split: str) -> Scores:
    """The scores of a split in a scores.csv, in its order. Raises BrokenFile where there is no such file."""
    rows = [row for row in read_csv(path) if row["split"] == split]
    return Scores(np.array([float(r["score"]) for r in rows]), np.array([int(r["label"]) for r in rows]))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows under their columns, as `dvc plots` reads them; an empty cell where a row lacks one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows that `write_csv` wrote, each by its columns. Raises BrokenFile where there is no such file."""
    if not path.exists():
        raise BrokenFile(f"{path} is missing.")
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))
