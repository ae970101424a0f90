"""Outlines of defects: how much of each pixel a line, a blob, pieces or a block cover. Lines and pieces are drawn at
fourfold size and reduced."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from kka.defects.objects import Floats

Points = NDArray[np.float64]  # (n, 2), y and x in pixels of a window

FINE = 4  # lines are drawn so many times larger


@dataclass(frozen=True)
class Window:
    """The part of a picture (rows, columns) that a defect is drawn in; the defect's centre (y, x) in its pixels, its
    length and width in pixels, and its angle in radians, 0 to the right and growing downwards."""

    rows: slice
    columns: slice
    y: float
    x: float
    length: float
    width: float
    angle: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def at(self) -> tuple[slice, slice]:
        """What cuts the window out of a picture."""
        return self.rows, self.columns

    def axes(self) -> tuple[Floats, Floats]:
        """Each pixel's distance from the centre along the defect, and across it, in pixels (h, w)."""
        y, x = np.indices(self.shape, np.float32)
        y, x, sin, cos = y - self.y, x - self.x, np.sin(self.angle), np.cos(self.angle)
        return np.asarray(x * cos + y * sin, np.float32), np.asarray(y * cos - x * sin, np.float32)

    def place(self, along: Points, across: Points) -> Points:
        """Points at distances from the centre along the defect and across it, in the window's pixels."""
        sin, cos = np.sin(self.angle), np.cos(self.angle)
        return np.stack([self.y + along * sin + across * cos, self.x + along * cos - across * sin], axis=-1)


def window(
    shape: tuple[int, ...], centre: tuple[float, float], length: float, width: float, angle: float, margin: float
) -> Window:
    """The window around a defect in a picture of this shape, with so many pixels more on each side."""
    sin, cos = abs(np.sin(angle)), abs(np.cos(angle))
    reach = (length * sin + width * cos) / 2 + margin, (length * cos + width * sin) / 2 + margin
    spans = [
        slice(max(0, int(c - r)), min(n, int(np.ceil(c + r)) + 1))
        for c, r, n in zip(centre, reach, shape, strict=False)
    ]
    y, x = (c - span.start for c, span in zip(centre, spans, strict=True))
    return Window(spans[0], spans[1], y, x, length, width, angle)


