"""Where a defect lies on an object, how large and how turned it is, and which pixels it covers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kka.defects import outlines
from kka.defects.language import Defect
from kka.defects.objects import Floats, Foreground, Mask, grow, shrink
from kka.defects.objects import foreground as foreground  # who draws on regions has it from here
from kka.defects.outlines import Window
from kka.records import Image

RIM = 0.06  # the edge of an object, as a share of its side
ROOM = 40  # grey levels by which a picture must be able to change where a defect is to be seen
TRIES = 8  # places that are tried for one on which most of the defect lies inside


@dataclass(frozen=True)
class Manner:
    """How a family of defects lies on an object. Its width is at least `least` pixels, and at most the share `most` of
    the object's side; `spread` is what it takes across, as a share of its length; its rims and shadows take `margin`
    pixels around it; `sign` is -1 where it is usually darker than the object, else 1."""

    outline: Callable[[Window, np.random.Generator], Floats]
    least: float = 3.0
    most: float = np.inf
    spread: float = 0.0
    margin: float = 4.0
    sign: int = -1
    turned: bool = True  # else its sides are parallel to the picture's
    colour: tuple[int, int, int] | None = None  # its usual one on pictures in colour
    on_edge: bool = False  # its centre lies on the object's edge
    of_pattern: bool = False  # it shows where the picture is not plain


MANNERS = {
    "scratch": Manner(outlines.scratch, least=0.8, most=0.01, spread=0.15, sign=1),
    "crack": Manner(outlines.crack, least=1.0, most=0.01, spread=0.7),
    "pit": Manner(partial(outlines.blob, rough=0.15), least=2),
    "stain": Manner(partial(outlines.blob, soft=2.5, rough=0.4), least=2),
    "particle": Manner(outlines.pieces, least=1.5, spread=1.3, margin=8),
    "thread": Manner(outlines.thread, least=0.9, most=0.006, spread=1.0, margin=8, sign=1),
    "chip": Manner(partial(outlines.blob, rough=0.4), on_edge=True),
    "dent": Manner(partial(outlines.blob, rough=0.1), least=4),
    "abrasion": Manner(partial(outlines.blob, soft=6, rough=0.4), least=4, sign=1),
    "burn": Manner(partial(outlines.blob, soft=4, rough=0.3), least=4, colour=(50, 32, 20)),
    "fold": Manner(outlines.crease, most=0.05, spread=0.2, margin=8, sign=1),
    "misprint": Manner(outlines.block, least=4, turned=False, of_pattern=True),
    "missing": Manner(outlines.panel, least=4),
    "dark_area": Manner(outlines.block, least=1.5, margin=2, turned=False),
}


def region(defect: Defect, image: Image, foreground: Foreground, rng: np.random.Generator) -> Mask:
    """The pixels (h, w) that all of a defect covers on a picture (h, w, 3), and those beside them: what is to be drawn
    anew."""
    mask = np.zeros(image.shape[:2], bool)
    for _ in range(defect.count):
        place, cover = locate(defect, image, foreground, rng)
        mask[place.at] |= grow(cover > 0.05, 2)
    return mask & foreground.allowed


def locate(
    defect: Defect, picture: Image | Floats, foreground: Foreground, rng: np.random.Generator
) -> tuple[Window, Floats]:
    """One place for the defect on a picture (h, w, 3): its window, and how much of each pixel there it covers (0 to 1).
    Of several places at random it takes the one where most of the defect may be, and can be seen."""
    manner, shape = MANNERS[defect.family], foreground.allowed.shape
    candidates = np.flatnonzero(_candidates(defect, manner, foreground))
    length = max(defect.size * foreground.side, manner.least)
    width = float(np.clip(length / defect.elongation, manner.least, max(manner.least, manner.most * foreground.side)))
    margin = manner.margin + 0.3 * width + max(0.0, manner.spread * length - width) / 2
    places = []
    for _ in range(TRIES):
        centre = divmod(int(candidates[rng.integers(len(candidates))]), shape[1])
        places.append(outlines.window(shape, centre, length, width, _angle(defect, manner, rng), margin))
    fits = partial(_fits, picture, foreground.allowed, defect.tone or manner.sign)
    best = max(places, key=partial(_unrest, picture) if manner.on_edge or manner.of_pattern else fits)
    return best, manner.outline(best, rng) * foreground.allowed[best.at]


def _candidates(defect: Defect, manner: Manner, foreground: Foreground) -> Mask:
    """Where the defect's centre may be; a place that has nothing of the object is left out of account."""
    wanted = [_cell(defect.place, foreground)]
    if manner.on_edge or defect.place == "edge":
        wanted.insert(0, _edge(foreground, 1 if manner.on_edge else max(2, round(RIM * foreground.side))))
    found = foreground.allowed
    for part in wanted:
        found = both if (both := found & part).any() else found
    return found


def _edge(foreground: Foreground, reach: int) -> Mask:
    """What lies within `reach` pixels of the object's outside; of a whole picture, of its border."""
    outside = np.pad(foreground.mask, 1) if foreground.whole else np.pad(foreground.mask, 1, "edge")
    return np.asarray(foreground.mask & ~shrink(outside, reach)[1:-1, 1:-1])


def _cell(place: str, foreground: Foreground) -> Mask:
    """The cell of a three by three grid over the object, e.g. 'top left'; a row or a column where the place names one
    of them, all for any other place."""
    top, bottom, left, right = foreground.box
    cell = np.zeros_like(foreground.mask)
    rows, columns = _third(place, ("top", "bottom"), top, bottom), _third(place, ("left", "right"), left, right)
    cell[rows, columns] = True
    return cell


def _third(place: str, ends: tuple[str, str], start: int, stop: int) -> slice:
    marks = np.linspace(start, stop, 4).round().astype(int).tolist()
    thirds = [i for word, i in zip(("centre", *ends), (1, 0, 2), strict=True) if word in place.split()]
    return slice(marks[thirds[0]], marks[thirds[0] + 1]) if thirds else slice(start, stop)


def _angle(defect: Defect, manner: Manner, rng: np.random.Generator) -> float:
    """The angle of the defect's length in radians, growing downwards. Blocks lie or stand."""
    angle = rng.uniform(0, np.pi) if defect.direction is None else -np.radians(defect.direction)
    return float(angle if manner.turned else round(angle / (np.pi / 2)) * np.pi / 2)


def _fits(picture: Image | Floats, allowed: Mask, sign: int, place: Window) -> float:
    """The share of a defect's axis where it may be, and where the picture can still become brighter or darker."""
    points = place.place(np.linspace(-0.5, 0.5, 9) * place.length, np.zeros(9)).round().astype(int)
    y, x = points.T + [[place.rows.start], [place.columns.start]]
    within = (y >= 0) & (y < allowed.shape[0]) & (x >= 0) & (x < allowed.shape[1])
    y, x = y[within], x[within]
    level = picture[y, x].mean(axis=-1)
    room = level < 255 - ROOM if sign > 0 else level > ROOM
    return float((allowed[y, x] & room).sum()) / len(points)


def _unrest(picture: Image | Floats, place: Window) -> float:
    """How much the picture varies in the middle of a place: at an object's very edge, and where it has a pattern."""
    y, x = int(place.rows.start + place.y), int(place.columns.start + place.x)
    return float(picture[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].mean(axis=-1).std())
