"""The words that describe defects, read from one file that a user edits for his material (`vocabulary.yaml`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kka.errors import KkaError
from kka.registry import suggestion

FILE = Path(__file__).parent / "vocabulary.yaml"
# what draws a kind, and the attributes beside count, size and place that show in what it draws
FAMILIES: dict[str, tuple[str, ...]] = {
    "scratch": ("contrast", "colour", "tone", "direction", "elongation", "sharpness"),
    "crack": ("contrast", "tone", "direction", "elongation", "sharpness"),
    "pit": ("contrast", "tone", "direction", "elongation", "sharpness"),
    "stain": ("contrast", "colour", "tone", "direction", "elongation", "sharpness"),
    "particle": ("contrast", "colour", "tone", "direction", "elongation", "sharpness"),
    "thread": ("contrast", "colour", "tone", "direction", "elongation"),
    "chip": ("contrast", "elongation", "sharpness"),
    "dent": ("contrast", "direction", "elongation", "sharpness"),
    "abrasion": ("contrast", "tone", "direction", "elongation", "sharpness"),
    "burn": ("contrast", "colour", "tone", "sharpness"),
    "fold": ("contrast", "direction", "elongation", "sharpness"),
    "misprint": ("contrast", "direction", "elongation"),
    "missing": ("contrast", "direction", "elongation"),
    "dark_area": ("contrast", "tone", "direction", "elongation", "sharpness"),
}
PLACES = (
    "any", "edge", "centre", "top left", "top", "top right", "left", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
# limits of what a range may hold; sizes are in per cent
LIMITS: dict[str, tuple[float, float]] = {
    "size": (0.1, 100),
    "contrast": (0.1, 50),
    "direction": (-180, 180),
    "elongation": (1, 200),
    "sharpness": (0, 1),
    "count": (1, 100),
}
ATTRIBUTES = ("count", "size", "contrast", "colour", "tone", "direction", "elongation", "place", "sharpness")
_RATIOS = ("size", "contrast", "elongation")  # drawn on a logarithmic scale, so that no end of a range is rare
Value = tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of defect: the `family` that draws it, the nouns that are written for it, what else is understood, and
    its usual values."""

    name: str
    family: str
    words: tuple[str, ...]
    also: tuple[str, ...]
    usual: Mapping[str, Value]


@dataclass(frozen=True)
class Entry:
    """What a phrase stands for: a value of an attribute, or a kind (attribute "kind"), of which there are several."""

    attribute: str
    value: Any
    plural: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Kinds by name; for each attribute its terms, phrases of one meaning and what they stand for; usual values; and
    words that are no defects.

    A value is a range (low, high) of numbers, (red, green, blue), (tone,), or the places to choose from; sizes are
    fractions of the object's side."""

    kinds: Mapping[str, Kind]
    terms: Mapping[str, tuple[tuple[tuple[str, ...], Value], ...]]
    usual: Mapping[str, Value]
    things: frozenset[str]

    @classmethod
    def load(cls, path: Path | None = None) -> "Vocabulary":
        """The vocabulary in a file, or the one that is shipped. Raises KkaError for a word that stands there twice, an
        unknown family, attribute or place, and values out of their limits."""
        file = path or FILE
        return _Reader(str(file)).vocabulary(_parsed(file))

    @cached_property
    def phrases(self) -> Mapping[tuple[str, ...], Entry]:
        """What each phrase, divided into words, stands for."""
        found: dict[tuple[str, ...], Entry] = {}
        for kind in self.kinds.values():
            found |= {split(plural(w)): Entry("kind", kind, True) for w in (*kind.words, *kind.also)}
        for kind in self.kinds.values():  # a word itself before another one's plural
            found |= {split(w): Entry("kind", kind) for w in (*kind.words, *kind.also)}
        for attribute, terms in self.terms.items():
            found |= {split(word): Entry(attribute, value) for words, value in terms for word in words}
        return found

    def value(self, kind: Kind, attribute: str) -> Value | None:
        """What is usual for the kind; None where nothing is."""
        return kind.usual.get(attribute, self.usual.get(attribute))


def split(phrase: str) -> tuple[str, ...]:
    """The words of a phrase, as a text is divided: hyphens part words."""
    return tuple(phrase.lower().replace("-", " ").split())


