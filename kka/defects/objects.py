"""The object on a photograph, and the part of it that counts: where defects may be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageOps
from scipy import ndimage

from kka.errors import KkaError
from kka.images import open_picture
from kka.records import Image

Mask = NDArray[np.bool_]  # (h, w)
Floats = NDArray[np.floating[Any]]
Polygon = Sequence[Sequence[float]]  # corners [x, y], in fractions of the picture's width and height

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
COARSE = 128  # pixels of the longer side on which objects are looked for
CLEAR = 4.0  # an object differs from the background by so many times what the background differs by itself
_STRIP = 0.03  # the border of a picture, as a share of its shorter side


@dataclass(frozen=True)
class Foreground:
    """Where the object is, (h, w), and where defects may be: `allowed`, which is less with a region of interest. With
    `whole`, no object was found that stands out from a background, as on textures that fill the frame."""

    mask: Mask
    allowed: Mask
    whole: bool

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """The rows and columns that the object takes: first and behind the last of each."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1

    @cached_property
    def side(self) -> float:
        """The object's side in pixels: the geometric mean of the height and the width that it takes."""
        top, bottom, left, right = self.box
        return float(np.sqrt((bottom - top) * (right - left)))


def foreground(image: Image, interest: Mask | None = None) -> Foreground:
    """The object on a picture uint8 (h, w, 3): what stands out from the plane of colour that the picture's border
    shows, by the triangle threshold (Zack et al. 1977) with hysteresis, closed and cleaned.

    A picture of one texture, and one without a clear object, is foreground as a whole. An `interest` (h, w) limits
    where defects may be; where it misses the object, all of it counts."""
    mask = _object(image)
    whole = mask is None
    known = np.ones(image.shape[:2], bool) if mask is None else mask
    allowed = known if interest is None else known & interest
    if interest is not None and not allowed.any():
        return Foreground(np.ones(image.shape[:2], bool), interest, True)
    return Foreground(known, allowed, whole)


def _object(image: Image) -> Mask | None:
    height, width = image.shape[:2]
    small = np.asarray(Pillow.fromarray(image).reduce(max(1, -(-max(height, width) // COARSE))), np.float32)
    border = _border(small.shape[:2], max(1, round(_STRIP * min(small.shape[:2]))))
    distance = _distance(small, border)
    mask = _segment(distance, float(np.median(distance[border])))
    if not 0.04 < mask.mean() < 0.95 or mask[border].mean() > 0.5:
        return None
    if distance[mask].mean() < CLEAR * distance[~mask].mean():
        return None
    mask = _at_edges(small, mask, distance)
    if not mask.any():
        return None
    full = Pillow.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Pillow.Resampling.BILINEAR)
    return np.asarray(full) > 127


def _at_edges(small: Floats, mask: Mask, distance: Floats) -> Mask:
    """The mask with its outline moved to the edges of the picture, by a watershed of the gradient (by the image
    foresting transform, Falcão et al. 2004) between the mask's core and the picture's border: what it misses of the
    object comes in, shadows go out."""
    smooth = ndimage.gaussian_filter(small @ LUMA, 0.7, truncate=3)
    gradient = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    steep = (255 * (gradient / max(float(np.quantile(gradient, 0.97)), 1.0)).clip(0, 1)).astype(np.uint8)
    depth = ndimage.distance_transform_cdt(np.pad(mask, 1, "edge"))[1:-1, 1:-1]
    seeds = np.zeros(mask.shape, np.int16)
    seeds[depth > min(0.08 * np.sqrt(mask.sum()), 0.5 * depth.max())] = 1
    seeds[_holes(mask, steep)] = 2
    seeds[_border(mask.shape, 1)] = 2
    found = ndimage.watershed_ift(steep, seeds) == 1
    found = grow(shrink(found, 1), 1)
    if not found.any():
        return found
    # an edge is some pixels wide: those of the object's side differ from the background as the object does
    return found | (grow(found, 2) & (distance > 0.5 * np.median(distance[found])))


def _holes(mask: Mask, steep: NDArray[np.uint8]) -> Mask:
    """The middle of the mask's holes that edges surround: the background seen through the object."""
    labels, n = ndimage.label(~mask)
    outside = np.unique(labels[_border(mask.shape, 1)])
    wanted = [i for i in range(1, n + 1) if i not in outside and _surrounded(labels == i, steep)]
    return shrink(_parts(labels, np.array(wanted, np.int64)), 1)


def _surrounded(hole: Mask, steep: NDArray[np.uint8]) -> bool:
    """Whether nearly all of a hole's outline is steep."""
    return float(np.quantile(ndimage.maximum_filter(steep, 3)[grow(hole, 1) & ~hole], 0.1)) > 80


def _border(shape: tuple[int, ...], wide: int) -> Mask:
    border = np.ones(shape, bool)
    border[wide:-wide, wide:-wide] = False
    return border


def _distance(small: Floats, border: Mask) -> Floats:
    """How far each pixel is from the background, a plane of colour through the border; what of the object touches the
    border is left out of it: the third that fits worst."""
    plane = _plane(*border.shape)
    rows, colours = plane[border], small[border]
    off = largest(np.abs(colours - rows @ _weights(rows, colours)))
    fits = off <= np.quantile(off, 0.7)
    distance = largest(np.abs(small - plane @ _weights(rows[fits], colours[fits])))
    return np.asarray(ndimage.gaussian_filter(distance, 1, truncate=2))


def _plane(height: int, width: int) -> Floats:
    """What a plane is the weighted sum of, (h, w, 3): one, x and y."""
    y, x = np.indices((height, width), np.float32)
    return np.stack([np.ones_like(x), x / width, y / height], axis=-1)


def _weights(rows: Floats, colours: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(rows, colours, rcond=None)[0], np.float32)


def largest(values: NDArray[Any]) -> NDArray[Any]:
    """The largest of three channels (..., 3); many times faster than `max` over so short an axis."""
    return np.asarray(np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2]))


def _segment(distance: Floats, noise: float) -> Mask:
    high = max(_triangle(distance), 4 * noise)
    labels, _ = ndimage.label(distance > max(0.4 * high, 2.5 * noise))
    mask = _parts(labels, np.unique(labels[distance > high]))
    mask = shrink(grow(np.pad(mask, 3), 2), 2)[3:-3, 3:-3]
    return _without_crumbs(grow(shrink(mask, 1), 1))


def _triangle(distance: Floats, bins: int = 64) -> float:
    """The value whose bin lies farthest below the line from the fullest bin of the histogram to the last."""
    counts, edges = np.histogram(distance, bins, (0, float(distance.max()) + 1e-6))
    peak, last = int(counts.argmax()), int(np.flatnonzero(counts)[-1])
    line = np.linspace(counts[peak], counts[last], last - peak + 1)
    return float(edges[peak + int((line - counts[peak : last + 1]).argmax()) + 1])


def _without_crumbs(mask: Mask) -> Mask:
    """Without parts that are small beside the largest, and without small holes."""
    labels, n = ndimage.label(mask)
    if not n:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    mask = _parts(labels, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max()))
    holes, _ = ndimage.label(~mask)
    areas = np.bincount(holes.ravel())[1:]
    return np.asarray(mask | _parts(holes, 1 + np.flatnonzero(areas < 0.02 * mask.size)))


