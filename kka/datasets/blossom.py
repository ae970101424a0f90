"""Blossom: drawn flowers with Oxford-102-like captions, one species normal, anomalies at a known distance.

A flower is a row of six indices, one per attribute (`ATTRIBUTES`). The first four define the species; size and
background do not. The *distance* of a flower is how many of the defining four differ from the normal species, so 0 is
normal and 4 is far out. Every picture has jitter in position, radius, angle, colours and background: no two are alike.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kka.records import Split, Splits, seed_of

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("yellow", "orange", "red", "pink", "purple", "blue", "white"),
    "shape": ("pointed", "round", "narrow"),
    "count": ("five", "eight", "twelve"),
    "centre": ("brown", "green", "black", "cream"),
    "size": ("small", "large"),
    "background": ("green leaves", "a pale sky", "dark soil", "grey stone"),
}
DEFINING = 4
NORMAL = (0, 0, 2, 0)  # yellow, pointed, twelve, brown

TEMPLATES = (
    "a {size} {colour} flower with {count} {shape} petals and a {centre} centre, in front of {background}",
    "this {size} flower has {count} {shape} petals in {colour} around a {centre} centre, before {background}",
    "{count} {shape} {colour} petals and a {centre} centre make a {size} bloom against {background}",
    "a {size} bloom whose {colour} petals are {shape} and {count} in number, its centre {centre}, with {background}"
    " behind",
    "the petals of this {size} flower are {colour} and {shape}, {count} of them, the centre is {centre}, behind it"
    " {background}",
    "against {background} stands a {size} flower with {count} {colour} {shape} petals and a {centre} centre",
    "seen from above, a {size} {colour} flower, petals {shape}, {count} of them, centre {centre}, over {background}",
    "before {background}, a {centre} centre ringed by {count} {shape} {colour} petals, a {size} flower",
)
# A sentence begins in lower case and ends without a full stop, as in Oxford-102's captions.
PATTERNS = tuple(
    re.compile(re.sub(r"\\{(\w+)\\}", lambda m: f"(?P<{m[1]}>{'|'.join(ATTRIBUTES[m[1]])})", re.escape(t)))
    for t in TEMPLATES
)

_PETALS = np.array(
    [
        [0.95, 0.85, 0.12],
        [0.95, 0.50, 0.08],
        [0.82, 0.10, 0.12],
        [0.96, 0.56, 0.74],
        [0.52, 0.18, 0.66],
        [0.20, 0.32, 0.88],
        [0.95, 0.95, 0.95],
    ],
    dtype=np.float32,
)
_CENTRES = np.array([[0.42, 0.24, 0.10], [0.35, 0.62, 0.18], [0.08, 0.07, 0.09], [0.98, 0.92, 0.70]], dtype=np.float32)
_BACKGROUNDS = np.array(
    [[0.16, 0.40, 0.17], [0.66, 0.80, 0.92], [0.27, 0.19, 0.14], [0.52, 0.53, 0.54]], dtype=np.float32
)
_COUNTS = np.array([5, 8, 12], dtype=np.float32)
_RADII = np.array([0.33, 0.44], dtype=np.float32)  # of the picture's side


def load(seed: int, image_size: int = 32) -> Splits:
    """Train 400 normals, calibration 150 normals, validation 100 + 100, test 300 normals + 600 anomalies, half of them
    at distance 1 and the rest spread over 2 to 4. Groups are `normal` and `distance 1` to `distance 4`."""
    anomalies = {1: 50, 2: 17, 3: 17, 4: 16}
    return Splits(
        train=_split(seed, "train", image_size, {0: 400}),
        calibration=_split(seed, "calibration", image_size, {0: 150}),
        validation=_split(seed, "validation", image_size, {0: 100} | anomalies),
        test=_split(seed, "test", image_size, {0: 300, 1: 300, 2: 100, 3: 100, 4: 100}),
    )


def _split(seed: int, name: str, image_size: int, counts: dict[int, int]) -> Split:
    rng = np.random.default_rng(seed_of("blossom", seed, name))
    rows = np.concatenate([flowers(n, distance, rng) for distance, n in counts.items()])
    groups = tuple(f"distance {d}" if d else "normal" for d in distances(rows).tolist())
    return Split(
        draw(rows, rng, image_size), tuple(captions(rows, rng)), (distances(rows) > 0).astype(np.int64), groups
    )


def flowers(n: int, distance: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Attribute rows, shape (n, 6): uniform over the world, or uniform among the flowers at one `distance` (0 to 4)."""
    rows = np.stack([rng.integers(len(v), size=n) for v in ATTRIBUTES.values()], axis=1)
    if distance is None:
        return rows
    differs = rng.random((n, DEFINING)).argsort(axis=1) < distance
    steps = np.stack([rng.integers(1, len(v), size=n) for v in list(ATTRIBUTES.values())[:DEFINING]], axis=1)
    sizes = np.array([len(v) for v in list(ATTRIBUTES.values())[:DEFINING]])
    rows[:, :DEFINING] = (np.array(NORMAL) + differs * steps) % sizes
    return rows


