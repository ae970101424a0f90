"""Where a defect lies on an object, how large and how turned it is, and which pixels it covers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kka.defects import outlines
from kka.defects.language import Defect
from kka.defects.objects import Foreground, Mask, grow, shrink
from kka.defects.objects import foreground as foreground  # who draws on regions has it from here
from kka.defects.outlines import Floats, Window
from kka.errors import KkaError
from kka.records import Image

RIM = 0.06  # the edge of an object, as a share of its side
TRIES = 8  # places that are tried for one on which most of the defect lies inside


@dataclass(frozen=True)
class Manner:
    """How a family of defects lies on an object. `slim` is its length by its width where the words say nothing of
    that; `least` and `most` bound its width in pixels; `spread` is what it takes across, as a share of its length; its
    rims and shadows take `margin` pixels around it."""

    outline: Callable[[Window, np.random.Generator], Floats]
    slim: float = 1.2
    least: float = 3.0
    most: float = np.inf
    spread: float = 0.0
    margin: float = 4.0
    turned: bool = True  # else its sides are parallel to the picture's
    on_edge: bool = False  # its centre lies on the object's edge
    beyond: bool = False  # it may lie beyond the object


MANNERS = {
    "scratch": Manner(outlines.scratch, slim=50, least=0.8, most=4, spread=0.15),
    "crack": Manner(outlines.crack, slim=30, least=1.0, most=5, spread=0.7),
    "pit": Manner(partial(outlines.blob, rough=0.15), least=2),
    "stain": Manner(partial(outlines.blob, soft=2.5, rough=0.4), slim=1.4, least=2),
    "particle": Manner(outlines.pieces, slim=1.5, least=1.5, spread=1.3, margin=8),
    "thread": Manner(outlines.thread, slim=60, least=0.8, most=3, spread=1.0, margin=8, beyond=True),
    "chip": Manner(partial(outlines.blob, rough=0.4), slim=1.5, on_edge=True),
    "burr": Manner(partial(outlines.blob, rough=0.9), slim=2.0, least=2, on_edge=True, beyond=True),
    "dent": Manner(partial(outlines.blob, rough=0.1), least=4),
    "abrasion": Manner(partial(outlines.blob, soft=6, rough=0.4), slim=2, least=4),
    "rough": Manner(partial(outlines.blob, soft=5, rough=0.5), slim=1.4, least=4),
    "burn": Manner(partial(outlines.blob, soft=4, rough=0.3), least=4),
    "fold": Manner(outlines.crease, slim=12, most=14, spread=0.2, margin=8),
    "misprint": Manner(outlines.block, slim=1.6, least=4, turned=False),
    "missing": Manner(outlines.block, slim=1.3, least=4, turned=False),
    "extra": Manner(outlines.block, slim=1.3, least=4, turned=False),
    "area": Manner(outlines.block, slim=1.6, margin=2, turned=False),
    "line": Manner(outlines.block, slim=12, least=1.5, most=6, margin=2, turned=False),
}


def region(defect: Defect, image: Image, foreground: Foreground, rng: np.random.Generator) -> Mask:
    """The pixels (h, w) that all of a defect covers on a picture (h, w, 3), and those beside them: what is to be drawn
    anew."""
    mask = np.zeros(image.shape[:2], bool)
    for _ in range(defect.count):
        place, cover = locate(defect, foreground, rng)
        mask[place.at] |= grow(cover > 0.05, 2)
    return mask


def locate(defect: Defect, foreground: Foreground, rng: np.random.Generator) -> tuple[Window, Floats]:
    """One place for the defect: its window, and how much of each pixel there it covers (0 to 1). Of several places at
    random it takes the one where most of the defect lies where it may."""
    manner, shape = MANNERS[defect.family], foreground.allowed.shape
    candidates = np.flatnonzero(_candidates(defect, manner, foreground))
    length, width = _extent(defect, manner, foreground.side)
    margin = manner.margin + 0.3 * width + max(0, manner.spread * length - width) / 2
    places = []
    for _ in range(TRIES):
        centre = divmod(int(candidates[rng.integers(len(candidates))]), shape[1])
        places.append(outlines.window(shape, centre, length, width, _angle(defect, manner, rng), margin))
    best = max(places, key=partial(_inside, foreground.allowed))
    cover = manner.outline(best, rng)
    return best, cover if manner.beyond else cover * foreground.allowed[best.at]


def _candidates(defect: Defect, manner: Manner, foreground: Foreground) -> Mask:
    """Where the defect's centre may be; what nothing of the object fits is left out of account."""
    found = foreground.allowed
    wanted = [_cell(defect.place or "", foreground)]
    if manner.on_edge or defect.place == "edge":
        wanted.insert(0, _edge(foreground, 1 if manner.on_edge else max(2, round(RIM * foreground.side))))
    for part in wanted:
        found = both if (both := found & part).any() else found
    return found


def _edge(foreground: Foreground, reach: int) -> Mask:
    """What lies within `reach` pixels of the object's outside; of a whole picture, of its border."""
    padded = np.pad(foreground.mask, 1, constant_values=False) if foreground.whole else np.pad(foreground.mask, 1, "edge")
    return foreground.mask & ~shrink(padded, reach)[1:-1, 1:-1]


def _cell(place: str, foreground: Foreground) -> Mask:
    """The cell of a three by three grid over the object that the words name, e.g. 'upper left'; a row or column where
    they name one of them, all where they name none."""
    top, bottom, left, right = foreground.box
    cell = np.zeros_like(foreground.mask)
    rows, columns = _third(place, ("upper", "lower"), top, bottom), _third(place, ("left", "right"), left, right)
    cell[rows, columns] = True
    return cell


def _third(place: str, ends: tuple[str, str], start: int, stop: int) -> slice:
    marks = np.linspace(start, stop, 4).round().astype(int).tolist()
    if place == "centre":
        return slice(marks[1], marks[2])
    for word, i in zip(ends, (0, 2), strict=True):
        if word in place:
            return slice(marks[i], marks[i + 1])
    return slice(start, stop)


def _extent(defect: Defect, manner: Manner, side: float) -> tuple[float, float]:
    """The defect's length and width in pixels."""
    slim = manner.slim * defect.elongation
    length = max(defect.size * side, 2.0)
    width = float(np.clip(length / slim, manner.least, max(manner.most, manner.least)))
    return max(length, width), width


def _angle(defect: Defect, manner: Manner, rng: np.random.Generator) -> float:
    turn = rng.uniform(0, np.pi) if defect.direction is None else defect.direction + rng.normal(0, 0.1)
    return float(turn if manner.turned else 0.0)


def _inside(allowed: Mask, place: Window) -> float:
    """The share of a defect's axis that lies where it may."""
    points = place.place(np.linspace(-0.5, 0.5, 9) * place.length, np.zeros(9))
    y, x = points.round().astype(int).T + [[place.rows.start], [place.columns.start]]
    within = (y >= 0) & (y < allowed.shape[0]) & (x >= 0) & (x < allowed.shape[1])
    return float((within & allowed[y.clip(0, allowed.shape[0] - 1), x.clip(0, allowed.shape[1] - 1)]).mean())
