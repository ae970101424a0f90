"""Descriptions of defects in the words of a vocabulary, at random: what a small writer learns to write from."""

from collections.abc import Iterator

import numpy as np

from kka.defects.vocabulary import FAMILIES, Kind, Vocabulary, plural

# how often a description states what may be stated
_STATED = {"size": 0.5, "contrast": 0.5, "shade": 0.35, "sharpness": 0.15, "elongation": 0.25, "direction": 0.2}
_PLACED, _COUNTED, _SECOND = 0.6, 0.15, 0.1
_PREPOSITIONS = ("in", "on", "near", "at")


def sentences(vocabulary: Vocabulary, n: int, rng: np.random.Generator) -> list[str]:
    """`n` descriptions, such as "a small dark pit near the edge". Kinds are equally likely."""
    return [_sentence(vocabulary, rng) for _ in range(n)]


def _sentence(vocabulary: Vocabulary, rng: np.random.Generator) -> str:
    kinds = list(vocabulary.kinds.values())
    chosen = rng.choice(len(kinds), size=2 if rng.random() < _SECOND and len(kinds) > 1 else 1, replace=False)
    return " and ".join(_defect(vocabulary, kinds[i], rng) for i in chosen)


def _defect(vocabulary: Vocabulary, kind: Kind, rng: np.random.Generator) -> str:
    adjectives, noun = list(_adjectives(vocabulary, kind, rng)), str(rng.choice(kind.words))
    counts = [words for words, value in vocabulary.terms["count"] if float(value[-1]) > 1]
    if counts and rng.random() < _COUNTED:
        words = counts[rng.integers(len(counts))]
        phrase = " ".join([words[rng.integers(len(words))], *adjectives, plural(noun)])
    else:
        phrase = " ".join([*adjectives, noun])
        phrase = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
    if vocabulary.terms["place"] and rng.random() < _PLACED:
        phrase += f" {rng.choice(_PREPOSITIONS)} the {_word(vocabulary, 'place', rng)}"
    return phrase


def _adjectives(vocabulary: Vocabulary, kind: Kind, rng: np.random.Generator) -> Iterator[str]:
    """At most one of each attribute that shows in the kind; a colour or a tone, not both."""
    shown = {"size", *FAMILIES[kind.family]}
    for attribute, share in _STATED.items():
        names = [n for n in (("colour", "tone") if attribute == "shade" else (attribute,)) if n in shown]
        names = [n for n in names if vocabulary.terms[n]]
        if names and rng.random() < share:
            yield _word(vocabulary, names[rng.integers(len(names))], rng)


def _word(vocabulary: Vocabulary, attribute: str, rng: np.random.Generator) -> str:
    """A phrase that can stand before a noun; the usual one of its meaning is as likely as all others."""
    terms = vocabulary.terms[attribute]
    words, _ = terms[rng.integers(len(terms))]
    fitting = [word for word in words if not word.startswith("with ") and not word.endswith(("ally", "wards"))]
    return words[0] if len(fitting) < 2 or rng.random() < 0.5 else fitting[rng.integers(len(fitting))]
