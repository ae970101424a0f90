"""What the report shows of a round: rows of hard, easy and rejected anomalies and of controls, with captions, scores
and heat maps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kka.detectors import Detector, Images
from kka.images import contact_sheet, heat_map, read_images
from kka.records import Anomaly, Description, Outcome, Pair, read_json, read_records, texts
from pipelines.generated import pictures
from pipelines.stage import Run

WIDE = 8  # pictures in a row
ENLARGED = 128  # pixels that small ones are enlarged to in a grid
EXAMPLES = 4  # of what the guard refused, of each kind
REFUSED: tuple[Outcome, ...] = ("normal", "unreadable", "duplicate")


class Row(NamedTuple):
    """Pictures under a title. `notes` are their scores or groups, `maps` show what is anomalous in them, where the
    detector can tell."""

    title: str
    images: Images
    captions: Sequence[str]
    notes: Sequence[str]
    maps: Images | None = None


def rows_of(run: Run, name: str, pool: Sequence[Anomaly], detector: Detector) -> list[Row]:
    """The rows of round `name`: hard anomalies from the lowest score on, easy ones from the highest, those rejected
    most often in the preference pairs, and controls."""
    parts = {title: part[:WIDE] for title, part in _parts(run, name, pool).items() if part}
    found = iter(pictures(run, [a for part in parts.values() for a in part]))
    rows = [
        Row(title, np.stack([next(found) for _ in part]), [a.text for a in part], [f"{a.score:.3f}" for a in part])
        for title, part in parts.items()
    ]
    if captions := read_json(run.path("data", name, "controls", "captions.json"))[:WIDE]:
        rows.append(
            Row(
                "generated normals",
                read_images(run.path("data", name, "controls"))[:WIDE],
                captions,
                [""] * len(captions),
            )
        )
    return with_maps(rows, detector)


def _parts(run: Run, name: str, pool: Sequence[Anomaly]) -> dict[str, list[Anomaly]]:
    ranked = sorted((a for a in pool if a.round == name), key=lambda a: (a.score, a.id))
    hard, easy = [a for a in ranked if a.grade == "hard"], [a for a in ranked[::-1] if a.grade == "easy"]
    first = {f"hard ({len(hard)})": hard} if hard else {"none is hard; the lowest scores": ranked}
    return {**first, f"easy ({len(easy)})": easy, "rejected in alignment": _rejected(run, name, ranked)}


def _rejected(run: Run, name: str, ranked: Sequence[Anomaly]) -> list[Anomaly]:
    """The anomalies of the round whose texts stand on the rejected side of preference pairs (the others there have no
    picture)."""
    counts = Counter(p.rejected for p in read_records(run.path("data", name, "pairs.jsonl"), Pair))
    return sorted((a for a in ranked if counts[a.text]), key=lambda a: (-counts[a.text], a.id))


def with_maps(rows: Sequence[Row], detector: Detector) -> list[Row]:
    """Each row with its heat maps, all on one scale, from the lowest score to the highest."""
    show = getattr(detector, "score_map", None)
    if show is None:
        return list(rows)
    maps = [show(row.images) for row in rows]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    return [
        row._replace(maps=heat_map(row.images, (m - low) / max(high - low, 1e-9)))
        for row, m in zip(rows, maps, strict=True)
    ]


def write_sheet(name: str, rows: Sequence[Row], path: Path) -> None:
    """The rows of round `name` as one picture, heat maps beneath."""
    lines: list[tuple[Images, str, list[str]]] = []
    for row in rows:
        notes = [f"{note} {text}".strip() for note, text in zip(row.notes, row.captions, strict=True)]
        lines.append((row.images, f"{name}: {row.title}", notes))
        if row.maps is not None:
            lines.append((row.maps, "", [""] * len(row.maps)))
    images, titles, beneath = zip(*lines, strict=True)
    scale = max(1, ENLARGED // rows[0].images.shape[2])
    contact_sheet([list(i) for i in images], titles, beneath, path, scale=scale)


def refused(run: Run, name: str) -> Mapping[str, list[str]]:
    """What the guard refused in a round, by outcome; of duplicates those that were written once more."""
    found = read_records(run.path("data", name, "descriptions.jsonl"), Description)
    return {outcome: listed for outcome in REFUSED if (listed := texts(found, outcome))}
