"""Picture grids of a round for the report: hard, easy and rejected anomalies, and controls, with captions and scores."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kka.images import contact_sheet, read_images
from kka.records import Anomaly, Description, Pair, read_json, read_records, texts
from pipelines._pictures import pictures
from pipelines._stage import Run

WIDE = 8  # pictures in a row


def write_sheet(run: Run, name: str, pool: Sequence[Anomaly], path: Path) -> None:
    """The grid of round `name`. Hard: the lowest scores first; easy: the highest; rejected: most often in the preference pairs."""
    ranked = sorted((a for a in pool if a.round == name), key=lambda a: (a.score, a.id))
    hard, easy = [a for a in ranked if a.grade == "hard"], [a for a in ranked[::-1] if a.grade == "easy"]
    rejected = _rejected(run, name, ranked)
    parts = {f"{name}: hard ({len(hard)})": hard, f"{name}: easy ({len(easy)})": easy, f"{name}: rejected in alignment": rejected}
    shown = {title: part[:WIDE] for title, part in parts.items() if part}
    rows = [list(pictures(run, part)) for part in shown.values()]
    notes = [[f"{a.score:.3f} {a.text}" for a in part] for part in shown.values()]
    controls = read_json(run.path("data", name, "controls", "captions.json"))[:WIDE]
    if controls:
        rows.append(list(read_images(run.path("data", name, "controls"))[:WIDE]))
        notes.append(controls)
    contact_sheet(rows, [*shown, f"{name}: generated normals"][: len(rows)], notes, path)


def _rejected(run: Run, name: str, ranked: Sequence[Anomaly]) -> list[Anomaly]:
    """The anomalies of the round whose texts stand on the rejected side of preference pairs (the others there have no picture)."""
    counts = Counter(p.rejected for p in read_records(run.path("data", name, "pairs.jsonl"), Pair))
    return sorted((a for a in ranked if counts[a.text]), key=lambda a: (-counts[a.text], a.id))


def refused(run: Run, name: str, most: int = 4) -> str:
    """Examples of what the guard refused in a round, as a Markdown list."""
    found = read_records(run.path("data", name, "descriptions.jsonl"), Description)
    lines = [f"- {outcome}: {text or '(nothing)'}" for outcome in ("normal", "unreadable") for text in texts(found, outcome)[:most]]
    return "\n".join(lines) or "- nothing"
