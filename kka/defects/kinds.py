"""The families of defects: how each changes the pixels at its spot. Light comes from the upper left."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from kka.defects.language import Defect
from kka.defects.objects import Floats, Foreground
from kka.defects.outlines import clouds, radii, strokes
from kka.defects.regions import locate
from kka.defects.spots import Spot, lit, smooth, spot

Painter = Callable[[Spot, np.random.Generator], Floats]


def draw(picture: Floats, defect: Defect, foreground: Foreground, rng: np.random.Generator) -> Floats:
    """The picture (h, w, 3), 0 to 255, with the defect in as many places as its words say."""
    drawn = picture.copy()
    for _ in range(defect.count):
        place, cover = locate(defect, drawn, foreground, rng)
        here = spot(drawn, foreground, place, cover, defect)
        drawn[place.at] = PAINTERS[defect.family](here, rng)
    return drawn.clip(0, 255)


def scratch(here: Spot, rng: np.random.Generator) -> Floats:
    """A groove that shines, with its own shadow beside it."""
    _, shadow = lit(here.cover, 1)
    return here.shaded(here.sign * (1.8 * here.cover - 0.6 * shadow))


def crack(here: Spot, rng: np.random.Generator) -> Floats:
    """A gap without light, whose far edge catches some."""
    _, edge = lit(here.cover, 1)
    return here.shaded(here.sign * (1.6 * here.cover - 0.35 * edge))


def pit(here: Spot, rng: np.random.Generator) -> Floats:
    """A hollow: dark towards the light, and a bright crescent on the rim that faces it."""
    slope = _slope(here)
    _, rim = lit(here.cover, here.scale)
    depth = here.cover * (1.3 - 0.7 * slope)
    return here.shaded(here.sign * 1.3 * depth + 1.1 * smooth(rim, 0.5))


def stain(here: Spot, rng: np.random.Generator) -> Floats:
    """A film of uneven thickness that dried darker at its edge."""
    radius = np.asarray((smooth(here.cover, max(1.0, here.place.width / 12))), np.float32)
    edge = 4 * radius * (1 - radius) * here.cover
    film = here.cover * (0.6 + 0.15 * clouds(here.cover.shape, rng, max(2.0, here.place.width / 4)))
    return here.shaded(here.sign * (film + 0.8 * edge))


def particle(here: Spot, rng: np.random.Generator) -> Floats:
    """A piece that lies on the object: facets in the light, and a shadow."""
    shadow = _shadow(here.cover, max(1, here.scale * 2))
    facets = np.sign(_slope(here)) * 0.25 * here.strength
    return here.with_pixels(here.pixels * (1 - 0.45 * shadow[..., None])).covered(here.foreign() - facets[..., None])


def thread(here: Spot, rng: np.random.Generator) -> Floats:
    """A fibre that lies on the object, with a shadow."""
    shadow = _shadow(here.cover, 2)
    below = here.with_pixels(here.pixels * (1 - 0.35 * shadow[..., None]))
    return below.covered(here.foreign())


def chip(here: Spot, rng: np.random.Generator) -> Floats:
    """A piece broken out of the object's edge: the background shows, and the dark wall of the fracture with its bright
    rim."""
    cover = here.cover * here.inside
    wall = cover * (1 - smooth(np.asarray(cover > 0.5, np.float32), 1.0 + here.scale)) * here.inside
    rim = (smooth(cover, 0.7 * here.scale) - cover).clip(0) * here.inside
    ragged = 1 + 0.3 * clouds(cover.shape, rng, 3.0)
    return here.covered(_behind(here, rng), cover) + ((1.2 * rim - 1.8 * wall * ragged) * here.strength)[..., None]


def dent(here: Spot, rng: np.random.Generator) -> Floats:
    """A smooth hollow: what is seen moves along its slope, and the slope catches light or not."""
    depth = (1 - radii(here.place, rng, 0.1).clip(0, 1) ** 2) ** 2
    down, right = np.gradient(smooth(np.asarray(depth, np.float32), 1.0 + here.soft))
    most = max(float(np.hypot(down, right).max()), 1e-6)
    move = here.place.width * 0.04 * min(here.contrast, 6) / most
    y, x = np.indices(here.cover.shape, np.float32)
    at = np.stack([y + down * move, x + right * move])
    moved = [ndimage.map_coordinates(here.pixels[..., c], at, order=1, mode="nearest") for c in range(3)]
    light = -(down + right) / (most * np.sqrt(2))
    return here.with_pixels(np.stack(moved, axis=-1)).shaded(np.asarray(0.9 * light, np.float32))


def abrasion(here: Spot, rng: np.random.Generator) -> Floats:
    """A surface worn by many fine scratches, its own grain rubbed off."""
    n = int(np.clip(here.place.width * 2, 12, 120))
    lines = strokes(here.place, rng, n)
    worn = here.with_pixels(here.pixels + 0.6 * here.cover[..., None] * (smooth(here.pixels, 1.5) - here.pixels))
    return worn.shaded(here.sign * here.cover * (0.2 + 1.3 * lines) + 0.3 * here.cover * clouds(lines.shape, rng, 2.0))


def burn(here: Spot, rng: np.random.Generator) -> Floats:
    """Charred in the middle, paler outwards; brown where the picture has colour."""
    radius = radii(here.place, rng, 0.3)
    char = np.exp(-2.2 * radius**2) * (1 + 0.15 * clouds(here.cover.shape, rng, 3.0))
    halo = np.exp(-(((radius - 0.8) / 0.25) ** 2))
    return here.shaded(np.asarray(here.sign * (1.8 * char + 0.35 * halo) * (radius < 1.6), np.float32))


def fold(here: Spot, rng: np.random.Generator) -> Floats:
    """A ridge: light on one side, dark on the other, with a sharp crease between."""
    down, right = np.gradient(here.cover)
    light = -(down + right) / max(float(np.hypot(down, right).max()), 1e-6)
    return here.shaded(np.asarray(1.1 * light - 0.5 * here.cover**8, np.float32))


def misprint(here: Spot, rng: np.random.Generator) -> Floats:
    """A part of the pattern that stands beside its place, and paler."""
    reach = max(2, round(0.12 * here.place.length * min(here.contrast, 6) / 3))
    move = rng.permutation([reach, int(rng.integers(0, reach // 2 + 1))]) * rng.choice([-1, 1], 2)
    moved = np.roll(here.pixels, move.tolist(), axis=(0, 1))
    return here.covered(moved - 0.3 * here.sign * here.strength)


def missing(here: Spot, rng: np.random.Generator) -> Floats:
    """What lies behind the object where a part of it should be, with the walls of the gap; or now and then a part that
    is there twice."""
    if rng.random() < 0.25:
        twice = np.roll(here.pixels, int(here.place.length) * int(rng.choice([-1, 1])), axis=1)
        below = here.with_pixels(here.pixels * (1 - 0.4 * _shadow(here.cover, 3)[..., None]))
        return below.covered(twice + 0.2 * here.strength)
    dark = here.cover * smooth(1 - here.cover, 0.8 + here.scale)
    bright, _ = lit(1 - here.cover, here.scale)
    gap = here.covered(_behind(here, rng))
    return gap + ((0.8 * bright - 1.2 * dark) * here.strength)[..., None]


def dark_area(here: Spot, rng: np.random.Generator) -> Floats:
    """A gain over a region parallel to the picture's sides."""
    level = max(float(here.around().mean()), 16.0)
    gain = 1 + here.sign * 1.5 * here.cover[..., None] * here.strength / level
    if here.colour is not None:
        return here.shaded(here.sign * here.cover)
    return np.asarray(here.pixels * gain.clip(0.08, 3), np.float32)


