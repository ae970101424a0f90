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
from pipelines._tables import LEGEND, groups_table, warning
from pipelines._tables import Row as Figures

WIDE = 8  # pictures in a row


class Row(NamedTuple):
    """Pictures with a note each and, where the detector can tell, what is anomalous in them."""

    title: str
    images: Images
    notes: Sequence[str]
    maps: Images | None = None


def rows_of(run: Run, name: str, pool: Sequence[Anomaly], detector: Detector) -> list[Row]:
    """The rows of round `name`. Hard: the lowest scores first, or where none is hard the nearest to it; easy: the highest;
    rejected: most often in the preference pairs."""
    ranked = sorted((a for a in pool if a.round == name), key=lambda a: (a.score, a.id))
    hard, easy = [a for a in ranked if a.grade == "hard"], [a for a in ranked[::-1] if a.grade == "easy"]
    nearest = {f"hard ({len(hard)})": hard} if hard else {"none is hard; the nearest": ranked}
    parts = nearest | {f"easy ({len(easy)})": easy, "rejected in alignment": _rejected(run, name, ranked)}
    shown = {title: part[:WIDE] for title, part in parts.items() if part}
    rows = [Row(title, pictures(run, part), [f"{a.score:.3f} {a.text}" for a in part]) for title, part in shown.items()]
    if controls := read_json(run.path("data", name, "controls", "captions.json"))[:WIDE]:
        rows.append(Row("generated normals", read_images(run.path("data", name, "controls"))[:WIDE], controls))
    return _with_maps(rows, detector)


def write_sheet(name: str, rows: Sequence[Row], path: Path) -> None:
    """The rows of round `name` as one picture, each with its heat maps beneath it."""
    parts = [(f"{name}: {row.title}", row.images, row.notes) for row in rows]
    for place, row in reversed(list(enumerate(rows))):
        if row.maps is not None:
            parts.insert(place + 1, ("", row.maps, [""] * len(row.maps)))
    titles, images, notes = zip(*parts, strict=True)
    contact_sheet([list(i) for i in images], titles, notes, path)


def _with_maps(rows: Sequence[Row], detector: Detector) -> list[Row]:
    """Each row with its heat maps, all on one scale, from the lowest score to the highest."""
    show = getattr(detector, "score_map", None)
    if show is None:
        return list(rows)
    maps = [show(row.images) for row in rows]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    scale = max(high - low, 1e-9)
    return [row._replace(maps=heat_map(row.images, (m - low) / scale)) for row, m in zip(rows, maps, strict=True)]


def _rejected(run: Run, name: str, ranked: Sequence[Anomaly]) -> list[Anomaly]:
    """The anomalies of the round whose texts stand on the rejected side of preference pairs (the others there have no picture)."""
    counts = Counter(p.rejected for p in read_records(run.path("data", name, "pairs.jsonl"), Pair))
    return sorted((a for a in ranked if counts[a.text]), key=lambda a: (-counts[a.text], a.id))


def markdown_report(run: Run, rows: Sequence[Figures], table: str) -> str:
    """report.md: the table with its legend, the groups, and each round's grid, with examples of what the guard refused."""
    parts = ["# The rounds", *([said] if (said := warning(rows)) else []), table, LEGEND]
    parts += ["## AUROC by group of anomalies", groups_table(rows)]
    for name in (row["round"] for row in rows[1:]):
        found = "\n".join(f"- {outcome}: {text}" for outcome, text in refused(run, name)) or "- nothing"
        parts += [f"## Round {name}", f"![hard, easy and rejected anomalies]({name}.png)", "Refused by the guard:", found]
    return "\n\n".join(p.strip() for p in parts) + "\n"


def refused(run: Run, name: str, most: int = 4) -> list[tuple[str, str]]:
    """Examples of what the guard refused in a round: outcome and text."""
    found, outcomes = read_records(run.path("data", name, "descriptions.jsonl"), Description), ("normal", "unreadable", "duplicate")
    return [(outcome, text or "(nothing)") for outcome in outcomes for text in texts(found, outcome)[:most]]  # type: ignore[arg-type]
