"""What the data sets on files share: pictures are found and read, and repeats are left out."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from kka.errors import KkaError
from kka.images import DETAIL, UnreadablePicture, open_picture, picture_files, prepare
from kka.records import Images, Split, sha256

Share = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[float, Field(ge=0)]
_THUMB = 16  # side of the pictures that are compared for near duplicates
_SHOWN = 3  # names in a sentence
_BLANK = 2  # grey levels between the darkest and the brightest pixel of a picture that shows nothing
_DARK = 32  # grey levels that pictures of 16 bits stay below where only 8 to 12 of these are used
_CUT = 0.05  # share of the pictures that the crop may leave out without a word
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A picture on disk, or its `data` where it comes out of an archive. Of several captions each has a line."""

    path: Path
    label: int
    group: str
    caption: str = ""
    data: bytes | None = None


def folder(who: str, option: str, path: str) -> Path:
    """The folder that an option names. Raises KkaError where there is none."""
    place = Path(path).expanduser()
    if not place.is_dir():
        what = "a file" if place.exists() else "no such folder"
        raise KkaError(
            f"{who}: {option} wants a folder, got {place}, which is {what}. Its path is relative to {Path.cwd()}."
        )
    return place


def pictures(who: str, where: Path) -> list[Path]:
    """All pictures in the folder and those below it, in the order of their names. Raises KkaError where there are
    none."""
    paths = picture_files(where)
    if not paths:
        raise KkaError(f"{who}: {where} wants pictures (png, jpg, tif and what else Pillow reads), got none.")
    return paths


def read(
    who: str, files: Sequence[File], size: int, *, unreadable_share: float, squeeze: bool = False
) -> tuple[Split, list[Path]]:
    """The pictures that can be used, prepared to `size`, and their files. Those that cannot be, as they are broken, or
    said to be normal and of one shade, are named on the log; raises KkaError where they are more than
    `unreadable_share` of all, and where pictures of 16 bits use so few of these that they are nearly black."""
    prepared: list[Images] = []
    kept: list[File] = []
    kinds: list[_Kind] = []
    broken: list[str] = []
    for file in tqdm(files, desc="pictures", unit="picture", disable=None, leave=False):
        if file.data is None and not file.path.exists():
            raise KkaError(f"{who}: there is no picture {file.path}.")
        try:
            picture = open_picture(file.path if file.data is None else file.data, side=DETAIL * size)
        except UnreadablePicture as error:
            broken.append(f"{file.path} ({error.reason[:60]})")
            continue
        pixels = prepare([picture.rgb], size, squeeze=squeeze)
        if not file.label and np.ptp(pixels) <= _BLANK:
            broken.append(f"{file.path} (one shade all over)")
            continue
        prepared.append(pixels)
        kept.append(file)
        kinds.append(_Kind(picture.width, picture.height, picture.mode, picture.format))
    if broken:
        _report_broken(who, broken, len(files), unreadable_share)
    _report_kinds(who, kinds, squeeze)
    labels = np.array([f.label for f in kept], dtype=np.int64)
    stacked = np.concatenate(prepared) if prepared else np.zeros((0, size, size, 3), np.uint8)
    _check_depth(who, kinds, stacked)
    return Split(stacked, tuple(f.caption for f in kept), labels, tuple(f.group for f in kept)), [f.path for f in kept]


class _Kind(NamedTuple):
    """What a picture was before it was prepared."""

    width: int
    height: int
    mode: str
    format: str

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.mode} ({self.format})"

    @property
    def lost(self) -> float:
        """The share of it beyond the square in its middle."""
        return 1 - min(self.width, self.height) / max(self.width, self.height)


def _report_broken(who: str, broken: Sequence[str], n: int, unreadable_share: float) -> None:
    sentence = f"{who}: {len(broken)} of {n} pictures cannot be used: {some(broken)}"
    if len(broken) > unreadable_share * n:
        raise KkaError(
            f"{sentence}. Mend or remove them, or raise prepare.options.unreadable_share ({unreadable_share})."
        )
    _log.warning(sentence)


def _check_depth(who: str, kinds: Sequence[_Kind], pictures: Images) -> None:
    """Cameras of 10 or 12 bits write files of 16, whose upper bits are 0."""
    deep = [i for i, kind in enumerate(kinds) if kind.mode.startswith("I")]
    if deep and (brightest := int(pictures[deep].max())) < _DARK:
        raise KkaError(
            f"{who}: {len(deep)} pictures of 16 bits are nearly black, their brightest pixel is {brightest} of 255."
            " Does the camera have 10 or 12? Scale its pictures up to 16, or save them with 8."
        )


