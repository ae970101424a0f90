"""What the report shows of a round: strips of hard, easy and rejected anomalies and of controls, with captions,
scores and heat maps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kka.detectors import Detector
from kka.drawing import contact_sheet, heat_map, silhouettes
from kka.records import Anomaly, Changes, Images, Outcome, Pair, read_records, texts
from pipelines.layout import Layout, RoundFiles

WIDE = 8  # pictures in a row
ENLARGED = 128  # pixels that small ones are enlarged to in a grid
EXAMPLES = 4  # of what the guard refused, of each kind
REFUSED: tuple[Outcome, ...] = ("normal", "unreadable", "duplicate")


class Strip(NamedTuple):
    """Pictures side by side under a title. `notes` are their scores or groups, `maps` show what is anomalous in them,
    where the detector can tell. `before` are the normals that they were made from, `masks` where they were changed."""

    title: str
    images: Images
    captions: Sequence[str]
    notes: Sequence[str]
    maps: Images | None = None
    before: Images | None = None
    masks: Images | None = None

    @property
    def shown(self) -> list[Images]:
        """All that is shown of the pictures, from above."""
        return [row for row in (self.before, self.images, self.masks, self.maps) if row is not None]


def strips(layout: Layout, name: str, pool: Sequence[Anomaly], detector: Detector) -> list[Strip]:
    """The strips of round `name`: hard anomalies from the lowest score on, easy ones from the highest, those rejected
    most often in the preference pairs, and controls."""
    files = layout.round(name)
    parts = {title: part[:WIDE] for title, part in _parts(files, pool).items() if part}
    everything = [a for part in parts.values() for a in part]
    images, changes = layout.read_pictures(everything), layout.read_changes(everything)
    rows = np.split(np.arange(len(everything)), np.cumsum([len(part) for part in parts.values()])[:-1])
    shown = [
        _strip(title, part, images[i], None if changes is None else changes.take(i))
        for (title, part), i in zip(parts.items(), rows, strict=True)
    ]
    controls = files.read_controls()
    if controls is not None:
        captions = files.read_control_captions()[:WIDE]
        shown.append(Strip("generated normals", controls[:WIDE], captions, [""] * len(captions)))
    return with_maps(shown, detector)


def _strip(title: str, part: Sequence[Anomaly], images: Images, changes: Changes | None) -> Strip:
    strip = Strip(title, images, [a.text for a in part], [f"{a.score:.3f}" for a in part])
    return strip if changes is None else strip._replace(before=changes.sources, masks=silhouettes(changes.masks))


def _parts(files: RoundFiles, pool: Sequence[Anomaly]) -> dict[str, list[Anomaly]]:
    ranked = sorted((a for a in pool if a.round == files.name), key=lambda a: (a.score, a.id))
    hard, easy = [a for a in ranked if a.grade == "hard"], [a for a in ranked[::-1] if a.grade == "easy"]
    first = {f"hard ({len(hard)})": hard} if hard else {"none is hard; the lowest scores": ranked}
    return {**first, f"easy ({len(easy)})": easy, "rejected in alignment": _rejected(files, ranked)}


def _rejected(files: RoundFiles, ranked: Sequence[Anomaly]) -> list[Anomaly]:
    """The anomalies of the round whose texts stand on the rejected side of preference pairs (the others there have no
    picture)."""
    counts = Counter(pair.rejected for pair in read_records(files.pairs, Pair))
    return sorted((a for a in ranked if counts[a.text]), key=lambda a: (-counts[a.text], a.id))


def with_maps(strips: Sequence[Strip], detector: Detector) -> list[Strip]:
    """Each strip with its heat maps, all on one scale, from the lowest score to the highest."""
    show = getattr(detector, "score_map", None)
    if show is None:
        return list(strips)
    maps = [show(strip.images) for strip in strips]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    span = max(high - low, 1e-9)
    return [s._replace(maps=heat_map(s.images, (m - low) / span)) for s, m in zip(strips, maps, strict=True)]


def write_sheet(name: str, strips: Sequence[Strip], path: Path) -> None:
    """The strips of round `name` as one picture. What pictures were made from stands above them; masks and heat maps
    beneath."""
    lines: list[tuple[Images, str, list[str]]] = []
    for strip in strips:
        notes = [f"{note} {text}".strip() for note, text in zip(strip.notes, strip.captions, strict=True)]
        for i, row in enumerate(strip.shown):
            title = "" if i else f"{name}: {strip.title}"
            lines.append((row, title, notes if row is strip.images else [""] * len(notes)))
    images, titles, beneath = zip(*lines, strict=True)
    scale = max(1, ENLARGED // strips[0].images.shape[2])
    contact_sheet([list(i) for i in images], titles, beneath, path, scale=scale)


def refused(files: RoundFiles) -> Mapping[str, list[str]]:
    """What the guard refused in a round, by outcome; of duplicates those that were written once more."""
    descriptions = files.read_descriptions()
    listed = {outcome: texts(descriptions, outcome) for outcome in REFUSED}
    return {outcome: lines for outcome, lines in listed.items() if lines}
