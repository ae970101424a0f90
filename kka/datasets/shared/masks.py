"""Masks of anomalies on disk: whose they are, and the pictures of a set with them."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kka.datasets.shared.files import some
from kka.errors import KkaError
from kka.images import masks as drawn
from kka.images import picture_files, prepare_masks
from kka.records import Masks, Split

Owned = Mapping[Path, Sequence[Path]]  # the masks of each picture that has some, by its file
_SUFFIX = "_mask"  # may stand behind a picture's name
_log = logging.getLogger(__name__)


def find(who: str, place: Path, pictures: Sequence[Path], root: Path) -> Owned:
    """The masks in the folder `place`, each of the picture that lies below `root` as the mask lies below `place`, or
    that has its name where the mask lies in `place` itself. Endings of files do not count, and _mask may stand behind a
    name. Several masks of one picture lie in a folder of its name. Raises KkaError for a mask that no picture has, or
    two could have."""
    claims: dict[str, list[Path]] = defaultdict(list)
    for picture in pictures:
        for name in {picture.relative_to(root).with_suffix("").as_posix(), picture.stem}:
            claims[name].append(picture)
    owned: dict[Path, list[Path]] = defaultdict(list)
    strays = []
    for mask in picture_files(place):
        owners = next((claims[name] for name in _names(mask.relative_to(place)) if name in claims), [])
        if len(owners) > 1:
            raise KkaError(
                f"{who}: the mask {mask} could be that of {owners[0]} or of {owners[1]}. Put it into a folder as the"
                " picture's, and give no two pictures of a folder one name."
            )
        strays += [] if owners else [str(mask)]
        for owner in owners:
            owned[owner].append(mask)
    if strays:
        raise KkaError(
            f"{who}: {len(strays)} masks in {place} belong to no picture below {root}: {some(strays)}. Name each like"
            " its picture, in folders as the pictures', or remove it."
        )
    return owned


def _names(mask: Path) -> Iterator[str]:
    """What the picture of a mask may be called, which lies at this path below the masks' folder."""
    name = mask.with_suffix("").as_posix()
    yield name
    yield name.removesuffix(_SUFFIX)
    if mask.parent.name:
        yield mask.parent.as_posix()


def with_masks(who: str, split: Split, paths: Sequence[Path], owned: Owned, *, squeeze: bool) -> Split:
    """The split, whose pictures are those of `paths`, with their masks; as it is where there are none. Anomalies that
    nothing is marked in are named on the log. Raises KkaError for a mask of another aspect than its picture's, or one
    that marks something in a normal picture."""
    if not owned:
        return split
    masks: Masks = np.zeros(split.images.shape[:3], np.bool_)
    for row, path in enumerate(paths):
        for mask in owned.get(path, ()):
            masks[row] |= _prepared(who, mask, path, len(masks[row]), squeeze)
    marked = np.asarray(masks.any((1, 2)))
    for row in np.flatnonzero(marked & (split.labels == 0)).tolist():
        raise KkaError(
            f"{who}: {paths[row]} is a normal picture, but its mask {owned[paths[row]][0]} marks something. Remove the"
            " mask, or call the picture anomalous."
        )
    _report(who, [path for row, path in enumerate(paths) if split.labels[row] and not marked[row]], owned, split)
    return replace(split, masks=masks)


def _prepared(who: str, mask: Path, picture: Path, size: int, squeeze: bool) -> Masks:
    """A mask as its picture was prepared, (size, size)."""
    marked = drawn.read(mask)
    (height, width), sides = marked.shape, drawn.upright_size(picture)
    if abs(width * sides[1] - height * sides[0]) > sum(sides):  # either side of the mask may be a pixel off
        raise KkaError(
            f"{who}: the mask {mask} wants the aspect of its picture {picture}, {sides[0]}x{sides[1]} where it stands"
            f" upright, got {width}x{height}. Save the mask with the picture's sides, or both larger or smaller alike."
        )
    return np.asarray(prepare_masks([marked], size, squeeze=squeeze)[0])


def _report(who: str, unmarked: Sequence[Path], owned: Owned, split: Split) -> None:
    anomalies = int((split.labels == 1).sum())
    kinds = {
        "have no mask": [str(p) for p in unmarked if p not in owned],
        "have a mask that marks nothing at this size, or within the crop": [str(p) for p in unmarked if p in owned],
    }
    for what, names in kinds.items():
        if names:
            _log.warning(
                f"{who}: {len(names)} of {anomalies} anomalous pictures {what}, and are left out of the figures of"
                f" pixels: {some(names)}"
            )
