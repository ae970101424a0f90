"""Pictures that a csv file lists, with what is known of each: its label, caption, group, and the split that it belongs
to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kka.datasets.shared.captions import lines, table
from kka.datasets.shared.division import Shares, divide
from kka.datasets.shared.files import File, Levels, Share, first_ones, read
from kka.datasets.shared.masks import with_masks
from kka.errors import KkaError
from kka.records import PARTS, Splits
from kka.registry import suggestion

PATHS = ("source",)

LABELS = {"0": 0, "normal": 0, "good": 0, "ok": 0, "1": 1, "anomaly": 1, "anomalous": 1, "defect": 1, "bad": 1}


def load(
    seed: int,
    image_size: int,
    *,
    source: str,
    caption: str = "a photo of a part",
    calibration: Share = 0.15,
    validation: Share = 0.1,
    test: Share = 0.15,
    squeeze: bool = False,
    unreadable_share: Share = 0.01,
    near_duplicates: Levels = 1.0,
) -> Splits:
    """The pictures that `source` lists in its column file, their paths relative to its own folder.

    Columns that may be there: label (0 or normal, 1 or anomaly; without it all are normal), caption (several rows of a
    picture make several; where it is empty or not there, `caption`), group (of an anomaly, such as scratch), mask (a
    picture that is not 0 where an anomaly is; several rows may name several), part (train, calibration, validation or
    test), item. Without parts the pictures are divided as the data set folder does, those of one item, which look
    alike, into one split. Of pictures that are the same one stays, of the test split sooner than of another. Raises
    KkaError for a row that does not fit."""
    path = Path(source).expanduser()
    rows = table("csv", path, ["file"], ["label", "caption", "group", "mask", "part", "item"])
    files, parts = _merged(path, rows, caption)
    # what is tested comes first, so that it is the others that lose what they share with it
    order = sorted(range(len(files)), key=lambda i: -PARTS.index(parts[i]) if parts[i] else 0)
    split, paths = read(
        "csv", [files[i] for i in order], image_size, unreadable_share=unreadable_share, squeeze=squeeze
    )
    kept = first_ones("csv", split, paths, near_duplicates)
    split, paths = split.take(kept), [paths[i] for i in kept]
    split = with_masks("csv", split, paths, _masks(path, rows), squeeze=squeeze)
    of = dict(zip((f.path for f in files), parts, strict=True))
    named = np.array([of[p] for p in paths])
    if not named.any():
        items = {path.parent / row["file"]: row["item"] for row in rows if row.get("item")}
        together = [items.get(p) or str(p) for p in paths] if items else None
        return divide("csv", split, seed, Shares(calibration, validation, test), together)
    return Splits(*(split.take(_of(named, part)) for part in PARTS))


def _of(named: NDArray[np.str_], part: str) -> NDArray[np.int64]:
    return np.flatnonzero(named == part)


def _merged(path: Path, rows: Sequence[dict[str, str]], caption: str) -> tuple[list[File], list[str]]:
    """A file and its part for each picture, in their order; the captions of all its rows are its own."""
    files: dict[str, File] = {}
    parts: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, where = row["file"], f"csv: {path}, line {number}"
        label, own = _label(where, row.get("label", "normal")), lines(row.get("caption", ""))
        part = row.get("part", "")
        if part not in ("", *PARTS):
            raise KkaError(f"{where}: part wants {', '.join(PARTS)}, got '{part}'.{suggestion(part, list(PARTS))}")
        group = row.get("group", "") or ("anomaly" if label else "normal")
        file = File(path.parent / name, label, group, own)
        if name in files:
            before = files[name]
            if (before.label, before.group, parts[name]) != (label, group, part):
                raise KkaError(f"{where}: {name} stands there twice, with another label, group or part.")
            file = File(before.path, label, group, f"{before.caption}\n{own}".strip())
        files[name], parts[name] = file, part
    without = [name for name, part in parts.items() if not part]
    if without and any(parts.values()):
        raise KkaError(f"csv: {path}: every picture wants a part, or none; {without[0]} has none.")
    return [f if f.caption else File(f.path, f.label, f.group, caption) for f in files.values()], list(parts.values())


def _masks(path: Path, rows: Sequence[dict[str, str]]) -> dict[Path, list[Path]]:
    """The masks of each picture that has some."""
    owned: dict[Path, list[Path]] = {}
    for number, row in enumerate(rows, start=2):
        mask = path.parent / row.get("mask", "")
        if row.get("mask") and not mask.is_file():
            raise KkaError(
                f"csv: {path}, line {number}: there is no mask {mask}. Mend its path, or leave the cell empty."
            )
        if row.get("mask"):
            owned.setdefault(path.parent / row["file"], []).append(mask)
    return owned


def _label(where: str, text: str) -> int:
    if text.lower() not in LABELS:
        raise KkaError(f"{where}: label wants one of {', '.join(LABELS)}, got '{text}'.")
    return LABELS[text.lower()]
