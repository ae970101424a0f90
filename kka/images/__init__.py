"""Pictures on disk and in memory: one reader for encoded ones, one preparation for all, and lossless shards.

Every picture, real or generated, comes through `prepare`, so that how it was resized is no cue to what it is.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kka.errors import BrokenFile, KkaError
from kka.images import parquet
from kka.images.crops import crop
from kka.records import Changes, Images, Masks, Split, read_records, whole_file, write_records

SHARD = 256
DETAIL = 4  # of a large jpg so many pixels are decoded for each one that is wanted
_ANNOTATIONS = "rows.jsonl"
CHANGES = ("sources", "masks")  # folders beside the pictures
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
_HEADERS_ONLY = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow knows, but leaves to others


class UnreadablePicture(KkaError):
    """A file, or bytes, that no picture can be decoded from; `reason` says why."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} cannot be read as a picture: {reason}. Mend it, or leave it out.")
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, as `rgb`; and of the encoded one its size in pixels, Pillow's names for its mode
    and format, and its width and height when it stands `upright`."""

    rgb: Image.Image
    width: int
    height: int
    mode: str
    format: str
    upright: tuple[int, int]


@dataclass(frozen=True)
class _Annotation:
    caption: str
    label: int
    group: str


def open_picture(source: Path | bytes, name: str = "", *, side: int | None = None) -> Picture:
    """Decodes a file or its bytes; errors call it by `name`. With a `side`, of a jpg that is far larger no more than
    that many pixels a side are decoded, which is several times as fast. Raises UnreadablePicture, whatever the decoder
    raises."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            width, height, mode, kind = image.width, image.height, image.mode, str(image.format)
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            if side is not None:
                image.draft(None, (side, side))
            upright = (height, width) if turned else (width, height)
            return Picture(rgb(ImageOps.exif_transpose(image)), width, height, mode, kind, upright)
    except Exception as error:  # Pillow's decoders fail in many ways, and each means the same to the user
        raise UnreadablePicture(name or _name(source), reason_of(error)) from None


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "a picture"


