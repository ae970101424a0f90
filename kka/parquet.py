"""Parquet files as Hugging Face writes them: encoded pictures, {bytes, path} in one column, and what is said of them in another."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kka.errors import KkaError


def read(files: Sequence[Path], picture: str, beside: str) -> tuple[list[Any], list[Any]]:
    """The encoded pictures and the values beside them, of all files in their order. Raises KkaError for a broken file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures: list[Any] = []
    values: list[Any] = []
    for file in files:
        try:
            table = pq.read_table(file, columns=[picture, beside])
            pictures += table[picture].to_pylist()
            values += table[beside].to_pylist()
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise KkaError(f"{file}: wanted parquet with the columns {picture} and {beside}, got {reason}. Fetch the file again.") from None
    return pictures, values


def decode(where: str, pictures: Sequence[Any]) -> list[NDArray[np.uint8]]:
    """RGB pixels (h, w, 3) of encoded pictures. Raises KkaError with the row of one that cannot be read."""
    return [_pixels(where, i, p) for i, p in enumerate(pictures)]


def _pixels(where: str, row: int, picture: Any) -> NDArray[np.uint8]:
    try:
        return np.asarray(Image.open(io.BytesIO(picture["bytes"])).convert("RGB"))
    except (UnidentifiedImageError, OSError, TypeError, KeyError):
        raise KkaError(
            f"{where}, row {row}: wanted an encoded picture under 'bytes', got none that can be read. Fetch the data again."
        ) from None
