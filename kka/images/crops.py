"""Which part of a picture is looked at."""

from typing import NamedTuple


class Crop(NamedTuple):
    """A part of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def crop(width: int, height: int, *, squeeze: bool) -> Crop:
    """What `kka.images.prepare` keeps of an upright picture: the square in its middle, or all of it where it
    squeezes."""
    across, down = (width, height) if squeeze else (min(width, height),) * 2
    return Crop((width - across) // 2, (height - down) // 2, across, down)
