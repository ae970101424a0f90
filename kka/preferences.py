"""Preference pairs: which descriptions shall the language model prefer, by what the confusion evaluator said?

A surrogate of the evaluator's scores ranks descriptions, rendered or not; those that it expects to score lowest are
chosen, those that it expects to score highest, what was hopeless, and what the guard refused, are rejected.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import RidgeCV

from kka.errors import Collapse
from kka.records import Anomaly, Description, Pair, texts

Scores = NDArray[np.float64]
Similarity = Callable[[Sequence[str]], Scores]


def preferences(
    pool: Sequence[Anomaly],
    name: str,
    descriptions: Sequence[Description],
    candidates: Sequence[Description],
    similarity: Similarity,
    *,
    chosen_share: float,
    rejected_share: float,
    refused_share: float,
    count: int,
    validation_share: float,
    rng: np.random.Generator,
) -> list[Pair]:
    """Pairs from round `name`'s anomalies in the pool and from `candidates`, fresh descriptions that nobody rendered;
    what the guard refused of the round's `descriptions` and of the candidates is rejected. Without candidates the
    anomalies are ranked by their own scores. What was hopeless in any round is not ranked; the round's own is
    rejected. The rest is as in `preference_pairs`."""
    hopeless = {a.text: a.round for a in pool if a.grade == "hopeless"}
    rendered = [a for a in pool if a.round == name and a.text not in hopeless]
    fresh = [text for text in texts(candidates, "kept") if text not in hopeless]
    wanted = [*(a.text for a in rendered), *fresh]
    scores = surrogate(pool, wanted, similarity) if candidates else np.array([a.score for a in rendered])
    attempts = [*descriptions, *candidates]
    return preference_pairs(
        wanted,
        scores,
        [*texts(attempts, "unreadable"), *texts(attempts, "normal")],
        [text for text, of in hopeless.items() if of == name],
        chosen_share=chosen_share,
        rejected_share=rejected_share,
        refused_share=refused_share,
        count=count,
        validation_share=validation_share,
        rng=rng,
    )


def surrogate(rated: Sequence[Anomaly], texts: Sequence[str], similarity: Similarity) -> Scores:
    """How high the evaluator would score pictures of `texts`, shape (n,), in deviations of a round's scores: ridge
    regression from the words of the `rated` descriptions (there or not) and their `similarity` to normal captions
    (`Guard.similarity`).

    One score is one noisy picture judged by one noisy detector. What descriptions with a word in common score on
    average is known far better, and holds for descriptions that nobody has rendered. Words alone add up; the similarity
    tells how many of them differ at once, which is what takes a picture over the boundary."""
    known = [a.text for a in rated]
    words = CountVectorizer(binary=True, token_pattern=r"\w+")
    try:
        words.fit(known)
    except ValueError as error:
        raise Collapse(
            f"align: the surrogate wants rated descriptions with words, got {len(rated)} ({error})"
        ) from None
    reference = similarity(known)

    def features(described: Sequence[str], likeness: Scores) -> Any:
        # twice the weight of a word: the penalty shall not fall on the one column that is there for every text
        column = 2 * (likeness - reference.mean()) / max(float(reference.std()), 1e-9)
        return hstack([words.transform(described), csr_matrix(column[:, None])])

    model = RidgeCV(np.logspace(-1, 3, 13)).fit(features(known, reference), _within_rounds(rated))
    return np.asarray(model.predict(features(texts, similarity(texts))), dtype=np.float64)


def _within_rounds(rated: Sequence[Anomaly]) -> Scores:
    """Scores in deviations of their round's, for each round had an evaluator of its own. The upper half of a round
    counts as its median: how far beyond the boundary a picture lies says nothing about which are near it, and the noise
    is largest there. Hopeless anomalies count as that too, the highest that there is, however low they score."""
    hopeless, rounds = np.array([a.grade == "hopeless" for a in rated]), np.array([a.round for a in rated])
    scores = np.where(hopeless, np.inf, [a.score for a in rated])
    for name in set(rounds):
        learnable = scores[(rounds == name) & ~hopeless]
        capped = np.minimum(scores[rounds == name], np.median(learnable) if len(learnable) else 0.0)
        scores[rounds == name] = (capped - capped.mean()) / max(float(capped.std()), 1e-9)
    return scores


def preference_pairs(
    texts: Sequence[str],
    scores: Scores,
    refused: Sequence[str],
    hopeless: Sequence[str] = (),
    *,
    chosen_share: float,
    rejected_share: float,
    refused_share: float,
    count: int,
    validation_share: float,
    rng: np.random.Generator,
) -> list[Pair]:
    """Preference pairs from descriptions and their scores, shape (n,).

    Chosen: the `chosen_share` that scores lowest. Rejected: the `rejected_share` that scores highest, beside it all
    `hopeless` texts, and for `refused_share` of the pairs a text that the guard refused (unreadable, or saying the
    normal class). The latter two hold the model back from scoring low in ways that teach a detector nothing. A text is
    chosen or rejected, never both; texts of validation pairs stand in no training pair; partners are alike in words, so
    that neither length nor manner is a cue, and what is left to learn from is what makes the one harder than the other.
    Raises Collapse where there are too few."""
    ranked = list(dict.fromkeys(texts[i] for i in np.argsort(scores, kind="stable")))
    low, high = round(chosen_share * len(ranked)), round(rejected_share * len(ranked))
    if not low or not high or low + high > len(ranked):
        raise Collapse(
            f"align: preference pairs want chosen and rejected descriptions, got {len(ranked)} graded ones for shares"
            f" {chosen_share} and {rejected_share}{_beside(hopeless)}. Ask for more (describe.count) or lower the"
            " shares."
        )
    chosen, easy = ranked[:low], [*ranked[-high:], *dict.fromkeys(hopeless)]
    kept = {*ranked, *hopeless}
    bad = [t for t in dict.fromkeys(refused) if t and t not in kept]
    chosen_parts, easy_parts, bad_parts = (_split(side, validation_share, rng) for side in (chosen, easy, bad))
    n_validation = round(validation_share * count)
    train = _pair_up(chosen_parts[0], easy_parts[0], bad_parts[0], refused_share, count - n_validation, rng)
    validation = _pair_up(chosen_parts[1], easy_parts[1], bad_parts[1], refused_share, n_validation, rng)
    return [*(Pair(c, r, "train") for c, r in train), *(Pair(c, r, "validation") for c, r in validation)]


def _beside(hopeless: Sequence[str]) -> str:
    return f", and {len(hopeless)} hopeless ones" if hopeless else ""


def _split(texts: Sequence[str], share: float, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    order = rng.permutation(len(texts))
    cut = round(share * len(texts))
    return [texts[i] for i in order[cut:]], [texts[i] for i in order[:cut]]


def _pair_up(
    chosen: Sequence[str],
    easy: Sequence[str],
    bad: Sequence[str],
    bad_share: float,
    count: int,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """`count` pairs, chosen texts in turn; of 16 candidates the partner that shares most words and word pairs is
    taken."""
    if not chosen or not easy:
        return []
    # a few refused texts, repeated, would be all that the model learns from: none counts for more than an easy one
    bad_share = min(bad_share, len(bad) / (len(bad) + len(easy)))
    grams = {text: _grams(text) for text in (*chosen, *easy, *bad)}
    pairs = []
    for i in range(count):
        mine = chosen[i % len(chosen)]
        side = bad if bad and rng.random() < bad_share else easy
        candidates = [side[k] for k in rng.integers(len(side), size=16)]
        pairs.append((mine, max(candidates, key=lambda text: _overlap(grams[mine], grams[text]))))
    return pairs


def _grams(text: str) -> Counter[Any]:
    """The words and word pairs of a text, counted."""
    words = text.split()
    return Counter([*words, *pairwise(words)])


def _overlap(a: Counter[Any], b: Counter[Any]) -> float:
    """The share of words and word pairs that two texts have in common, each as often as it is there, 0 to 1
    (Jaccard)."""
    return (a & b).total() / (a | b).total()