class Canvas:
    """Where strokes and pieces are drawn at fourfold size; what is drawn last lies on top."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._image = Pillow.new("L", (shape[1] * FINE, shape[0] * FINE))
        self._draw = ImageDraw.Draw(self._image)

    def stroke(self, points: Points, widths: NDArray[np.float64], strengths: NDArray[np.float64]) -> None:
        """A line through the points, with a width in pixels and a strength (0 to 1) at each. One that is thinner than
        the finest line grows fainter instead."""
        fine = (points[:, ::-1] + 0.5) * FINE
        wide = np.maximum(1, (widths * FINE).round()).astype(int)
        tones = (255 * strengths * np.minimum(1, widths * FINE)).clip(0, 255).astype(int)
        for (x, y), (u, v), thick, tone in zip(fine[:-1], fine[1:], wide[1:].tolist(), tones[1:].tolist(), strict=True):
            self._draw.line([x, y, u, v], fill=tone, width=thick)
            if thick > 3:
                self._draw.ellipse([u - thick / 2, v - thick / 2, u + thick / 2, v + thick / 2], fill=tone)

    def piece(self, corners: Points, strength: float = 1.0) -> None:
        """A filled polygon."""
        self._draw.polygon([(x, y) for y, x in ((corners + 0.5) * FINE).tolist()], fill=round(255 * strength))

    def cover(self) -> Floats:
        """How much of each pixel is covered, 0 to 1 (h, w)."""
        return np.asarray(self._image.reduce(FINE), np.float32) / 255


def scratch(place: Window, rng: np.random.Generator) -> Floats:
    """A nearly straight line that comes and goes, and thins out at its ends."""
    t = np.linspace(-1, 1, 33)
    bend = rng.normal(0, 0.05) * (1 - t**2) + rng.normal(0, 0.004) * np.cumsum(rng.normal(size=33)) / 3
    pressure = (1 - t**2 * rng.uniform(0.85, 1)) ** 0.5 * (0.75 + 0.25 * wander(33, rng, 5))
    canvas = Canvas(place.shape)
    canvas.stroke(
        place.place(t * place.length / 2, bend * place.length), place.width * (0.5 + 0.5 * pressure), pressure
    )
    return canvas.cover()


def crack(place: Window, rng: np.random.Generator) -> Floats:
    """A jagged line that thins out and branches."""
    canvas = Canvas(place.shape)
    path = jagged(place.length, rng)
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(len(path) // 5, len(path) * 4 // 5))
        branch = jagged(place.length * rng.uniform(0.12, 0.35), rng)
        turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
        turned = branch @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        _taper(canvas, place, path[start] + turned, 0.6, rng)
    _taper(canvas, place, path, 1.0, rng)
    return canvas.cover()


def _taper(canvas: Canvas, place: Window, path: Points, share: float, rng: np.random.Generator) -> None:
    t = np.linspace(0, 1, len(path))
    widths = place.width * share * (1 - 0.75 * t) * rng.uniform(0.6, 1.1, len(path))
    points = place.place(path[:, 0] - place.length / 2, path[:, 1])
    canvas.stroke(points, widths, 1 - 0.35 * t)


def jagged(length: float, rng: np.random.Generator) -> Points:
    """A path (n, 2), along and across, by midpoint displacement."""
    across = np.zeros(2)
    reach = 0.1 * length
    while len(across) < min(65, max(5, length / 2)):
        middle = (across[1:] + across[:-1]) / 2 + rng.normal(0, reach, len(across) - 1)
        across = np.insert(across, np.arange(1, len(across)), middle)
        reach *= 0.6
    along = np.linspace(0, length, len(across))
    return np.stack([along, across - np.linspace(0, across[-1], len(across))], axis=1)


def thread(place: Window, rng: np.random.Generator) -> Floats:
    """A thin curve that curls."""
    n = 49
    turns = np.cumsum(wander(n, rng, 6)) * rng.uniform(0.1, 0.3)
    steps = np.stack([np.sin(turns), np.cos(turns)], axis=1).cumsum(axis=0)
    steps -= steps.mean(axis=0)
    size = 2 * np.linalg.norm(steps, axis=1).max()
    canvas = Canvas(place.shape)
    points = place.place(steps[:, 1] / size * place.length, steps[:, 0] / size * place.length)
    canvas.stroke(points, np.full(n, place.width), np.ones(n))
    return canvas.cover()


def blob(place: Window, rng: np.random.Generator, *, soft: float = 1.0, rough: float = 0.25) -> Floats:
    """An irregular round patch; its edge is `soft` pixels wide and strays by the share `rough` of the radius."""
    radius = radii(place, rng, rough)
    reach = np.sqrt(place.length * place.width) / 2
    return np.asarray(((1 - radius) * reach / soft + 0.5).clip(0, 1), np.float32)


def radii(place: Window, rng: np.random.Generator, rough: float) -> Floats:
    """Each pixel's distance from the centre as a share of an irregular ellipse's radius there (h, w)."""
    along, across = place.axes()
    u, v = along / (place.length / 2), across / (place.width / 2)
    angle = np.arctan2(v, u)
    orders = np.arange(2, 8)
    sizes, phases = rng.normal(0, rough, 6) / orders, rng.uniform(0, 2 * np.pi, 6)
    edge = 1 + sum(s * np.cos(k * angle + p) for k, s, p in zip(orders, sizes, phases, strict=True))
    return np.asarray(np.hypot(u, v) / np.clip(edge, 0.4, 1.6), np.float32)


def pieces(place: Window, rng: np.random.Generator) -> Floats:
    """A sharp angular piece, with now and then a crumb beside it."""
    canvas = Canvas(place.shape)
    for size in (1.0, *rng.uniform(0.15, 0.3, int(rng.integers(0, 3)))):
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 8))))
        reach = size * rng.uniform(0.7, 1.0, len(turns)) / 2
        along, across = rng.uniform(-0.6, 0.6, 2) * (size < 1)
        canvas.piece(
            place.place((along + reach * np.cos(turns)) * place.length, (across + reach * np.sin(turns)) * place.width)
        )
    return canvas.cover()


def block(place: Window, rng: np.random.Generator) -> Floats:
    """A rectangle."""
    along, across = place.axes()
    inside = np.minimum(place.length / 2 - np.abs(along), place.width / 2 - np.abs(across))
    return np.asarray((inside + 0.5).clip(0, 1), np.float32)


def panel(place: Window, rng: np.random.Generator) -> Floats:
    """A rectangle with rounded corners, or an ellipse."""
    along, across = place.axes()
    power = rng.choice([2, 4, 8])
    radius = ((np.abs(along) * 2 / place.length) ** power + (np.abs(across) * 2 / place.width) ** power) ** (1 / power)
    return np.asarray(((1 - radius) * place.width / 2 + 0.5).clip(0, 1), np.float32)


def crease(place: Window, rng: np.random.Generator) -> Floats:
    """A bent band that fades out towards its ends."""
    along, across = place.axes()
    t = (along / (place.length / 2)).clip(-1, 1)
    waves = rng.normal(0, 0.012, 2)
    bend = rng.normal(0, 0.06) * (1 - t**2) + waves[0] * np.sin(4 * t) + waves[1] * np.cos(7 * t)
    off = across - bend * place.length
    wide = place.width / 4 * (0.5 + 0.5 * (1 - t**2))
    return np.asarray((1 - t**2) * np.exp(-0.5 * (off / wide) ** 2), np.float32)


def strokes(place: Window, rng: np.random.Generator, n: int) -> Floats:
    """Fine lines along the defect, side by side, of many strengths."""
    canvas = Canvas(place.shape)
    for _ in range(n):
        along, across = rng.uniform(-0.5, 0.5, 2) * (place.length, place.width)
        half = rng.uniform(0.1, 0.4) * place.length
        ends = place.place(np.array([along - half, along + half]), across + rng.normal(0, 0.05, 2) * place.width)
        canvas.stroke(ends, np.full(2, rng.uniform(0.3, 1.0)), np.full(2, rng.uniform(0.2, 1)))
    return canvas.cover()


def wander(n: int, rng: np.random.Generator, smooth: float) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and deviation 1 along a line, (n,)."""
    noise = ndimage.gaussian_filter1d(rng.normal(size=n), smooth, mode="wrap")
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-9))


def clouds(shape: tuple[int, int], rng: np.random.Generator, smooth: float) -> Floats:
    """Smooth noise of mean 0 and deviation 1 over a window (h, w); its spots are some `smooth` pixels wide."""
    step = max(1, int(smooth / 2))
    coarse = rng.normal(size=(shape[0] // step + 2, shape[1] // step + 2))
    noise = ndimage.gaussian_filter(coarse, max(smooth / 2 / step, 0.5))
    picture = Pillow.fromarray(noise.astype(np.float32)).resize(
        ((noise.shape[1]) * step, noise.shape[0] * step), Pillow.Resampling.BILINEAR
    )
    cut = np.asarray(picture)[: shape[0], : shape[1]]
    return np.asarray((cut - cut.mean()) / max(float(cut.std()), 1e-6), np.float32)
