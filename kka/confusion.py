"""The confusion evaluator: which generated anomalies confuse the detector, and what follows from it.

Scores become grades (hard, between, easy), grades become the training mixture, and a surrogate of the scores ranks
descriptions for the preference pairs. The guard stands before all of it: a description that says the normal class, or
nothing, never becomes an anomaly.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import RidgeCV

from kka.errors import KkaError
from kka.records import Anomaly, Grade, Pair

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Guard:
    """Refuses normal look-alikes and unreadable texts, for captions of any kind.

    A text's similarity is the cosine of TF-IDF vectors (word uni- and bigrams) to the nearest normal caption, 0 to 1.
    """

    vectorizer: Any
    normal: Any
    least_similarity: float
    least_likelihood: float

    @classmethod
    def fit(
        cls,
        train: Sequence[str],
        calibration: Sequence[str],
        likelihoods: Scores,
        *,
        normal_quantile: float,
        readable_quantile: float,
        readable_margin: float,
    ) -> "Guard":
        """Thresholds from normal captions alone: `likelihoods` are those of the calibration captions under the base
        model."""
        if not train or not calibration:
            raise KkaError(
                "the guard wants captions of normal images, got none. Give the data set captions, or a caption template."
            )
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True)
        normal = vectorizer.fit_transform(sorted(set(train)))
        guard = cls(vectorizer, normal, 0.0, 0.0)
        similar = float(np.quantile(guard.similarity(calibration), normal_quantile))
        readable = float(np.quantile(likelihoods, readable_quantile)) - readable_margin
        return cls(vectorizer, normal, similar - 1e-6, readable)

    def similarity(self, texts: Sequence[str]) -> Scores:
        """Cosine to the nearest normal caption, shape (n,), 0 to 1. Words that no normal caption holds lower it."""
        if not texts:
            return np.zeros(0)
        nearest = np.asarray((self.vectorizer.transform(texts) @ self.normal.T).max(axis=1).todense()).ravel()
        return nearest * self._known(texts)

    def _known(self, texts: Sequence[str]) -> Scores:
        """The share of each text's uni- and bigrams that normal captions hold: TF-IDF alone is blind to new words."""
        analyze, vocabulary = self.vectorizer.build_analyzer(), self.vectorizer.vocabulary_
        grams = [analyze(t) for t in texts]
        return np.array([sum(g in vocabulary for g in row) / len(row) if row else 0.0 for row in grams])


def grade(scores: Scores, calibration: Scores, *, quantile: float, easy_share: float) -> list[Grade]:
    """Hard: at or below the `quantile` of the calibration normals' scores, inside the boundary. Easy: of the others,
    the `easy_share` that scores highest. What is left is between. Disjoint by construction."""
    if not len(calibration):
        raise KkaError(
            "assess: the boundary wants calibration normals, got none. Give the data set a calibration split."
        )
    hard = scores <= np.quantile(calibration, quantile)
    outside = np.flatnonzero(~hard)
    easy = set(outside[np.argsort(-scores[outside], kind="stable")][: round(easy_share * len(outside))].tolist())
    return ["hard" if h else "easy" if i in easy else "between" for i, h in enumerate(hard)]


def hard_proportion(ordinal: int, *, start: float, end: float, rounds: int) -> float:
    """The wanted share of hard anomalies in round `ordinal` (1, 2, ...): linear from `start` to `end` at round
    `rounds`."""
    return start + (end - start) * min(1.0, (ordinal - 1) / max(1, rounds - 1))


def mixture(pool: Sequence[Anomaly], proportion: float, rng: np.random.Generator) -> tuple[list[Anomaly], float]:
    """The hard and easy anomalies to train on, at most `proportion` of them hard, and the proportion really reached.

    Hard ones beyond that are left out at random, those between always. Where hard ones are scarcer they stay so:
    nothing is repeated or filled up, and no easy one is left out for their sake."""
    hard = [i for i, a in enumerate(pool) if a.grade == "hard"]
    easy = [i for i, a in enumerate(pool) if a.grade == "easy"]
    if easy and proportion < 1:
        most = round(len(easy) * proportion / (1 - proportion))
        hard = [hard[i] for i in rng.permutation(len(hard))[:most]]
    chosen = sorted([*hard, *easy])
    return [pool[i] for i in chosen], len(hard) / max(1, len(chosen))


