"""Parquet files as Hugging Face writes them: encoded pictures, {bytes, path} in one column, and what is said of them in
another."""

import io
import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kka.errors import KkaError
from kka.images import rgb


def read(files: Sequence[Path], picture: str, beside: str) -> tuple[list[Any], list[Any]]:
    """The encoded pictures and the values beside them, of all files in their order. Raises KkaError for a broken
    file."""
    return column(files, picture, beside), column(files, beside, picture)


def column(files: Sequence[Path], name: str, beside: str) -> list[Any]:
    """The values of one column, of all files in their order. Raises KkaError for a file that is broken, or lacks a
    column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values: list[Any] = []
    for file in files:
        try:
            if lacking := {name, beside} - set(pq.read_schema(file).names):
                raise KeyError(f"no column {min(lacking)}")
            values += pq.read_table(file, columns=[name])[name].to_pylist()
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise KkaError(
                f"{file}: wanted parquet with the columns {name} and {beside}, got {reason}. Fetch the file again."
            ) from None
    return values


def class_names(file: Path, column: str) -> list[str]:
    """The names behind a column's numbers, as Hugging Face writes them into the file; none where it does not."""
    import pyarrow.parquet as pq

    about = json.loads((pq.read_schema(file).metadata or {}).get(b"huggingface", b"{}"))
    return list(about.get("info", {}).get("features", {}).get(column, {}).get("names", []))


class Pictures:
    """The encoded pictures of many files, read a group of rows at a time, so that memory holds but a few groups."""

    def __init__(self, files: Sequence[Path], column: str) -> None:
        import pyarrow.parquet as pq

        self._column, self._parts, self._starts = column, [], [0]
        for file in files:  # none stays open: there may be more of them than a process may hold
            about = pq.read_metadata(file)
            for group in range(about.num_row_groups):
                self._parts.append((file, group))
                self._starts.append(self._starts[-1] + about.row_group(group).num_rows)
        self._group = lru_cache(maxsize=4)(self._read)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """RGB pixels (h, w, 3). Raises KkaError where the picture cannot be read."""
        part = bisect_right(self._starts, row) - 1
        return _pixels(str(self._parts[part][0]), row, self._group(part)[row - self._starts[part]].as_py())

    def _read(self, part: int) -> Any:
        import pyarrow.parquet as pq

        file, group = self._parts[part]
        with pq.ParquetFile(file, memory_map=True) as opened:
            return opened.read_row_group(group, columns=[self._column])[self._column]


def decode(where: str, pictures: Sequence[Any]) -> list[NDArray[np.uint8]]:
    """RGB pixels (h, w, 3) of encoded pictures. Raises KkaError with the row of one that cannot be read."""
    return [_pixels(where, i, p) for i, p in enumerate(pictures)]


def _pixels(where: str, row: int, picture: Any) -> NDArray[np.uint8]:
    try:
        return np.asarray(rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(picture["bytes"])))))
    except (UnidentifiedImageError, OSError, TypeError, KeyError):
        raise KkaError(
            f"{where}, row {row}: wanted an encoded picture under 'bytes', got none that can be read. Fetch the data again."
        ) from None