def _parts(labels: NDArray[np.int32], wanted: NDArray[np.int64]) -> Mask:
    chosen = np.zeros(labels.max() + 1, bool)
    chosen[wanted] = True
    chosen[0] = False
    return np.asarray(chosen[labels])


def grow(mask: Mask, reach: int) -> Mask:
    """The mask (h, w) grown by a square of `reach` pixels to each side."""
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * reach + 1, mode="constant").view(bool))


def shrink(mask: Mask, reach: int) -> Mask:
    """The mask without what lies within `reach` pixels of the outside; the picture's border is none."""
    return ~grow(~mask, reach)


def interest(region: str | Polygon | None, shape: tuple[int, int]) -> Mask | None:
    """The region of interest of pictures of one `shape` (h, w): a picture of a mask (any value but black belongs to
    it), cut and resized as the pictures were, or a polygon. Raises KkaError for one that is empty or lies outside the
    picture."""
    if region is None:
        return None
    mask = _read(region, shape) if isinstance(region, str) else _fill(region, shape)
    if not mask.any():
        raise KkaError(f"synthesize.options.region_of_interest: wanted a part of the picture, got none of it: {region}")
    return mask


def _read(path: str, shape: tuple[int, int]) -> Mask:
    picture = np.asarray(open_picture(Path(path).expanduser()).rgb).any(axis=-1)
    wanted = ImageOps.fit(Pillow.fromarray(picture.astype(np.uint8) * 255), shape[::-1], Pillow.Resampling.BOX)
    return np.asarray(wanted) > 127


def _fill(polygon: Polygon, shape: tuple[int, int]) -> Mask:
    if len(polygon) < 3 or any(len(corner) != 2 or not all(0 <= c <= 1 for c in corner) for corner in polygon):
        raise KkaError(
            "synthesize.options.region_of_interest: wanted three or more corners [x, y] in fractions of the picture,"
            f" 0 to 1, got {[list(c) for c in polygon]}."
        )
    canvas = Pillow.new("1", (shape[1], shape[0]))
    corners = [(x * shape[1] - 0.5, y * shape[0] - 0.5) for x, y in polygon]
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    return np.asarray(canvas)