def surrogate(rated: Sequence[Anomaly], texts: Sequence[str], similarity: Callable[[Sequence[str]], Scores]) -> Scores:
    """How high the evaluator would score pictures of `texts`, shape (n,), in deviations of a round's scores: ridge
    regression from the words of the `rated` descriptions (there or not) and their `similarity` to normal captions
    (`Guard.similarity`).

    One score is one noisy picture judged by one noisy detector. What descriptions with a word in common score on
    average is known far better, and holds for descriptions that nobody has rendered. Words alone add up; the similarity
    tells how many of them differ at once, which is what takes a picture over the boundary."""
    said, words = [a.text for a in rated], CountVectorizer(binary=True, token_pattern=r"\w+")
    try:
        words.fit(said)
    except ValueError as error:
        raise KkaError(
            f"align: the surrogate wants rated descriptions with words, got {len(rated)} ({error})"
        ) from None
    near = similarity(said)

    def features(texts: Sequence[str], likeness: Scores) -> Any:
        # twice the weight of a word: the penalty shall not fall on the one column that is there for every text
        column = 2 * (likeness - near.mean()) / max(float(near.std()), 1e-9)
        return hstack([words.transform(texts), csr_matrix(column[:, None])])

    model = RidgeCV(np.logspace(-1, 3, 13)).fit(features(said, near), _within_rounds(rated))
    return np.asarray(model.predict(features(texts, similarity(texts))), dtype=np.float64)


def _within_rounds(rated: Sequence[Anomaly]) -> Scores:
    """Scores in deviations of their round's, for each round had an evaluator of its own. The upper half of a round
    counts as its median: how far beyond the boundary a picture lies says nothing about which are near it, and the noise
    is largest there."""
    scores, rounds = np.array([a.score for a in rated]), np.array([a.round for a in rated])
    for name in set(rounds):
        there = np.minimum(scores[rounds == name], np.median(scores[rounds == name]))
        scores[rounds == name] = (there - there.mean()) / max(float(there.std()), 1e-9)
    return scores


def preference_pairs(
    texts: Sequence[str],
    scores: Scores,
    refused: Sequence[str],
    *,
    chosen_share: float,
    rejected_share: float,
    refused_share: float,
    count: int,
    validation_share: float,
    rng: np.random.Generator,
) -> list[Pair]:
    """Preference pairs from descriptions and their scores, shape (n,).

    Chosen: the `chosen_share` that scores lowest. Rejected: the `rejected_share` that scores highest, and for
    `refused_share` of the pairs a text that the guard refused (unreadable, or saying the normal class), which holds the
    model back from both ways of scoring low. A text is chosen or rejected, never both; texts of validation pairs stand
    in no training pair; partners are alike in words, so that neither length nor manner is a cue, and what is left to
    learn from is what makes the one harder than the other."""
    ranked = list(dict.fromkeys(texts[i] for i in np.argsort(scores, kind="stable")))
    low, high = round(chosen_share * len(ranked)), round(rejected_share * len(ranked))
    if not low or not high or low + high > len(ranked):
        raise KkaError(
            f"align: preference pairs want chosen and rejected descriptions, got {len(ranked)} graded ones for shares {chosen_share}"
            f" and {rejected_share}. Ask for more (describe.count) or lower the shares."
        )
    chosen, easy = ranked[:low], ranked[-high:]
    kept = set(ranked)
    bad = [t for t in dict.fromkeys(refused) if t and t not in kept]
    chosen_parts, easy_parts, bad_parts = (_split(side, validation_share, rng) for side in (chosen, easy, bad))
    n_validation = round(validation_share * count)
    train = _pair_up(chosen_parts[0], easy_parts[0], bad_parts[0], refused_share, count - n_validation, rng)
    validation = _pair_up(chosen_parts[1], easy_parts[1], bad_parts[1], refused_share, n_validation, rng)
    return [*(Pair(c, r, "train") for c, r in train), *(Pair(c, r, "validation") for c, r in validation)]


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
    grams = {text: Counter([*(words := text.split()), *pairwise(words)]) for text in (*chosen, *easy, *bad)}
    pairs = []
    for i in range(count):
        mine = chosen[i % len(chosen)]
        side = bad if bad and rng.random() < bad_share else easy
        candidates = [side[k] for k in rng.integers(len(side), size=16)]
        pairs.append((mine, max(candidates, key=lambda text: _overlap(grams[mine], grams[text]))))
    return pairs


def _overlap(a: Counter[Any], b: Counter[Any]) -> float:
    """The share of words and word pairs that two texts have in common, each as often as it is there, 0 to 1
    (Jaccard)."""
    return (a & b).total() / (a | b).total()
