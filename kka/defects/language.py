"""What a text says of defects: their kinds and attributes, found anywhere in free English sentences.

Each attribute belongs to the nearest kind of the text; boundaries of clauses and sentences count as distance. A kind
that nobody knows is reported, and never taken for another one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kka.defects import phrases
from kka.defects.phrases import Mention
from kka.defects.vocabulary import ATTRIBUTES, Kind, Value, draw
from kka.defects.vocabulary import Vocabulary as Vocabulary

_SEVERAL: Value = (2.0, 4.0)  # what a plural without a number stands for
_BRIGHT, _DARK = 190, 65  # mean of red, green and blue from which a colour is lighter than most, or darker
_GRID = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Defect:
    """One kind of defect at one place, and how it looks.

    `kind` is the vocabulary's name of it and `family` what draws it, of `vocabulary.FAMILIES`; without one the kind is
    a family itself. `count` is at least 1; `size` the length as a fraction of the object's side, 0 to 1; `contrast` in
    local deviations of brightness, above 0; `colour` red, green and blue, 0 to 255, None where it was not said; `tone`
    -1 darker, +1 lighter than its surroundings, 0 not said; `direction` of the length in degrees, 0 horizontal, 90
    vertical, 45 rising to the right, None where it was not said; `elongation` length over width, at least 1; `place`
    one of `vocabulary.PLACES`; `sharpness` 0 (soft) to 1 (sharp)."""

    kind: str
    count: int
    size: float
    contrast: float
    colour: tuple[int, int, int] | None
    tone: int
    direction: float | None
    elongation: float
    place: str
    sharpness: float
    family: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family or self.kind)


@dataclass(frozen=True)
class Reading:
    """What was understood of a text: its defects in their order, and kinds that the vocabulary does not know, in the
    text's own words. Both are empty for a text that speaks of no defect, such as "no scratches"."""

    defects: tuple[Defect, ...]
    unknown: tuple[str, ...]


def parse(text: str, vocabulary: Vocabulary, rng: np.random.Generator) -> Reading:
    """The defects of a text. What a word leaves open is drawn from its range; the same text and state of `rng` give the
    same defects."""
    words = phrases.tokens(text)
    mentions = phrases.mentions(words, vocabulary.phrases)
    kinds = [m for m in mentions if m.attribute == "kind" and not phrases.negated(words, mentions, m)]
    groups = _merged(words, kinds)
    said = _assigned(words, mentions, groups)
    defects = tuple(_defect(group[0], values, vocabulary, rng) for group, values in zip(groups, said, strict=True))
    return Reading(defects, tuple(phrases.unknown(words, mentions, vocabulary.things)))


def _merged(words: Sequence[str], kinds: Sequence[Mention]) -> list[list[Mention]]:
    """The mentions of each defect: "the scratch" is one that was spoken of before, "crack line" is one crack."""
    groups: list[list[Mention]] = []
    for mention in kinds:
        known = [g for g in groups if g[0].value is mention.value]
        if groups and groups[-1][-1].end == mention.start:
            groups[-1].append(mention)
        elif known and phrases.definite(words, mention):
            known[-1].append(mention)
        else:
            groups.append([mention])
    return groups


def _assigned(
    words: Sequence[str], mentions: Sequence[Mention], groups: Sequence[Sequence[Mention]]
) -> list[dict[str, Value]]:
    """For each defect the values that the text gives it: of an attribute that is said twice, the nearest."""
    nearest: list[dict[str, tuple[float, Value]]] = [{} for _ in groups]
    for mention in _attributes(words, mentions):
        distances = [min(phrases.distance(words, mention, kind) for kind in group) for group in groups]
        if distances:
            values, best = nearest[int(np.argmin(distances))], min(distances)
            if best < values.get(mention.attribute, (math.inf,))[0]:
                values[mention.attribute] = (best, mention.value)
    return [{attribute: value for attribute, (_, value) in values.items()} for values in nearest]


def _attributes(words: Sequence[str], mentions: Sequence[Mention]) -> Iterator[Mention]:
    """The attributes of the text. A way "from the left to the top" is a place and a direction."""
    found = [m for m in mentions if m.attribute != "kind" and not phrases.of_a_rim(words, mentions, m)]
    places = [m for m in found if m.attribute == "place"]
    ways = [(a, b) for a, b in zip(places, places[1:], strict=False) if phrases.leads(words, a, b)]
    for start, end in ways:
        yield from _way(start, end)
    ends = {m for way in ways for m in way}
    yield from (m for m in found if m not in ends)


def _way(start: Mention, end: Mention) -> Iterator[Mention]:
    (x0, y0), (x1, y1) = _point(start.value), _point(end.value)
    middle = round((y0 + y1) / 2 + 1) * 3 + round((x0 + x1) / 2 + 1)
    yield Mention("place", (_GRID[middle],), start.start, end.end)
    if (x0, y0) != (x1, y1):
        angle = math.degrees(math.atan2(y0 - y1, x1 - x0)) % 180
        yield Mention("direction", (angle, angle), start.start, end.end)


def _point(places: Sequence[str]) -> tuple[int, int]:
    """Column and row of the first place, -1 to 1; any and edge lie in the middle."""
    at = _GRID.index(places[0]) if places[0] in _GRID else 4
    return at % 3 - 1, at // 3 - 1


def _defect(mention: Mention, said: Mapping[str, Value], vocabulary: Vocabulary, rng: np.random.Generator) -> Defect:
    kind: Kind = mention.value
    known = dict(said)
    if mention.plural and known.get("count", (1.0, 1.0)) == (1.0, 1.0):
        known["count"] = _SEVERAL
    values = {a: _drawn(a, known.get(a, vocabulary.value(kind, a)), rng) for a in ATTRIBUTES}
    if "direction" not in known and "direction" not in kind.usual:
        values["direction"] = None
    if values["tone"] is None or ("tone" not in known and values["colour"] is not None):
        values["tone"] = _tone(values["colour"])
    return Defect(kind=kind.name, family=kind.family, **values)


def _drawn(attribute: str, value: Value | None, rng: np.random.Generator) -> object:
    return None if value is None else draw(attribute, value, rng)


def _tone(colour: tuple[int, int, int] | None) -> int:
    """Whether a colour is lighter or darker than most surroundings."""
    if colour is None:
        return 0
    grey = sum(colour) / 3
    return int(grey >= _BRIGHT) - int(grey <= _DARK)
