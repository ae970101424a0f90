"""The guard: it refuses descriptions that cannot be anomalies, because they say the normal class, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kka.errors import KkaError
from kka.records import Outcome

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """A text is a normal look-alike when it is as similar to a normal caption as all but the `normal_quantile` of the
    calibration captions are; unreadable when its least likely token lies `readable_margin` nats below the
    `readable_quantile` of theirs."""

    normal_quantile: float = 0.05
    readable_quantile: float = 0.02
    readable_margin: float = 3.0


USUAL = Thresholds()


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
        likelihoods: Floats,
        thresholds: Thresholds,
    ) -> "Guard":
        """Thresholds from normal captions alone: `likelihoods` (n,) are those of the calibration captions under the
        base model, in nats. Raises KkaError where there are no captions."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not train or not calibration:
            raise KkaError(
                "the guard wants captions of normal images, got none. Give the data set captions, or a caption"
                " template."
            )
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True)
        normal = vectorizer.fit_transform(sorted(set(train)))
        unset = cls(vectorizer, normal, 0.0, 0.0)
        similar = float(np.quantile(unset.similarity(calibration), thresholds.normal_quantile))
        readable = float(np.quantile(likelihoods, thresholds.readable_quantile)) - thresholds.readable_margin
        return cls(vectorizer, normal, similar - 1e-6, readable)

    def outcome(self, text: str, similarity: float, likelihood: float) -> Outcome:
        """What becomes of a text by itself: kept, normal or unreadable."""
        if not text or likelihood < self.least_likelihood:
            return "unreadable"
        return "normal" if similarity >= self.least_similarity else "kept"

    def similarity(self, texts: Sequence[str]) -> Floats:
        """Cosine to the nearest normal caption, shape (n,), 0 to 1. Words that no normal caption holds lower it."""
        if not texts:
            return np.zeros(0)
        nearest = np.asarray((self.vectorizer.transform(texts) @ self.normal.T).max(axis=1).todense()).ravel()
        return nearest * self._known(texts)

    def _known(self, texts: Sequence[str]) -> Floats:
        """The share of each text's uni- and bigrams that normal captions hold: TF-IDF alone is blind to new words."""
        analyze, vocabulary = self.vectorizer.build_analyzer(), self.vectorizer.vocabulary_
        grams = [analyze(text) for text in texts]
        return np.array([sum(g in vocabulary for g in row) / len(row) if row else 0.0 for row in grams])
