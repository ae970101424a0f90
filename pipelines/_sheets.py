"""Picture grids of a round for the report: hard, easy and rejected anomalies, and controls, with captions and scores."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kka.detectors import Detector, Images
from kka.images import contact_sheet, heat_map, read_images
from kka.records import Anomaly, Description, Pair, read_json, read_records, texts
from pipelines._pictures import pictures
from pipelines._stage import Run

WIDE = 8  # pictures in a row


class Row(NamedTuple):
    title: str
    images: Images
    notes: Sequence[str]


def write_sheet(run: Run, name: str, pool: Sequence[Anomaly], detector: Detector, path: Path) -> None:
    """The grid of round `name`. Hard: the lowest scores first; easy: the highest; rejected: most often in the preference pairs.
    Beneath each row, where `detector` can tell, stands what is anomalous in it."""
    ranked = sorted((a for a in pool if a.round == name), key=lambda a: (a.score, a.id))
    hard, easy = [a for a in ranked if a.grade == "hard"], [a for a in ranked[::-1] if a.grade == "easy"]
    rejected = _rejected(run, name, ranked)
    parts = {f"{name}: hard ({len(hard)})": hard, f"{name}: easy ({len(easy)})": easy, f"{name}: rejected in alignment": rejected}
    shown = {title: part[:WIDE] for title, part in parts.items() if part}
    rows = [Row(title, pictures(run, part), [f"{a.score:.3f} {a.text}" for a in part]) for title, part in shown.items()]
    if controls := read_json(run.path("data", name, "controls", "captions.json"))[:WIDE]:
        rows.append(Row(f"{name}: generated normals", read_images(run.path("data", name, "controls"))[:WIDE], controls))
    titles, images, notes = zip(*_with_maps(rows, detector), strict=True)
    contact_sheet([list(i) for i in images], titles, notes, path)


def _with_maps(rows: Sequence[Row], detector: Detector) -> list[Row]:
    """Each row with its heat maps beneath it, all on one scale, from the lowest score to the highest."""
    show = getattr(detector, "score_map", None)
    if show is None:
        return list(rows)
    maps = [show(row.images) for row in rows]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    warm = [Row("", heat_map(row.images, (m - low) / max(high - low, 1e-9)), [""] * len(m)) for row, m in zip(rows, maps, strict=True)]
    return [row for pair in zip(rows, warm, strict=True) for row in pair]


def _rejected(run: Run, name: str, ranked: Sequence[Anomaly]) -> list[Anomaly]:
    """The anomalies of the round whose texts stand on the rejected side of preference pairs (the others there have no picture)."""
    counts = Counter(p.rejected for p in read_records(run.path("data", name, "pairs.jsonl"), Pair))
    return sorted((a for a in ranked if counts[a.text]), key=lambda a: (-counts[a.text], a.id))


def refused(run: Run, name: str, most: int = 4) -> str:
    """Examples of what the guard refused in a round, as a Markdown list."""
    found = read_records(run.path("data", name, "descriptions.jsonl"), Description)
    lines = [f"- {outcome}: {text or '(nothing)'}" for outcome in ("normal", "unreadable") for text in texts(found, outcome)[:most]]
    return "\n".join(lines) or "- nothing"
