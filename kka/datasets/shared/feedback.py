"""What inspectors said of pictures that a detector had scored: a folder with the pictures, and a manifest that says of
each what it is and to which split it belongs.

A rejected alarm is normal: half of them train, half set the boundary. A confirmed defect is there to choose by, in
validation; no detector trains on it. Those that came as alarms are no random sample: with the normals that look oddest
among the calibration normals, p-values err to the safe side, and alarms become rarer than they are allowed to be."""

import csv
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kka.datasets.shared.captions import table
from kka.datasets.shared.files import alike, thumbs
from kka.errors import BrokenFile, KkaError
from kka.images import DETAIL, UnreadablePicture, open_picture, prepare
from kka.records import PARTS, Images, Split, Splits, sha256, write_text

VERDICTS = {"ok": PARTS, "defect": ("validation", "test")}  # and the splits that such a picture may belong to
PICTURES = "pictures"  # where they lie in the folder
GROUP = "feedback"  # of confirmed defects
_NEAR = 1.0  # grey levels: as near as one photograph saved twice
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """A picture that was looked at: its `file` in the folder, the hash of that file's bytes, the verdict, the part it
    belongs to, and where it lay."""

    file: str
    sha256: str
    verdict: str
    part: str
    source: str


COLUMNS = tuple(f.name for f in fields(Judged))


def manifest(folder: Path) -> Path:
    """The csv that says what the pictures of the folder are."""
    return folder / "manifest.csv"


def judge(content: bytes, verdict: str, source: Path) -> Judged:
    """A picture's record from the bytes of its file. To which split it belongs hangs on them alone."""
    digest = hashlib.sha256(content).hexdigest()
    normal = ("train", "calibration")[int(digest[:8], 16) % 2]
    part = normal if verdict == "ok" else "validation"
    return Judged(f"{PICTURES}/{digest[:16]}{source.suffix.lower()}", digest, verdict, part, source.as_posix())


def read_manifest(folder: Path) -> list[Judged]:
    """The records of a folder; none of one that is not there. Raises KkaError for a row that does not fit."""
    path = manifest(folder)
    if not path.exists():
        return []
    found = [Judged(**row) for row in table(GROUP, path, COLUMNS)]
    for number, record in enumerate(found, start=2):
        where = f"{GROUP}: {path}, line {number}"
        if record.verdict not in VERDICTS:
            raise KkaError(f"{where}: verdict wants {' or '.join(VERDICTS)}, got '{record.verdict}'.")
        if record.part not in VERDICTS[record.verdict]:
            allowed = ", ".join(VERDICTS[record.verdict])
            raise KkaError(f"{where}: part wants one of {allowed} where it is {record.verdict}, got '{record.part}'.")
    return found


def write_manifest(folder: Path, records: Sequence[Judged]) -> None:
    """Writes the manifest whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in records)
    write_text(manifest(folder), text.getvalue())


def joined(splits: Splits, folder: Path, *, squeeze: bool = False) -> Splits:
    """The splits with the folder's pictures behind their own, which stay where they are. A picture that a split has
    already, but for a grey level, is left out. Captions are the most common one of train. Raises BrokenFile for a
    picture that is not the one that was judged, and KkaError for one that is normal here and anomalous there."""
    records = read_manifest(folder)
    if not records:
        return splits
    size = splits.train.images.shape[1]
    pictures = np.concatenate([_picture(folder, record, size, squeeze) for record in records])
    labels = np.array([record.verdict == "defect" for record in records], dtype=np.int64)
    groups = [GROUP if label else _common(splits.train.groups) for label in labels]
    new = Split(pictures, (_common(splits.train.captions),) * len(records), labels, tuple(groups))
    known = [getattr(splits, part) for part in PARTS]
    _check_labels(known, new, records)
    fresh = _fresh(known, new)
    parts = np.array([record.part for record in records])
    return Splits(*(_behind(getattr(splits, part), new.take(fresh & (parts == part))) for part in PARTS))


def _picture(folder: Path, record: Judged, size: int, squeeze: bool) -> Images:
    """Prepared, (1, size, size, 3)."""
    path = folder / record.file
    if not path.exists():
        raise BrokenFile(f"{path} is missing, which {manifest(folder)} names.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise BrokenFile(f"{path} is not the picture that {manifest(folder)} names: its bytes are others.")
    try:
        return prepare([open_picture(content, str(path), side=DETAIL * size).rgb], size, squeeze=squeeze)
    except UnreadablePicture as error:
        raise BrokenFile(str(error)) from None


def _common(names: Sequence[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _check_labels(known: Sequence[Split], new: Split, records: Sequence[Judged]) -> None:
    labels = {sha256(i): int(y) for split in known for i, y in zip(split.images, split.labels, strict=True)}
    for image, label, record in zip(new.images, new.labels.tolist(), records, strict=True):
        if labels.setdefault(sha256(image), label) != label:
            other = "normal" if label else "anomalous"
            raise KkaError(
                f"{GROUP}: {record.source} is {record.verdict}, but the data set has the same picture as {other}."
                " Remove it there, or its row from the manifest."
            )


def _fresh(known: Sequence[Split], new: Split) -> NDArray[np.bool_]:
    """Which of the new pictures no split has, nor one of the new ones before them."""
    labels = np.concatenate([split.labels for split in (*known, new)])
    small = np.concatenate([thumbs(split.images) for split in (*known, new)])
    first = len(small) - len(new)
    before = np.arange(len(small)) < first + np.arange(len(new))[:, None]
    same = alike(small[first:], small, _NEAR) & (labels[first:, None] == labels)
    fresh = ~(same & before).any(1)
    if not fresh.all():
        _log.warning(f"{GROUP}: left out {int((~fresh).sum())} of {len(new)} pictures, which the data set has already")
    return np.asarray(fresh)


def _behind(split: Split, more: Split) -> Split:
    if not len(more):
        return split
    masks = None if split.masks is None else np.concatenate([split.masks, np.zeros(more.images.shape[:3], bool)])
    return replace(
        split,
        images=np.concatenate([split.images, more.images]),
        captions=split.captions + more.captions,
        labels=np.concatenate([split.labels, more.labels]),
        groups=split.groups + more.groups,
        masks=masks,
    )