def reason_of(error: Exception) -> str:
    """Why a decoder failed, in its own words but short."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture that Pillow knows"
    return " ".join(str(error).split())[:160] or type(error).__name__


def read_picture(source: Path | bytes, size: int, *, squeeze: bool = False) -> Images:
    """One file, or its bytes, prepared: (1, size, size, 3). Raises UnreadablePicture."""
    return prepare([open_picture(source, side=DETAIL * size).rgb], size, squeeze=squeeze)


def decode(picture: Any, name: str) -> Images:
    """The pixels (h, w, 3) of a value in a parquet file's column of pictures, {bytes, path}, which errors call by
    `name`. Raises UnreadablePicture."""
    if not isinstance(picture, dict) or not isinstance(picture.get("bytes"), bytes):
        raise UnreadablePicture(name, "it holds no bytes")
    return np.asarray(open_picture(picture["bytes"], name).rgb)


@cache
def suffixes() -> tuple[str, ...]:
    """How the names of picture files end, in lower case: all that Pillow can decode by itself."""
    return tuple(
        sorted(
            suffix
            for suffix, kind in Image.registered_extensions().items()
            if kind in Image.OPEN and kind not in _HEADERS_ONLY
        )
    )


def picture_files(folder: Path) -> list[Path]:
    """All pictures in a folder and in those below it, by the ends of their names, in the order of their paths; hidden
    files are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes() and not path.name.startswith(".") and path.is_file()
    )


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` of a folder stands: images-00000.parquet and so on."""
    return folder / f"images-{number:05d}.parquet"


def write_shard(folder: Path, number: int, images: Images) -> None:
    """Writes one shard, whole or not at all, as parquet with a column `image` of png files, as Hugging Face does; the
    same pixels give the same bytes."""
    _check(images)
    with whole_file(shard_path(folder, number)) as part:
        parquet.write(part, [_png(image) for image in images])


def read_shard(path: Path) -> Images:
    """One shard's images. Raises BrokenFile for a missing, truncated or foreign file."""
    if not path.exists():
        raise BrokenFile(f"{path} is missing.")
    try:
        pictures = parquet.read(path, [parquet.IMAGE])[parquet.IMAGE]
        return np.stack([decode(picture, f"row {i}") for i, picture in enumerate(pictures)])
    except (UnreadablePicture, ValueError) as error:
        reason = error.reason if isinstance(error, UnreadablePicture) else reason_of(error)
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
    if len(sizes := {part.shape[1:] for part in parts}) > 1:
        raise BrokenFile(f"{folder}: wanted pictures of one size, got {sorted(sizes)}.")
    return np.concatenate(parts)


def write_masks(folder: Path, masks: Masks) -> None:
    """Writes masks (n, h, w) as pictures of black and white."""
    write_images(folder, _white(masks))


def read_masks(folder: Path) -> Masks:
    """The masks that `write_masks` wrote, (n, h, w)."""
    return np.asarray(read_images(folder)[..., 0] > 127)


def write_changes_shard(folder: Path, number: int, changes: Changes) -> None:
    """Writes what one shard of pictures was made from beside it."""
    for part, pictures in zip(CHANGES, (changes.sources, _white(changes.masks)), strict=True):
        write_shard(folder / part, number, pictures)


def read_changes(folder: Path) -> Changes | None:
    """What the pictures of a folder were made from; None where that was not written."""
    sources, masks = (folder / part for part in CHANGES)
    return Changes(read_images(sources), read_masks(masks)) if sources.exists() else None


def _white(masks: Masks) -> Images:
    return np.repeat(np.where(masks, 255, 0).astype(np.uint8)[..., None], 3, axis=3)


def write_split(folder: Path, split: Split) -> None:
    """Writes a split's images, its masks where it has them, and rows.jsonl (caption, label, group)."""
    write_images(folder, split.images)
    if split.masks is not None:
        write_masks(folder / "masks", split.masks)
    columns = zip(split.captions, split.labels.tolist(), split.groups, strict=True)
    write_records(folder / _ANNOTATIONS, [_Annotation(*values) for values in columns])


def read_split(folder: Path) -> Split:
    """The split that `write_split` wrote. Raises BrokenFile where it is broken."""
    annotations = read_records(folder / _ANNOTATIONS, _Annotation)
    images = read_images(folder)
    if len(images) != len(annotations):
        raise BrokenFile(
            f"{folder}: wanted a row for each picture, got {len(annotations)} rows and {len(images)} pictures."
        )
    return Split(
        images,
        tuple(a.caption for a in annotations),
        np.array([a.label for a in annotations], dtype=np.int64),
        tuple(a.group for a in annotations),
        read_masks(folder / "masks") if (folder / "masks").exists() else None,
    )


def read_captions(folder: Path) -> tuple[str, ...]:
    """The captions of a split that `write_split` wrote; its pictures are not read. Raises BrokenFile where they are not
    there."""
    return tuple(annotation.caption for annotation in read_records(folder / _ANNOTATIONS, _Annotation))


def prepare(images: Sequence[Image.Image | NDArray[Any]], size: int, *, squeeze: bool = False) -> Images:
    """Pictures of any mode and size as RGB (n, size, size, 3): the square in their middle, or all of them squeezed into
    one; one antialiased resize.

    Arrays are uint8 or uint16, (h, w) or (h, w, 1 to 4). What is transparent becomes white. Raises KkaError for others.
    """
    prepared = [np.asarray(_square(rgb(_picture(image)), size, squeeze)) for image in images]
    return np.stack(prepared) if prepared else np.zeros((0, size, size, 3), np.uint8)


def prepare_masks(masks: Sequence[Masks] | Masks, size: int, *, squeeze: bool = False) -> Masks:
    """Masks (h, w) of any size, cut and resized as `prepare` does with their pictures: (n, size, size). A pixel belongs
    to the mask when a quarter of it does, so that thin ones do not vanish."""
    pictures = [Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)) for mask in masks]
    made = [np.asarray(_square(picture, size, squeeze, Image.Resampling.BOX)) >= 64 for picture in pictures]
    return np.stack(made) if made else np.zeros((0, size, size), bool)


def _shards(folder: Path) -> dict[int, Path]:
    matches = {p: re.fullmatch(r"images-(\d{5})\.parquet", p.name) for p in folder.glob("images-*.parquet")}
    return {int(match[1]): path for path, match in sorted(matches.items()) if match}


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
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(
    image: Image.Image, size: int, squeeze: bool, how: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    left, top, width, height = crop(*image.size, squeeze=squeeze)
    return image.resize((size, size), how, box=(left, top, left + width, top + height))
