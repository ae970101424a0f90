"""What a synthesizer that draws defects on photographs works with: for each text a normal picture, its object and the
defects that are wanted there; and what it leaves behind: a mask and a record."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kka.defects import objects
from kka.defects.language import Reading, Vocabulary, parse
from kka.defects.objects import Floats, Foreground, Mask, Polygon, largest
from kka.defects.vocabulary import FILE
from kka.errors import KkaError
from kka.records import Image, Images, sha256

Outcome = Literal["drawn", "unchanged", "unreadable"]
LEAST = 2  # grey levels from which a pixel counts as changed; smaller changes are taken back


@dataclass(frozen=True)
class Scene:
    """A text, the normal picture that its defects come on (h, w, 3), from `row` of the normals, and that picture's
    object. `rng` goes on where the reading left it."""

    text: str
    row: int
    source: Image
    foreground: Foreground
    reading: Reading
    rng: np.random.Generator

    def finished(self, drawn: Image | Floats) -> tuple[Image, Mask, dict[str, Any]]:
        """The drawn picture, equal to the source but in its mask; the mask; and the record of both."""
        picture = np.asarray(drawn).round().clip(0, 255).astype(np.uint8)
        change = largest(np.maximum(picture, self.source) - np.minimum(picture, self.source))
        mask = (change >= LEAST) & self.foreground.allowed
        record = {
            "text": self.text,
            "outcome": self._outcome(bool(mask.any())),
            "source": self.row,
            "object": "whole picture" if self.foreground.whole else "found",
            "changed": int(mask.sum()),
            "defects": [asdict(defect) for defect in self.reading.defects],
            "unknown": list(self.reading.unknown),
        }
        return np.where(mask[..., None], picture, self.source), mask, record

    def _outcome(self, changed: bool) -> Outcome:
        if not self.reading.defects:
            return "unreadable"
        return "drawn" if changed else "unchanged"


class Scenes:
    """Scenes on `normals` uint8 (n, h, w, 3), by a vocabulary (a file; by default the one that is shipped), within a
    region of interest: a picture of a mask, or a polygon of [x, y] in fractions of the picture."""

    def __init__(
        self, normals: Images | None, vocabulary: str | None = None, region_of_interest: str | Polygon | None = None
    ) -> None:
        if normals is None or not len(normals):
            raise KkaError("synthesize: wanted normal pictures to draw defects on, got none.")
        self._normals = normals
        self._file = FILE if vocabulary is None else Path(vocabulary).expanduser()
        self._vocabulary = Vocabulary.load(self._file)
        self._interest = objects.interest(region_of_interest, normals.shape[1:3])

    @property
    def digest(self) -> str:
        """A hash of all that scenes depend on beside text and seed."""
        parts = [
            sha256(self._normals),
            self._file.read_bytes(),
            b"" if self._interest is None else self._interest.tobytes(),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def scene(self, text: str, seed: int) -> Scene:
        """The scene of a text; the seed chooses the normal picture and all that the text leaves open."""
        rng = np.random.default_rng(seed)
        row = int(rng.integers(len(self._normals)))
        source = self._normals[row]
        reading = parse(text, self._vocabulary, rng)
        return Scene(text, row, source, objects.foreground(source, self._interest), reading, rng)


def tally(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pictures of these records ended in which outcome, on how many no object was found, how often an unknown
    kind was spoken of, and which ones, the most frequent first. Nothing where no record is a scene's."""
    records = [record for record in records if "outcome" in record]
    if not records:
        return {}
    outcomes = Counter(record["outcome"] for record in records)
    unknown = Counter(sorted(kind for record in records for kind in record["unknown"]))
    return {
        **{outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        "without_object": sum(record["object"] != "found" for record in records),
        "unknown": unknown.total(),
        "unknown_kinds": [kind for kind, _ in unknown.most_common(20)],
    }
