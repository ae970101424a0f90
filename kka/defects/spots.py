"""What a painter of defects sees of a picture, and the few ways in which it changes it: shade, paint, light."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from kka.defects.language import Defect
from kka.defects.objects import LUMA, Floats, Foreground, Mask, largest
from kka.defects.outlines import Window
from kka.defects.regions import MANNERS

# grey levels: what a deviation is taken for at least, or nothing would be seen on a smooth surface, and at most
LEAST, MOST = 10.0, 22.0
MAD = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution
GREY = 8  # levels by which the channels of a grey picture differ at most


@dataclass(frozen=True)
class Spot:
    """One place on a picture: its pixels, 0 to 255 (h, w, 3), what the defect covers of them, 0 to 1 (h, w), and where
    they belong to the object. Edges are smoothed over `soft` pixels. The contrast is in deviations, the `strength` the
    same in grey levels. `sign` is 1 for a bright defect, -1 for a dark one; `colour` (3,) is there on pictures in
    colour alone."""

    pixels: Floats
    cover: Floats
    inside: Mask
    place: Window
    soft: float
    contrast: float
    strength: float
    sign: int
    colour: Floats | None

    @property
    def scale(self) -> int:
        """The width of rims and shadows, in pixels."""
        return max(1, round(self.place.width / 12))

    def shaded(self, amount: Floats) -> Floats:
        """The pixels, changed by `amount` (h, w) times the strength: brighter where the amount is positive. What goes
        the way of the defect's sign goes towards its colour, if it has one."""
        levels = (amount * self.strength)[..., None]
        if self.colour is None:
            return self.pixels + levels
        way = self.colour - self.pixels
        most = np.maximum(largest(np.abs(way))[..., None], 1)
        tinted = self.pixels + way * np.minimum(np.abs(levels) * 1.5 / most, 0.9)
        return np.asarray(np.where(levels * self.sign > 0, tinted, self.pixels + levels))

    def covered(self, material: Floats, cover: Floats | None = None) -> Floats:
        """The pixels with `material` (what broadcasts to h, w, 3) over them; through it from a clear contrast on."""
        weight = (self.cover if cover is None else cover) * min(1.0, self.contrast / 3)
        return np.asarray(self.pixels + weight[..., None] * (material - self.pixels))

    def around(self) -> Floats:
        """The usual colour of the object here (3,)."""
        seen = self.pixels[self.inside] if self.inside.any() else self.pixels.reshape(-1, 3)
        return np.asarray(np.median(seen, axis=0), np.float32)

    def foreign(self) -> Floats:
        """The colour of a foreign piece (3,): the defect's own, or another tone than what is around."""
        return np.asarray(self.around() + self.sign * self.strength if self.colour is None else self.colour, np.float32)

    def with_pixels(self, pixels: Floats) -> "Spot":
        """The same place on changed pixels."""
        return replace(self, pixels=pixels)


def spot(picture: Floats, foreground: Foreground, place: Window, cover: Floats, defect: Defect) -> Spot:
    """What a painter sees of a picture (h, w, 3), 0 to 255. A deviation is the robust one, from the median absolute
    deviation, of the object's grey levels in the window, within LEAST and MOST."""
    pixels, inside = picture[place.at], foreground.mask[place.at]
    soft = (1 - defect.sharpness) * max(0.6, place.width / 6)
    cover = smooth(cover, soft) * foreground.allowed[place.at] if soft > 0.2 else cover
    grey = (pixels[inside] if inside.any() else pixels.reshape(-1, 3)) @ LUMA
    level = float(np.median(grey))
    strength = defect.contrast * float(np.clip(MAD * np.median(np.abs(grey - level)), LEAST, MOST))
    said = defect.colour or MANNERS[defect.family].colour
    colour = None if said is None else np.asarray(said, np.float32)
    sign = _sign(defect.tone, colour, MANNERS[defect.family].sign, level, strength)
    return Spot(
        pixels, cover, inside, place, soft, defect.contrast, strength, sign, colour if in_colour(picture) else None
    )


def in_colour(picture: Floats) -> bool:
    """Whether a picture (h, w, 3) is more than grey; a part of its pixels tells."""
    seen = picture[::4, ::4]
    return bool((largest(seen) + largest(-seen)).max() > GREY)


def _sign(tone: int, colour: Floats | None, usual: int, level: float, strength: float) -> int:
    if tone:
        return tone
    if colour is not None:
        return 1 if colour @ LUMA > level else -1
    return usual if -strength / 2 < level + usual * strength < 255 + strength / 2 else -usual


def lit(cover: Floats, reach: int) -> tuple[Floats, Floats]:
    """The strips beside what is covered (h, w), `reach` pixels wide: on the side that the light comes from, and on the
    other, where a shadow falls. Light comes from the upper left."""
    padded = np.pad(cover, reach)
    towards, away = padded[2 * reach :, 2 * reach :], padded[: -2 * reach, : -2 * reach]
    return np.asarray((towards - cover).clip(0)), np.asarray((away - cover).clip(0))


def smooth(values: Floats, sigma: float) -> Floats:
    """Values (h, w) or (h, w, 3) smoothed over the picture."""
    sigmas = (sigma, sigma) if values.ndim == 2 else (sigma, sigma, 0)
    return np.asarray(ndimage.gaussian_filter(values, sigmas, mode="nearest", truncate=3), np.float32)
