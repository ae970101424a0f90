"""Where a text mentions words of the vocabulary, and what stands around them: negations, articles, clauses."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kka.defects.vocabulary import Entry

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)?|[.,;:!?()\n]")
_STOPS, _PAUSES = set(".;!?\n"), {",", ":", "(", ")", "and", "with", "but", "while", "plus"}
_NEGATIONS = {"no", "not", "without", "never", "free", "lacks", "lacking", "absence", "neither", "nor", "isn't"}
_PASSED = {"of", "from", "any", "visible", "obvious", "signs", "sign", "or", "and", ",", "other", "there", "are", "is"}
_DEFINITE = {"the", "this", "that", "these", "those", "its"}
_INDEFINITE = {"a", "an", "another"}
_EDGES = {"edge", "edges", "rim", "border", "outline", "margin", "halo", "ring"}
_TOWARDS = {"to", "toward", "towards", "into", "until"}
_CARRIED = {
    "of", "with", "has", "have", "having", "shows", "show", "showing", "whose", "featuring", "features", "bearing",
    "bears", "contains", "containing", "exhibits", "exhibiting", "displays", "displaying", "marked", "that",
}  # fmt: skip
_PREPOSITIONS = {
    "on", "in", "at", "of", "near", "along", "across", "from", "to", "over", "under", "by", "around", "through",
    "into", "onto", "towards", "toward", "between", "beside", "below", "above", "like", "as", "for", "inside", "about",
    "against", "within", "behind", "beneath",
}  # fmt: skip
_VERBS = {
    "is", "are", "was", "runs", "running", "run", "appears", "appear", "visible", "located", "lies", "lying", "sits",
    "extends", "extending", "which", "where", "there", "crosses", "crossing", "spans", "spanning", "covers", "covering",
}  # fmt: skip
_ENDS = _STOPS | _PAUSES | _PREPOSITIONS | _VERBS | _CARRIED | _DEFINITE | _INDEFINITE | _NEGATIONS | {"or"}


@dataclass(frozen=True)
class Mention:
    """A word or phrase of the vocabulary: the tokens from `start` to before `end` speak of an attribute, or of a
    kind."""

    attribute: str
    value: Any
    start: int
    end: int
    plural: bool = False


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers and punctuation. Hyphens and slashes part words."""
    return _TOKEN.findall(text.lower().replace("-", " ").replace("/", " "))


def mentions(words: Sequence[str], phrases: Mapping[tuple[str, ...], Entry]) -> list[Mention]:
    """What of the vocabulary the text mentions, in its order. Where phrases overlap the longest one counts."""
    longest, place, found = max(map(len, phrases)), 0, []
    while place < len(words):
        for end in range(min(len(words), place + longest), place, -1):
            if entry := phrases.get(tuple(words[place:end])):
                found.append(Mention(entry.attribute, entry.value, place, end, entry.plural))
                place = end - 1
                break
        else:
            found += _number(words, place)
        place += 1
    return found


def _number(words: Sequence[str], place: int) -> list[Mention]:
    """A number before nothing that measures is a count, one before degrees a direction."""
    if not words[place].isdigit():
        return []
    value, unit = float(words[place]), words[place + 1] if place + 1 < len(words) else ""
    if unit in ("degrees", "degree"):
        return [Mention("direction", (value % 180,) * 2, place, place + 2)]
    measured = unit in ("mm", "cm", "px", "pixels", "percent", "per", "millimetres", "millimeters", "times")
    return [] if measured or not 1 <= value <= 100 else [Mention("count", (value, value), place, place + 1)]


def distance(words: Sequence[str], mention: Mention, kind: Mention) -> float:
    """How far an attribute stands from a kind, in words. Pauses count as four, ends of sentences as twelve, and an
    article on the way to a kind that follows as six: "thin, and a pit" is no thin pit."""
    first, second = sorted((mention, kind), key=lambda m: m.start)
    between = words[first.end : second.start]
    far = sum(12 if w in _STOPS else 4 if w in _PAUSES else 1 for w in between)
    article = first is mention and any(w in _INDEFINITE for w in between)
    return far + 6 * article + (0 if first is mention else 0.5)


