"""Masks as people save them: pictures of any format and mode in which all that is marked has another value than 0."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kka.images import UnreadablePicture, reason_of
from kka.records import Masks

_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


def read(path: Path) -> Masks:
    """Where the picture is neither 0, or black, nor transparent: (h, w), upright. Raises UnreadablePicture."""
    try:
        with Image.open(path) as image:
            return _marked(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders fail in many ways, and each means the same to the user
        raise UnreadablePicture(str(path), reason_of(error)) from None


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that stands upright; its pixels are not decoded. Raises UnreadablePicture."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)
    except Exception as error:
        raise UnreadablePicture(str(path), reason_of(error)) from None


def _marked(image: Image.Image) -> Masks:
    if image.has_transparency_data:
        values = np.asarray(image.convert("RGBA"))
        return np.asarray(values[..., :3].any(2) & (values[..., 3] > 0))
    if len(image.getbands()) == 1 and image.mode != "P":  # numbers, of 1 to 32 bits, which convert() might clip
        return np.asarray(np.asarray(image) != 0)
    return np.asarray(np.asarray(image.convert("RGB")).any(2))