def plural(noun: str) -> str:
    """The regular plural of a noun, or of the first one in "piece of lint"."""
    head, *rest = noun.split(" of ", 1)
    if head.endswith(("s", "x", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2:-1] not in "aeiou":
        head = f"{head[:-1]}ies"
    else:
        head += "s"
    return " of ".join([head, *rest])


def draw(attribute: str, value: Value, rng: np.random.Generator) -> Any:
    """One value of what a word stands for."""
    if attribute == "place":
        return str(value[int(rng.integers(len(value)))])
    if attribute == "colour":
        return tuple(int(v) for v in value)
    if attribute == "tone":
        return int(value[0])
    low, high = float(value[0]), float(value[1])
    if attribute == "count":
        return int(rng.integers(int(low), int(high) + 1))
    if attribute in _RATIOS:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


@dataclass(frozen=True)
class _Reader:
    """Reads a vocabulary of a named file."""

    file: str

    def vocabulary(self, raw: dict[str, Any]) -> Vocabulary:
        known = ("kinds", "usual", "things", *ATTRIBUTES)
        for key in raw:
            if key not in known:
                raise KkaError(f"{self.file} has the unknown attribute '{key}'.{suggestion(str(key), list(known))}")
        kinds = {str(name): self._kind(str(name), said) for name, said in self._mapping("kinds", raw).items()}
        if not kinds:
            raise KkaError(f"{self.file}: kinds wants at least one kind of defect, got none.")
        terms = {a: self._terms(a, self._mapping(a, raw)) for a in ATTRIBUTES}
        self._check_once(kinds, terms)
        usual = self._usual("usual", self._mapping("usual", raw))
        missing = [a for a in LIMITS if a != "direction" and a not in usual]
        if missing or "place" not in usual:
            raise KkaError(f"{self.file}: usual wants a value for {(missing or ['place'])[0]}, got none.")
        return Vocabulary(kinds, terms, usual, frozenset(_words(raw.get("things", ""))))

    def _mapping(self, key: str, raw: dict[str, Any]) -> dict[Any, Any]:
        found = raw.get(key) or {}
        if not isinstance(found, dict):
            raise KkaError(f"{self.file}: {key} wants lines of `words: value`, got {found!r}.")
        return found

    def _kind(self, name: str, said: Any) -> Kind:
        if not isinstance(said, dict) or "family" not in said or not _words(said.get("words")):
            raise KkaError(f"{self.file}: the kind '{name}' wants a family and words, got {said!r}.")
        if said["family"] not in FAMILIES:
            raise KkaError(
                f"{self.file}: the kind '{name}' has the unknown family '{said['family']}'."
                f"{suggestion(str(said['family']), list(FAMILIES))}"
            )
        usual = {k: v for k, v in said.items() if k not in ("family", "words", "also")}
        values = self._usual(f"the kind '{name}'", usual)
        return Kind(name, said["family"], _words(said["words"]), _words(said.get("also")), values)

    def _usual(self, who: str, said: dict[Any, Any]) -> dict[str, Value]:
        for key in said:
            if key not in ATTRIBUTES:
                raise KkaError(
                    f"{self.file}: {who} has the unknown attribute '{key}'.{suggestion(str(key), list(ATTRIBUTES))}"
                )
        return {str(key): self._value(f"{who}, {key}", str(key), value) for key, value in said.items()}

    def _terms(self, attribute: str, said: dict[Any, Any]) -> tuple[tuple[tuple[str, ...], Value], ...]:
        return tuple((_words(words), self._value(f"{attribute}, '{words}'", attribute, v)) for words, v in said.items())

    def _check_once(self, kinds: Mapping[str, Kind], terms: Mapping[str, Any]) -> None:
        seen: dict[tuple[str, ...], str] = {}
        for place, word in _placed(kinds, terms):
            if split(word) in seen:
                raise KkaError(
                    f"{self.file} has the word '{word}' twice, in {seen[split(word)]} and in {place}."
                    " Keep it where it belongs."
                )
            seen[split(word)] = place

    def _value(self, who: str, attribute: str, said: Any) -> Value:
        parts = tuple(said) if isinstance(said, list) else (said,)
        if attribute == "place":
            return self._checked(who, parts, "one of " + ", ".join(PLACES), all(p in PLACES for p in parts))
        numbers = all(isinstance(p, int | float) and not isinstance(p, bool) for p in parts)
        if attribute == "tone":
            return self._checked(who, parts, "-1, 0 or 1", len(parts) == 1 and parts[0] in (-1, 0, 1))
        if attribute == "colour":
            fits = numbers and len(parts) == 3 and all(0 <= p <= 255 for p in parts)
            return self._checked(who, parts, "[red, green, blue] from 0 to 255", fits)
        low, high = LIMITS[attribute]
        fits = numbers and len(parts) in (1, 2) and low <= parts[0] <= parts[-1] <= high
        self._checked(who, parts, f"a number or [low, high] from {low:g} to {high:g}", fits)
        share = 0.01 if attribute == "size" else 1
        return parts[0] * share, parts[-1] * share

    def _checked(self, who: str, parts: tuple[Any, ...], wanted: str, fits: bool) -> tuple[Any, ...]:
        if not (fits and parts):
            got = parts[0] if len(parts) == 1 else list(parts)
            raise KkaError(f"{self.file}: {who} wants {wanted}, got {got!r}.")
        return parts


def _placed(kinds: Mapping[str, Kind], terms: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """All words, each behind the section that it stands in."""
    for kind in kinds.values():
        yield from ((f"the kind '{kind.name}'", word) for word in (*kind.words, *kind.also))
    for attribute, rows in terms.items():
        yield from ((attribute, word) for words, _ in rows for word in words)


def _words(said: Any) -> tuple[str, ...]:
    """Phrases that commas divide."""
    return tuple(" ".join(word.split()) for word in str(said or "").split(",") if word.strip())


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands in a mapping twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a safe loader, and a stricter one
    except OSError as error:
        raise KkaError(f"vocabulary: wanted a file, got {file} ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KkaError(f"{file}: wanted a vocabulary in YAML, got {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(raw, dict):
        raise KkaError(f"{file}: wanted a vocabulary in YAML, got {type(raw).__name__}.")
    return raw