def distances(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the four defining attributes differ from the normal species, shape (n,), 0 to 4."""
    return np.asarray((rows[:, :DEFINING] != np.array(NORMAL)).sum(axis=1))


def withheld(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The tenth of all species that the built-in text-to-image model never trained on, so that it can be tested on
    them."""
    return np.asarray(rows[:, :DEFINING] @ np.array([1, 2, 3, 5]) % 10 == 3)


def captions(rows: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """One sentence a flower, its template drawn at random."""
    chosen = rng.integers(len(TEMPLATES), size=len(rows))
    attributes = [{k: values[v] for (k, values), v in zip(ATTRIBUTES.items(), row, strict=True)} for row in rows]
    return [TEMPLATES[t].format(**words) for t, words in zip(chosen, attributes, strict=True)]


def parse(text: str) -> tuple[int, ...] | None:
    """The attribute row that a caption states, or None where it is no sentence of this world."""
    for pattern in PATTERNS:
        if match := pattern.fullmatch(text.strip()):
            return tuple(values.index(match[k]) for k, values in ATTRIBUTES.items())
    return None


def text_distances(texts: Sequence[str]) -> list[int | None]:
    """The distance that each text states, None where it cannot be read."""
    rows = [parse(t) for t in texts]
    return [None if r is None else int(distances(np.array([r]))[0]) for r in rows]


def draw(rows: NDArray[np.int64], rng: np.random.Generator, size: int = 32) -> NDArray[np.uint8]:
    """Pictures of the flowers, shape (n, size, size, 3), with jitter from `rng`."""
    pictures = [_draw(chunk, rng, size) for chunk in np.array_split(rows, max(1, -(-len(rows) // 256)))]
    return np.concatenate(pictures)


def _draw(rows: NDArray[np.int64], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    n = len(rows)

    def jitter(low: float, high: float, *shape: int) -> NDArray[np.float32]:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    grid = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    dx = grid[None, None, :] - jitter(-0.08, 0.08, 1, 1)
    dy = grid[None, :, None] - jitter(-0.08, 0.08, 1, 1)
    r, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    radius = _RADII[rows[:, 4]][:, None, None] * jitter(0.9, 1.1, 1, 1)
    count = _COUNTS[rows[:, 2]][:, None, None]
    # u runs from 0 on a petal's axis to 1 half way to the next petal
    u = np.abs((count * (angle / np.pi + jitter(0, 2, 1, 1))) % 2 - 1)
    cover = _inside((_outline(u, rows[:, 1]) * radius - r) * size)
    petal = _PETALS[rows[:, 0]][:, None, None, :] + jitter(-0.08, 0.08, 1, 1, 3)
    shade = (0.72 + 0.28 * np.minimum(r / radius, 1)) * (1 - 0.22 * u**3)
    centre = _CENTRES[rows[:, 3]][:, None, None, :] + jitter(-0.06, 0.06, 1, 1, 3)
    middle = _inside((radius * jitter(0.27, 0.35, 1, 1) - r) * size)
    picture = _background(rows[:, 5], grid, jitter)
    picture = picture + cover * (petal * shade[..., None] - picture)
    picture = picture + middle * (centre - picture)
    # the light: its strength, and a cast of its own on each colour channel
    picture = picture * jitter(0.6, 1.2, 1, 1, 1) * jitter(0.88, 1.12, 1, 1, 3)
    return np.asarray((picture.clip(0, 1) * 255).round(), dtype=np.uint8)


def _outline(u: NDArray[np.float32], shape: NDArray[np.int64]) -> NDArray[np.float32]:
    """A petal's reach (0 to 1 of the radius) over u, by its shape."""
    kinds = np.stack([1 - 0.5 * u, 0.58 + 0.42 * np.sqrt(np.maximum(0, 1 - u * u)), 0.4 + 0.6 * _step((0.42 - u) * 14)])
    return np.asarray(kinds[shape, np.arange(len(shape))], dtype=np.float32)


def _background(
    kind: NDArray[np.int64], grid: NDArray[np.float32], jitter: Callable[..., NDArray[np.float32]]
) -> NDArray[np.float32]:
    """A jittered colour with a soft gradient in a random direction, and up to four discs out of focus in any colour,
    shape (n, size, size, 3)."""
    x, y = grid[None, None, :], grid[None, :, None]
    slope = jitter(-0.12, 0.12, 1, 1) * x + jitter(-0.12, 0.12, 1, 1) * y
    picture = _BACKGROUNDS[kind][:, None, None, :] + jitter(-0.12, 0.12, 1, 1, 3) + slope[..., None]
    for _ in range(4):
        there = jitter(0, 1, 1, 1, 1) < 0.7
        distance = np.hypot(x - jitter(-0.5, 0.5, 1, 1), y - jitter(-0.5, 0.5, 1, 1))
        disc = 0.8 * there * _inside((jitter(0.06, 0.2, 1, 1) - distance) * len(grid))
        picture = picture + disc * (jitter(0, 1, 1, 1, 3) - picture)
    return np.asarray(picture, dtype=np.float32)


def _inside(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of a pixel a shape covers that reaches `pixels` beyond its middle, with soft edges; gains an axis for
    colour."""
    return _step(pixels * 1.3)[..., None]


def _step(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-x.clip(-30, 30))), dtype=np.float32)