def _report_kinds(who: str, kinds: Sequence[_Kind], squeeze: bool) -> None:
    common = Counter(str(kind) for kind in kinds).most_common(6)
    _log.info(f"{who}: as they lie there: {', '.join(f'{n} of {kind}' for kind, n in common)}")
    lost = float(np.mean([kind.lost for kind in kinds] or [0]))
    if lost > _CUT and not squeeze:
        _log.warning(
            f"{who}: the square in the middle leaves out {lost:.0%} of the pictures: prepare.options.squeeze keeps all"
            " of them"
        )
    modes = Counter(kind.mode for kind in kinds).most_common()
    if len(modes) > 1:
        _log.warning(
            f"{who}: pictures of several modes ({', '.join(f'{n} of mode {mode}' for mode, n in modes)}): what is"
            " grey or partly transparent among others is seen as different"
        )


def first_ones(who: str, split: Split, files: Sequence[Path], near: float) -> NDArray[np.int64]:
    """The rows that are left when of pictures that are the same only the first stays, so that none can straddle two
    splits.

    The same are: equal pixels; or of one label, and a root mean square of at most `near` grey levels (0 to 255) apart
    when both are made 16x16 small, as the same photograph is that was saved twice; 0 looks for equal pixels alone.
    Raises KkaError where normals and anomalies share a picture, and where `near` would leave out more than half."""
    places: dict[str, int] = {}
    equal = [places.setdefault(sha256(image), i) for i, image in enumerate(split.images)]
    for i, first in enumerate(equal):
        if split.labels[i] != split.labels[first]:
            raise KkaError(
                f"{who}: {files[i]} and {files[first]} are one picture, normal and anomalous. Remove it from one side."
            )
    rows = np.array(sorted(places.values()), dtype=np.int64)
    kept = rows[_apart(thumbs(split.images[rows]), split.labels[rows], near)] if near and len(rows) else rows
    if len(kept) < len(rows) / 2:
        raise KkaError(
            f"{who}: {len(rows) - len(kept)} of {len(rows)} pictures look like another one, as with a fixed camera."
            f" Lower prepare.options.near_duplicates ({near}); 0 leaves out only those that are equal in every pixel."
        )
    if len(kept) < len(split):
        _log.warning(
            f"{who}: left out {len(split) - len(rows)} equal and {len(rows) - len(kept)} nearly equal of {len(split)}"
            " pictures"
        )
    return kept


def thumbs(pictures: Images) -> NDArray[np.float32]:
    """Pictures (n, h, w, 3) made 16x16 small, a row each."""
    small = [
        np.asarray(Image.fromarray(p).resize((_THUMB, _THUMB), Image.Resampling.BOX), dtype=np.float32)
        for p in pictures
    ]
    return np.array(small, dtype=np.float32).reshape(len(small), _THUMB * _THUMB * 3)


def alike(rows: NDArray[np.float32], others: NDArray[np.float32], near: float) -> NDArray[np.bool_]:
    """Which rows of `thumbs` are at most `near` grey levels (root mean square) from which others, shape (n, m)."""
    distance = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    return np.asarray(distance <= near**2 * rows.shape[1])


def _apart(rows: NDArray[np.float32], labels: NDArray[np.int64], near: float) -> NDArray[np.bool_]:
    """Where a row is far from all before it that are kept."""
    kept = np.ones(len(rows), dtype=bool)
    for start in range(0, len(rows), 512):
        block = np.arange(start, min(start + 512, len(rows)))
        before = np.flatnonzero(kept[: block[-1] + 1])
        same = alike(rows[block], rows[before], near) & (labels[block, None] == labels[before])
        for i, equals in zip(block, same, strict=True):
            kept[i] = not kept[before[equals & (before < i)]].any()
    return kept


def recaption(split: Split, files: Sequence[Path], captioner: str | None) -> Split:
    """The split with its normal pictures' captions by a captioning model; as it is without one."""
    if captioner is None:
        return split
    from kka.datasets.shared.captioner import write_captions

    normal = np.flatnonzero(split.labels == 0)
    written = write_captions(captioner, [files[i] for i in normal.tolist()])
    captions = dict(enumerate(split.captions)) | dict(zip(normal.tolist(), written, strict=True))
    return replace(split, captions=tuple(captions.values()))


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
