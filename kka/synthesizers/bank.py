"""Photographs instead of generated pictures: the one of a captioned archive whose caption fits a description best.

So the whole loop runs on real photographs where no text-to-image model is at hand, and an experiment can leave out the
gap between generated and real. A photograph is handed out at most once."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from kka import datasets, images
from kka.datasets.shared import hub
from kka.errors import Collapse, KkaError
from kka.images import parquet
from kka.records import Images, sha256

_CHUNK = 256  # photographs in memory at a time


@dataclass
class Synthesizer:
    """The archive of a `dataset` (with its options), or instead an `archive`, a folder or a Hugging Face id of parquet
    files with the columns image ({bytes, path}) and caption, which are not all held in memory; photographs are handed
    out in `image_size`.

    How well a caption fits is the cosine of TF-IDF vectors of word uni- and bigrams, or of the vectors of a text model,
    the `embedder`. Raises KkaError for an archive or a model that is not there."""

    dataset: str | None = None
    dataset_options: dict[str, Any] = field(default_factory=dict)
    archive: str | None = None
    embedder: str | None = None
    image_size: int = 32

    def __post_init__(self) -> None:
        self._read, captions = self._open()
        hashes = self._hash(range(len(captions)), self.image_size)
        # of photographs that are the same in every pixel the first is kept, so that none is handed out twice
        self._rows = np.unique(hashes, return_index=True)[1]
        self._rows.sort()
        self._hashes = {self.image_size: hashes[self._rows]}
        self._free = np.ones(len(self._rows), dtype=bool)
        self._fit = self._compare([captions[i] for i in self._rows])

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> Images:
        """The best photograph that is left for each text in turn; the seed chooses among those that fit equally
        well."""
        fit = self._fit(texts)
        return self._read([int(self._rows[self._take(*item)]) for item in zip(texts, fit, seeds, strict=True)])

    def exclude(self, hashes: Collection[str], size: int) -> None:
        """Takes the photographs out that have these hashes once prepared to `size`."""
        if size not in self._hashes:
            self._hashes[size] = self._hash(self._rows.tolist(), size)
        self._free &= ~np.isin(self._hashes[size], list(hashes))

    def _take(self, text: str, fit: NDArray[np.float64], seed: int) -> int:
        if not self._free.any():
            raise Collapse(
                f"the bank wanted a photograph for '{text}', got none: all {len(self._free)} are used up."
                " Lower describe.count, or give it a larger archive."
            )
        # equal captions may differ in the last bit of their cosine
        fit = np.where(self._free, fit.round(9), -2.0)
        best = np.flatnonzero(fit == fit.max())
        chosen = int(best[np.random.default_rng(seed).integers(len(best))])
        self._free[chosen] = False
        return chosen

    def _hash(self, rows: Sequence[int], size: int) -> NDArray[np.str_]:
        """The hashes of photographs prepared to `size`."""
        chunks = (images.prepare(list(self._read(rows[i : i + _CHUNK])), size) for i in range(0, len(rows), _CHUNK))
        return np.array([sha256(picture) for chunk in chunks for picture in chunk])

    def _compare(self, captions: Sequence[str]) -> Callable[[Sequence[str]], NDArray[np.float64]]:
        """What tells how well each caption fits texts, (n, captions)."""
        if self.embedder is None:
            vectorizer = TfidfVectorizer(ngram_range=(1, 2))
            rows = vectorizer.fit_transform(captions)
            return lambda texts: np.asarray((rows @ vectorizer.transform(texts).T).toarray().T)
        from kka.embeddings import Embedder

        embed = Embedder(self.embedder)
        vectors = embed([" ".join(caption.splitlines()) for caption in captions])
        return lambda texts: (embed(texts) @ vectors.T).astype(np.float64)

    def _open(self) -> tuple[Callable[[Sequence[int]], Images], Sequence[str]]:
        """What reads photographs by their places, and all captions."""
        if self.archive is not None:
            return self._open_folder(Path(self.archive).expanduser())
        if self.dataset is None:
            raise KkaError("synthesize.options: the bank wants a dataset or an archive folder, got neither.")
        split = datasets.archive(self.dataset, self.image_size, **self.dataset_options)
        return (lambda rows: split.images[list(rows)]), split.captions

    def _open_folder(self, folder: Path) -> tuple[Callable[[Sequence[int]], Images], Sequence[str]]:
        on_the_hub = not folder.is_dir() and hub.is_id(str(self.archive))
        files = (
            hub.files("synthesize.options.archive", str(self.archive))
            if on_the_hub
            else sorted(folder.glob("*.parquet"))
        )
        captions = parquet.columns(files, "caption", "image")[0]
        if not captions or not all(isinstance(c, str) and c.strip() for c in captions):
            got = "an empty one" if captions else f"{len(files)} files without photographs"
            raise KkaError(
                f"synthesize.options.archive: wanted parquet files with a caption for each photograph in {folder},"
                f" got {got}."
            )
        pictures = parquet.Rows(files, "image")
        return (lambda rows: np.concatenate([self._photograph(folder, pictures, i) for i in rows])), captions

    def _photograph(self, folder: Path, pictures: parquet.Rows, row: int) -> Images:
        pixels = images.decode(pictures[row], f"synthesize.options.archive: {folder}, row {row}")
        return images.prepare([pixels], self.image_size)