def _slope(here: Spot) -> Floats:
    """How far a pixel lies from the centre away from the light, -1 to 1 (h, w)."""
    along, across = here.place.axes()
    sin, cos = np.sin(here.place.angle), np.cos(here.place.angle)
    down, right = along * sin + across * cos, along * cos - across * sin
    return np.asarray(((down + right) / (np.sqrt(2) * here.place.length / 2)).clip(-1, 1), np.float32)


def _shadow(cover: Floats, reach: int) -> Floats:
    _, side = lit(cover, reach)
    return smooth(side, 0.4 * reach)


def _behind(here: Spot, rng: np.random.Generator) -> Floats:
    """What the background looks like from beside the object on (h, w, 3); where none is seen, a dark ground."""
    outside = np.asarray(~here.inside, np.float32)
    if outside.sum() < 4:
        return here.around() + here.sign * 1.5 * here.strength
    weight = smooth(outside, max(2.0, here.place.width / 3))[..., None] + 1e-4
    colour = smooth(here.pixels * outside[..., None], max(2.0, here.place.width / 3)) / weight
    mean = here.pixels[~here.inside].mean(axis=0)
    grain = rng.normal(0, 1.5, here.cover.shape)[..., None]
    return np.asarray(np.where(weight > 1e-2, colour, mean) + grain, np.float32)


PAINTERS: dict[str, Painter] = {
    "scratch": scratch,
    "crack": crack,
    "pit": pit,
    "stain": stain,
    "particle": particle,
    "thread": thread,
    "chip": chip,
    "dent": dent,
    "abrasion": abrasion,
    "burn": burn,
    "fold": fold,
    "misprint": misprint,
    "missing": missing,
    "dark_area": dark_area,
}
