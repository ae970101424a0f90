"""Parquet files of pictures as Hugging Face writes them: encoded pictures, {bytes, path}, in one column, and what is
known of them in others. Nothing is decoded here."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kka.errors import KkaError

IMAGE = "image"  # the column that `write` makes
_FEATURES = {"info": {"features": {IMAGE: {"_type": "Image"}}}}  # so that the library `datasets` decodes it


def write(path: Path, pictures: Sequence[bytes]) -> None:
    """Writes encoded pictures, such as the bytes of png files; the same pictures give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = pa.array(
        [{"bytes": picture, "path": None} for picture in pictures],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({IMAGE: encoded}).replace_schema_metadata({"huggingface": json.dumps(_FEATURES)})
    pq.write_table(table, path, compression="none")  # pictures are compressed by themselves


def read(file: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """The values of the columns of one file. Raises ValueError with the reason where it is broken or lacks a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if lacking := set(columns) - set(pq.read_schema(file).names):
            raise ValueError(f"no column {min(lacking)}")
        table = pq.read_table(file, columns=list(columns))
        return {name: table[name].to_pylist() for name in columns}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def columns(files: Sequence[Path], *names: str) -> list[list[Any]]:
    """The values of each column, of all files in their order. Raises KkaError for a file that is broken, or lacks a
    column."""
    values: list[list[Any]] = [[] for _ in names]
    for file in files:
        try:
            parts = read(file, names)
        except ValueError as error:
            raise KkaError(
                f"{file}: wanted parquet with the columns {' and '.join(names)}, got {error}. Fetch the file again."
            ) from None
        for column, name in zip(values, names, strict=True):
            column += parts[name]
    return values


def class_names(file: Path, column: str) -> list[str]:
    """The names behind a column's numbers, as Hugging Face writes them into the file; none where it does not."""
    import pyarrow.parquet as pq

    about = json.loads((pq.read_schema(file).metadata or {}).get(b"huggingface", b"{}"))
    return list(about.get("info", {}).get("features", {}).get(column, {}).get("names", []))


class Rows:
    """One column of many files, read a group of rows at a time, so that memory holds but a few groups."""

    def __init__(self, files: Sequence[Path], column: str) -> None:
        import pyarrow.parquet as pq

        self._column, self._parts, self._starts = column, [], [0]
        for file in files:  # none stays open: there may be more of them than a process may hold
            about = pq.read_metadata(file)
            for group in range(about.num_row_groups):
                self._parts.append((file, group))
                self._starts.append(self._starts[-1] + about.row_group(group).num_rows)
        self._group = lru_cache(maxsize=4)(self._read)

    def __getitem__(self, row: int) -> Any:
        """The value in the row, counted over all files."""
        part = bisect_right(self._starts, row) - 1
        return self._group(part)[row - self._starts[part]].as_py()

    def _read(self, part: int) -> Any:
        import pyarrow.parquet as pq

        file, group = self._parts[part]
        with pq.ParquetFile(file, memory_map=True) as opened:
            return opened.read_row_group(group, columns=[self._column])[self._column]
