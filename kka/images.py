"""Pictures on disk and in memory: uint8 arrays (n, h, w, 3), lossless shards of them, and the one preparation for all.

Every picture, real or generated, comes through `prepare`, so that how it was resized is no cue to what it is.
"""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from kka.errors import BrokenFile, KkaError
from kka.records import Split, read_records, whole_file, write_records

Images = NDArray[np.uint8]
SHARD = 256
_ROWS = "rows.jsonl"
_GAP, _LINE, _TITLE = 10, 13, 22  # pixels of a contact sheet: between its parts, a line of a note, a row's title


@dataclass(frozen=True)
class _Row:
    caption: str
    label: int
    group: str


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` of a folder stands: images-00000.parquet and so on."""
    return folder / f"images-{number:05d}.parquet"


def write_shard(folder: Path, number: int, images: Images) -> None:
    """Writes one shard whole or not at all; the same pixels give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check(images)
    with whole_file(shard_path(folder, number)) as part:
        pq.write_table(pa.table({"png": pa.array([_png(i) for i in images], pa.binary())}), part, compression="none")


def read_shard(path: Path) -> Images:
    """One shard's images. Raises BrokenFile for a missing, truncated or foreign file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pictures = pq.read_table(path, columns=["png"])["png"].to_pylist()
        return np.stack([np.asarray(Image.open(io.BytesIO(p)).convert("RGB")) for p in pictures])
    except FileNotFoundError:
        raise BrokenFile(f"{path} is missing.") from None
    except (pa.ArrowInvalid, UnidentifiedImageError, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BrokenFile(f"{path}: wanted a shard of pictures, got a broken file ({reason}).") from None


def write_images(folder: Path, images: Images) -> None:
    """Writes all shards of the images, and removes shards of a longer set that stood there before."""
    _check(images)
    shards = range(0, len(images), SHARD)
    for number, start in enumerate(shards):
        write_shard(folder, number, images[start : start + SHARD])
    for number, path in _shards(folder).items():
        if number >= len(shards):
            path.unlink()


def read_images(folder: Path) -> Images:
    """All images of a folder in order. Raises BrokenFile where there are none, or a shard is missing, broken or of
    another size."""
    shards = _shards(folder)
    if not shards:
        raise BrokenFile(f"{folder} holds no shards of pictures.")
    parts = [read_shard(shard_path(folder, number)) for number in range(max(shards) + 1)]
    if len(sizes := {p.shape[1:] for p in parts}) > 1:
        raise BrokenFile(f"{folder}: wanted pictures of one size, got {sorted(sizes)}.")
    return np.concatenate(parts)


def write_split(folder: Path, split: Split) -> None:
    """Writes a split's images and rows.jsonl (caption, label, group)."""
    write_images(folder, split.images)
    rows = zip(split.captions, split.labels.tolist(), split.groups, strict=True)
    write_records(folder / _ROWS, [_Row(*row) for row in rows])


def read_split(folder: Path) -> Split:
    """The split that `write_split` wrote. Raises BrokenFile where it is broken."""
    rows = read_records(folder / _ROWS, _Row)
    images = read_images(folder)
    if len(images) != len(rows):
        raise BrokenFile(f"{folder}: wanted a row for each picture, got {len(rows)} rows and {len(images)} pictures.")
    return Split(
        images,
        tuple(r.caption for r in rows),
        np.array([r.label for r in rows], dtype=np.int64),
        tuple(r.group for r in rows),
    )


def read_captions(folder: Path) -> tuple[str, ...]:
    """The captions of a split, without its pictures."""
    return tuple(row.caption for row in read_records(folder / _ROWS, _Row))


def prepare(images: Sequence[Image.Image | NDArray[Any]], size: int, *, squeeze: bool = False) -> Images:
    """Pictures of any mode and size as RGB (n, size, size, 3): the square in their middle, or all of them squeezed into
    one; one antialiased resize.

    Arrays are uint8 or uint16, (h, w) or (h, w, 1 to 4). What is transparent becomes white. Raises KkaError for others.
    """
    made = [np.asarray(_square(rgb(_picture(image)), size, squeeze)) for image in images]
    return np.stack(made) if made else np.zeros((0, size, size, 3), np.uint8)


def decode(image: Image.Image, size: int, *, squeeze: bool = False) -> Images:
    """One opened file, prepared: (1, size, size, 3). Raises what Pillow raises where it cannot be read."""
    image.draft(None, (4 * size, 4 * size))  # of a large jpg no more than needed is decoded, several times as fast
    return prepare([image], size, squeeze=squeeze)


def heat_map(images: Images, share: NDArray[np.float64]) -> Images:
    """Pictures (n, h, w, 3), in grey, with `share` (n, h, w), 0 to 1, in colours over them, from blue over green and
    yellow to red."""
    x = share.clip(0, 1)[..., None] * 4 - np.array([3, 2, 1])
    colours = (1.5 - np.abs(x)).clip(0, 1) * 255  # the common "jet"
    grey = images.mean(3, keepdims=True)
    mixed: Images = (0.5 * grey + 0.5 * colours).round().astype(np.uint8)
    return mixed


def contact_sheet(
    rows: Sequence[Sequence[Images]],
    titles: Sequence[str],
    notes: Sequence[Sequence[str]],
    path: Path,
    *,
    scale: int = 4,
) -> None:
    """Writes a PNG of titled rows of pictures (h, w, 3), each `scale` times enlarged with its note beneath, broken into
    lines.

    All pictures have one size. The same pictures and words give the same bytes.
    """
    if not any(len(row) for row in rows):
        raise KkaError(f"{path}: wanted at least one picture to show, got none.")
    height, width, _ = next(image.shape for row in rows for image in row)
    cell = max(width * scale, 96)
    texts = [[textwrap.wrap(note, cell // 6, break_long_words=True) for note in row] for row in notes]
    heights = [_TITLE + height * scale + _GAP + _LINE * max((len(t) for t in row), default=0) + _GAP for row in texts]
    sheet = Image.new("RGB", (_GAP + (cell + _GAP) * max(len(r) for r in rows), sum(heights) + _GAP), "white")
    top = _GAP
    for row, title, text, used in zip(rows, titles, texts, heights, strict=True):
        _draw_row(sheet, top, row, title, text, cell, scale)
        top += used
    with whole_file(path) as part:
        sheet.save(part, format="PNG")


def _draw_row(
    sheet: Image.Image,
    top: int,
    row: Sequence[Images],
    title: str,
    text: Sequence[Sequence[str]],
    cell: int,
    scale: int,
) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, top), title, fill="black", font=ImageFont.load_default(15))
    for i, (image, lines) in enumerate(zip(row, text, strict=True)):
        left = _GAP + i * (cell + _GAP)
        enlarged = Image.fromarray(np.repeat(np.repeat(image, scale, axis=0), scale, axis=1))
        sheet.paste(enlarged, (left, top + _TITLE))
        draw.multiline_text(
            (left, top + _TITLE + enlarged.height + 3),
            "\n".join(lines),
            fill="black",
            font=ImageFont.load_default(11),
            spacing=1,
        )


def _shards(folder: Path) -> dict[int, Path]:
    found = {p: re.fullmatch(r"images-(\d{5})\.parquet", p.name) for p in folder.glob("images-*.parquet")}
    return {int(match[1]): path for path, match in sorted(found.items()) if match}


def _png(image: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def _check(images: Images) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise KkaError(
            f"a shard wants uint8 pictures of shape (n, h, w, 3), got {images.dtype} of shape {images.shape}."
        )


def _picture(image: Image.Image | NDArray[Any]) -> Image.Image:
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    drawn = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (2, 3, 4))
    if image.dtype != np.uint8 or not drawn or not image.size:
        raise KkaError(
            f"prepare wants uint8 or uint16 arrays (h, w) or (h, w, 1 to 4), got {image.dtype} of shape {image.shape}."
        )
    return Image.fromarray(np.ascontiguousarray(image))


def rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, 16 bits scaled to 8, white where it is transparent."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip instead of scale
        values = np.asarray(image).astype(np.int64)
        deep = image.mode != "I" or values.max() > 255
        image = Image.fromarray((values >> (8 if deep else 0)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _square(image: Image.Image, size: int, squeeze: bool) -> Image.Image:
    width, height = image.size if squeeze else (min(image.size),) * 2
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
