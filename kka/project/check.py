"""What `kka data check` says of a data set: what is in its splits, what will cause trouble, and a sheet of pictures to
look at."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from kka.datasets.shared.files import alike, thumbs
from kka.drawing import contact_sheet
from kka.project.doctor import Finding
from kka.records import PARTS, Images, Split, Splits, sha256

_NEAR = 1.0  # grey levels: as near as one photograph saved twice
_WIDE, _GROUPS = 8, 6  # pictures in a row of the sheet, and groups of anomalies


def findings(splits: Splits) -> Iterator[Finding]:
    """What there is, and warnings with what to do about them."""
    yield from (_counts(name, getattr(splits, name)) for name in PARTS)
    yield from _captions(splits)
    yield from _repeats(splits)
    yield from _sizes(splits)


def write_sheet(splits: Splits, path: Path) -> None:
    """A row of normal pictures from train and from test, and one of each group of tested anomalies, the largest
    first."""
    normal = np.flatnonzero(splits.test.labels == 0)
    rows = {
        "train: normal": splits.train.take(np.arange(min(_WIDE, len(splits.train)))),
        "test: normal": splits.test.take(normal[:_WIDE]),
    }
    groups = Counter(g for g, label in zip(splits.test.groups, splits.test.labels, strict=True) if label)
    for name, n in groups.most_common(_GROUPS):
        rows[f"test: {name} ({n})"] = splits.test.take(
            np.flatnonzero((np.array(splits.test.groups) == name) & (splits.test.labels == 1))[:_WIDE]
        )
    usual = set(splits.train.captions)  # what an anomaly is said to be where it has no caption of its own
    notes = [
        [
            "" if label and caption in usual else caption.splitlines()[0]
            for caption, label in zip(row.captions, row.labels, strict=True)
        ]
        for row in rows.values()
    ]
    scale = max(1, 128 // splits.train.images.shape[1])
    contact_sheet([list(row.images) for row in rows.values()], list(rows), notes, path, scale=scale)


def _counts(name: str, split: Split) -> Finding:
    groups = Counter(g for g, label in zip(split.groups, split.labels, strict=True) if label)
    normals = len(split) - sum(groups.values())
    shown = ", ".join(f"{g} {n}" for g, n in groups.most_common(_GROUPS)) + (", ..." if len(groups) > _GROUPS else "")
    h, w = split.images.shape[1:3]
    anomalies = f", {sum(groups.values())} anomalies of {len(groups)} groups ({shown})" if groups else ""
    return Finding("ok", name, f"{normals} normals{anomalies}, {w}x{h} pixels")


def _captions(splits: Splits) -> Iterator[Finding]:
    lines = [line for caption in splits.train.captions for line in caption.splitlines()]
    distinct = list(dict.fromkeys(lines))
    words = np.mean([len(line.split()) for line in distinct])
    yield Finding(
        "ok",
        "captions",
        f"{len(lines)} of normals to train with, {len(distinct)} distinct, {words:.0f} words on average:"
        f" {distinct[0]!r}",
    )
    if len(distinct) < 10:
        yield Finding(
            "warn",
            "captions",
            f"{len(distinct)} distinct ones say little of what is normal: the language model can only guess, and the"
            " guard hardly refuses anything. Ten different ones would do; folder and mvtec can have them written"
            " (captioner)",
        )


def _repeats(splits: Splits) -> Iterator[Finding]:
    near: Counter[tuple[str, str]] = Counter()
    for a, b in combinations(PARTS, 2):
        one, other = getattr(splits, a), getattr(splits, b)
        if equal := len({sha256(image) for image in one.images} & {sha256(image) for image in other.images}):
            yield Finding(
                "fail", "repeats", f"{equal} pictures stand in {a} and in {b}: a detector is tested on what it has seen"
            )
        for label in (0, 1):
            near[a, b] += _near(one.images[one.labels == label], other.images[other.labels == label])
    (a, b), most = near.most_common(1)[0]
    if most:
        yield Finding(
            "warn",
            "repeats",
            f"{sum(near.values())} pictures of one split look nearly like one of another, most of them in {a} and {b}"
            f" ({most}). With a fixed camera that is natural",
        )
    else:
        yield Finding("ok", "repeats", "no picture of one split is, or looks nearly like, one of another")


def _near(images: Images, others: Images) -> int:
    """How many of the images have one that looks like them among the others."""
    rows, small = thumbs(images), thumbs(others)
    return (
        sum(int(alike(part, small, _NEAR).any(1).sum()) for part in np.array_split(rows, -(-len(rows) // 512)))
        if len(rows)
        else 0
    )


def _sizes(splits: Splits) -> Iterator[Finding]:
    """Whether there are enough pictures for what the splits are for."""
    if len(splits.train) < 100:
        yield Finding("warn", "train", f"{len(splits.train)} normals are few to learn from; a few hundred are better")
    if len(splits.calibration) < 100:
        yield Finding(
            "warn",
            "calibration",
            f"{len(splits.calibration)} normals set the threshold: the share of false alarms will wander",
        )
    for name in ("validation", "test"):
        anomalies = int(getattr(splits, name).labels.sum())
        if not anomalies:
            yield Finding("warn", name, "holds no real anomalies: nobody can tell how many the detector finds")
        elif anomalies < 20:
            yield Finding("warn", name, f"{anomalies} anomalies: its AUROC will be rough")
