"""Photographs instead of generated pictures: the one of a captioned archive whose caption fits a description best.

So the whole loop runs on real photographs where no text-to-image model is at hand, and an experiment can leave out the gap
between generated and real. A photograph is handed out at most once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from kka import datasets, images, parquet
from kka.errors import KkaError
from kka.records import sha256


@dataclass
class Synthesizer:
    """The archive of a `dataset` (with its options), or instead an `archive` folder of parquet files with the columns image
    ({bytes, path}) and caption; photographs are handed out in `image_size`.

    How well a caption fits is the cosine of TF-IDF vectors of word uni- and bigrams. Raises KkaError for an archive that is
    not there.
    """

    dataset: str | None = None
    dataset_options: dict[str, Any] = field(default_factory=dict)
    archive: str | None = None
    image_size: int = 32

    def __post_init__(self) -> None:
        pictures, captions = self._open()
        # of photographs that are the same in every pixel the first is kept, so that none is handed out twice
        first = sorted({sha256(p): i for i, p in reversed(list(enumerate(pictures)))}.values())
        self._pictures: NDArray[np.uint8] = pictures[first]
        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2))
        self._captions = self._vectorizer.fit_transform([captions[i] for i in first])
        self._free = np.ones(len(first), dtype=bool)
        self._hashes: dict[int, NDArray[np.str_]] = {}

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """The best photograph that is left for each text in turn; the seed chooses among those that fit equally well."""
        fit = (self._captions @ self._vectorizer.transform(texts).T).toarray().T
        return self._pictures[[self._take(*item) for item in zip(texts, fit, seeds, strict=True)]]

    def exclude(self, hashes: Collection[str], size: int) -> None:
        """Takes the photographs out that have these hashes once prepared to `size`."""
        if size not in self._hashes:
            self._hashes[size] = np.array([sha256(p) for p in images.prepare(list(self._pictures), size)])
        self._free &= ~np.isin(self._hashes[size], list(hashes))

    def _take(self, text: str, fit: NDArray[np.float64], seed: int) -> int:
        if not self._free.any():
            raise KkaError(
                f"the bank wanted a photograph for '{text}', got none: all {len(self._free)} are used up."
                " Lower describe.count, or give it a larger archive."
            )
        # equal captions may differ in the last bit of their cosine
        fit = np.where(self._free, fit.round(9), -1.0)
        best = np.flatnonzero(fit == fit.max())
        chosen = int(best[np.random.default_rng(seed).integers(len(best))])
        self._free[chosen] = False
        return chosen

    def _open(self) -> tuple[NDArray[np.uint8], Sequence[str]]:
        if self.archive is not None:
            return self._open_folder(Path(self.archive).expanduser())
        if self.dataset is None:
            raise KkaError("synthesize.options: the bank wants a dataset or an archive folder, got neither.")
        split = datasets.archive(self.dataset, self.image_size, **self.dataset_options)
        return split.images, split.captions

    def _open_folder(self, folder: Path) -> tuple[NDArray[np.uint8], Sequence[str]]:
        files = sorted(folder.glob("*.parquet"))
        encoded, captions = parquet.read(files, "image", "caption")
        if not encoded or not all(isinstance(c, str) and c.strip() for c in captions):
            got = "an empty one" if encoded else f"{len(files)} files without photographs"
            raise KkaError(f"synthesize.options.archive: wanted parquet files with a caption for each photograph in {folder}, got {got}.")
        return images.prepare(parquet.decode(str(folder), encoded), self.image_size), captions
