"""`kka predict`: pictures that lie anywhere, scored into a table; and where they are anomalous, as a table and as
pictures."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from kka.drift import DEFECTS, drift
from kka.errors import KkaError
from kka.records import write_json, write_text
from kka.regions import Region
from kka.scoring import Scored, Scorer

COLUMNS = ("file", "score", "p_value", "alarm")
_REGION = tuple(f.name for f in fields(Region))


@dataclass(frozen=True)
class Outs:
    """Where to write: the table of scores; if asked for, the folder of heat maps of alarms, and the table of regions,
    .csv or .json."""

    scores: Path
    maps: Path | None = None
    regions: Path | None = None

    def check(self) -> None:
        """Raises KkaError for a place that cannot be written to."""
        if self.scores.is_dir():
            raise KkaError(f"predict: --out wants a file, got the folder {self.scores}.")
        if self.maps is not None and self.maps.is_file():
            raise KkaError(f"predict: --maps wants a folder, got the file {self.maps}.")
        if self.regions is not None and (self.regions.is_dir() or self.regions.suffix not in (".csv", ".json")):
            raise KkaError(f"predict: --regions wants a file that ends in .csv or .json, got {self.regions}.")

    def check_detector(self, scorer: Scorer) -> None:
        """Raises KkaError where maps are asked of a detector that has none."""
        asked = [f"--{name}" for name in ("maps", "regions") if getattr(self, name) is not None]
        if asked and scorer.pixel_threshold is None:
            raise KkaError(f"predict: the detector '{scorer.name}' has no heat maps. Leave {' and '.join(asked)} out.")


@dataclass
class Found:
    """What the pictures turn out to be, in their order."""

    files: list[Path] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)
    regions: list[list[Region]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def predict(scorer: Scorer, files: Sequence[Path], outs: Outs, fpr: float) -> tuple[str, list[str]]:
    """Scores the files and writes `outs`. Returns what was written, and what is to be said besides. Raises KkaError
    where no file can be read."""
    outs.check_detector(scorer)
    found, alarms = Found(), 0
    asked = outs.maps is not None or outs.regions is not None
    with tqdm(total=len(files), unit="picture", disable=None) as bar:
        for scored in scorer.score(files, found.unreadable, maps=asked):
            _note(found, scorer, scored)
            if scored.p_value <= fpr:
                _draw(scorer, scored, outs.maps, alarms)
                alarms += 1
            bar.update()
    if not found.files:
        raise KkaError(f"predict: none of {len(files)} files can be read as a picture: {found.unreadable[0]}.")
    _write(found, outs, fpr)
    said = [*_doubts(scorer, found, fpr, alarms), *(f"cannot be read: {line}" for line in found.unreadable)]
    written = f"wrote {outs.scores}: {len(found.files)} pictures, {alarms} alarms"
    return f"{written}; {len(found.unreadable)} could not be read", said


def _note(found: Found, scorer: Scorer, scored: Scored) -> None:
    found.files.append(scored.path)
    found.scores.append(scored.score)
    found.p_values.append(scored.p_value)
    found.regions.append([] if scored.map is None else scorer.regions(scored.map, scored.size))


def _draw(scorer: Scorer, scored: Scored, folder: Path | None, number: int) -> None:
    """The picture as the detector saw it, and its heat map beside it, both with the outlines of the regions."""
    if folder is None or scored.map is None:
        return
    image, scores = scored.image[None], scored.map[None]
    pair = [scorer.outlined(image, scores)[0], scorer.heat_maps(image, scores)[0]]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pair, axis=1)).save(folder / f"{number:05d}-{scored.path.stem}.png")


def _write(found: Found, outs: Outs, fpr: float) -> None:
    columns = zip(found.files, found.scores, found.p_values, strict=True)
    write_text(outs.scores, _csv(COLUMNS, ((file, f"{s:.6g}", f"{p:.4f}", int(p <= fpr)) for file, s, p in columns)))
    if outs.regions is None:
        return
    of = list(zip(map(str, found.files), ([_plain(r) for r in regions] for regions in found.regions), strict=True))
    if outs.regions.suffix == ".json":
        write_json(outs.regions, [{"file": file, "regions": regions} for file, regions in of])
    else:
        rows = ((file, *region.values()) for file, regions in of for region in regions)
        write_text(outs.regions, _csv(("file", *_REGION), rows))


def _plain(region: Region) -> dict[str, Any]:
    return asdict(region) | {"score": float(f"{region.score:.6g}")}


def _csv(columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> str:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([columns, *rows])
    return table.getvalue()


def _doubts(scorer: Scorer, found: Found, fpr: float, alarms: int) -> Iterator[str]:
    """What speaks against taking the alarms as they are."""
    normals, pictures = len(scorer.calibration), len(found.files)
    least = 1 / (normals + 1)
    if fpr < least:
        yield f"no p-value is below {least:.4f} with {normals} calibration normals, so --fpr {fpr} gives no alarm"
    if alarms > 20 and alarms > pictures / 2 and fpr < 0.5:
        yield (
            f"{alarms} of {pictures} pictures are alarms: perhaps they are not of the same world as the normal"
            " pictures of the training. Look whether camera, crop and size are the same"
        )
    told = drift(np.array(found.scores), scorer.calibration)
    if told is not None and told.found:
        yield (
            f"drift: the p-values of these {pictures} pictures are not uniform, even if {DEFECTS:.0%} of them are"
            f" defects (two-sample Kolmogorov-Smirnov test against {normals} calibration normals: distance"
            f" {told.distance:.2f}, p-value {told.p_value:.1g}). Light, camera or parts may have changed"
        )