def negated(words: Sequence[str], known: Sequence[Mention], kind: Mention) -> bool:
    """Whether the text says that there is none: "no visible scratches or cracks"."""
    inside = {place for m in known for place in range(m.start, m.end)}
    place = kind.start - 1
    if place > 0 and words[place] in _INDEFINITE:  # without a scratch
        return words[place - 1] in _NEGATIONS
    while place >= 0 and words[place] not in _NEGATIONS and (place in inside or words[place] in _PASSED):
        place -= 1
    return place >= 0 and words[place] in _NEGATIONS


def definite(words: Sequence[str], kind: Mention) -> bool:
    """Whether a kind is one that was spoken of before: "the long scratch"."""
    before = [w for w in words[max(0, kind.start - 3) : kind.start] if w in _DEFINITE | _INDEFINITE | _STOPS | _PAUSES]
    return bool(before) and before[-1] in _DEFINITE


def of_a_rim(words: Sequence[str], known: Sequence[Mention], mention: Mention) -> bool:
    """Whether a word speaks of the defect's own rim, "with a dark edge", instead of its place or its tone."""
    start = mention.start
    while start > 0 and words[start - 1] not in _ENDS - _INDEFINITE - _DEFINITE - {"and"}:
        start -= 1
    end = mention.end - 1
    while end < len(words) and words[end] not in _EDGES and words[end] not in _ENDS:
        end += 1
    if start == 0 or words[start - 1] != "with" or end >= len(words) or words[end] not in _EDGES:
        return False
    follows = any(m.attribute == "kind" and m.start == end + 1 for m in known)
    return not follows and not any(m.attribute == "kind" and start <= m.start < end for m in known)


def leads(words: Sequence[str], start: Mention, end: Mention) -> bool:
    """Whether the text goes from one place to the other: "from the upper left to the centre"."""
    between = words[start.end : end.start]
    before = words[max(0, start.start - 3) : start.start]
    return "from" in before and any(w in _TOWARDS for w in between) and not _STOPS & set(between)


def unknown(words: Sequence[str], known: Sequence[Mention], things: frozenset[str]) -> list[str]:
    """What the text calls a defect by words that the vocabulary lacks. A text without any kind is that as a whole."""
    kinds = [m for m in known if m.attribute == "kind"]
    found = [" ".join(words[a:b]) for a, b in _nouns(words, known) if _is_subject(words, a, b, kinds, things)]
    if kinds or found:
        return found
    inside = {place for m in known for place in range(m.start, m.end)}
    rest = [w for i, w in enumerate(words) if i not in inside and w not in _ENDS | things]
    return [" ".join(rest or words)] if words else []


def _nouns(words: Sequence[str], known: Sequence[Mention]) -> Iterator[tuple[int, int]]:
    """Spans of words that the vocabulary lacks, behind an article, a count or another attribute."""
    covered = {place: m for m in known for place in range(m.start, m.end)}
    place = 0
    while place < len(words):
        end = place
        while end < len(words) and end not in covered and words[end] not in _ENDS:
            end += 1
        opened = place > 0 and (words[place - 1] in _INDEFINITE or place - 1 in covered)
        if end > place and opened:
            yield place, end
        place = max(end, place + 1)


def _is_subject(words: Sequence[str], start: int, end: int, kinds: Sequence[Mention], things: frozenset[str]) -> bool:
    """Whether the noun phrase is what the text is about, and neither a thing that has the defect nor where it is."""
    if words[end - 1] in things or words[end - 1].rstrip("s") in things or any(k.start == end for k in kinds):
        return False
    if end < len(words) and words[end] in _CARRIED:
        return False
    opening = start
    while opening > 0 and words[opening - 1] not in _ENDS - _INDEFINITE:
        opening -= 1
    return not (opening > 0 and words[opening - 1] in _PREPOSITIONS | _DEFINITE)
