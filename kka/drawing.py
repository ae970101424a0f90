"""What is drawn to be looked at, and carries no result: contact sheets and heat maps."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kka.errors import KkaError
from kka.records import Images, Masks, whole_file

_GAP, _LINE, _TITLE = 10, 13, 22  # pixels of a contact sheet: between its parts, a line of a note, a title


def heat_map(images: Images, share: NDArray[np.float64]) -> Images:
    """Pictures uint8 (n, h, w, 3), in grey, with `share` (n, h, w), 0 to 1, in colours over them, from blue over green
    and yellow to red."""
    x = share.clip(0, 1)[..., None] * 4 - np.array([3, 2, 1])
    colours = (1.5 - np.abs(x)).clip(0, 1) * 255  # the common "jet"
    grey = images.mean(3, keepdims=True)
    return np.asarray((0.5 * grey + 0.5 * colours).round().astype(np.uint8))


def silhouettes(masks: Masks) -> Images:
    """Masks (n, h, w) as pictures uint8 (n, h, w, 3): white where they are, black elsewhere."""
    return np.where(masks[..., None], 255, np.zeros(3)).astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[Images]],
    titles: Sequence[str],
    notes: Sequence[Sequence[str]],
    path: Path,
    *,
    scale: int = 4,
) -> None:
    """Writes a PNG of titled rows of pictures uint8 (h, w, 3), each `scale` times enlarged with its note beneath,
    broken into lines.

    All pictures have one size. The same pictures and words give the same bytes. Raises KkaError where there are no
    pictures.
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
