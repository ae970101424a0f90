"""Photographs of real parts for benchmarks: three sets, divided so that no item stands on two sides, and the random
anomalies that others train on.

elpv is the package `elpv-dataset`. The other two lie in folders of `KKA_DATA`: castings (ok, def, parts.csv with the
group of each good picture: one part, turned and lit anew) and commutators (good, test/defect, ground_truth/defect)."""

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kka.errors import KkaError
from kka.images import picture_files, prepare
from kka.records import Changes, Images, seed_of, write_text

BLOCK = 10  # neighbours in number may be views of one commutator: they stay together
PARTS = ("test", "calibration", "validation")


class Photograph(NamedTuple):
    """A file with its group, which is not divided, and its mask where there is one."""

    path: Path
    group: str
    mask: Path | None = None


@dataclass(frozen=True)
class Parts:
    """The side in pixels at which a set is looked at, whether it is squeezed into a square, and how many normals (at
    least) test, calibration and validation take; at most `most` of the others are trained on."""

    files: Callable[[], tuple[list[Photograph], list[Photograph]]]
    side: int
    squeeze: bool
    sizes: tuple[int, int, int]
    most: int = 400


def _folder(name: str) -> Path:
    path = Path(os.environ.get("KKA_DATA", "data")) / name
    if not path.is_dir():
        raise KkaError(f"the benchmark wants the photographs of {path}, got no such folder. Set KKA_DATA.")
    return path


def _castings() -> tuple[list[Photograph], list[Photograph]]:
    folder = _folder("castings")
    with (folder / "parts.csv").open(encoding="utf-8") as file:
        good = [Photograph(folder / r["file"], r["group"]) for r in csv.DictReader(file) if r["label"] == "ok"]
    return good, [Photograph(path, path.stem) for path in sorted((folder / "def").iterdir())]


def _commutators() -> tuple[list[Photograph], list[Photograph]]:
    folder = _folder("commutators")
    good = [Photograph(path, str(int(path.stem) // BLOCK)) for path in sorted((folder / "good").iterdir())]
    masks = folder / "ground_truth" / "defect"
    defects = sorted((folder / "test" / "defect").iterdir())
    return good, [Photograph(path, path.stem, masks / f"{path.stem}_mask.png") for path in defects]


def _elpv() -> tuple[list[Photograph], list[Photograph]]:
    """The probability of a defect is 0 for functional cells, 2/3 and 1 for defective ones; 1/3 is left out."""
    found = find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise KkaError("the benchmark wants the package elpv-dataset. Say: pip install -e '.[photos]'")
    folder = Path(found.origin).parent / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
    good = [Photograph(folder / path, path) for path, probability, _ in rows if float(probability) == 0]
    return good, [Photograph(folder / path, path) for path, probability, _ in rows if float(probability) > 0.5]


SETS = {
    "elpv": Parts(_elpv, 224, False, (400, 200, 50)),
    "castings": Parts(_castings, 224, False, (150, 100, 20)),
    "commutators": Parts(_commutators, 352, True, (80, 60, 20)),
}


def manifest(name: str, seed: int, folder: Path) -> tuple[Path, list[Photograph]]:
    """Writes the list of a set's pictures for the data set `csv`, with their parts, and returns it with the half of the
    defects that nobody is tested on, for the upper bound. Groups are drawn in turn until a part is full; the rest, or
    as much of it as is wanted, is trained on."""
    parts = SETS[name]
    good, defects = parts.files()
    rng = np.random.default_rng(seed_of(seed, "parts", name))
    rows = [(photo, 0, part) for part, photos in _divided(parts, good, rng).items() for photo in photos]
    order = rng.permutation(len(defects))
    rows += [(defects[i], 1, "test") for i in order[: len(defects) // 2]]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", "label", "group", "part", "mask"])
    for photo, label, part in rows:
        writer.writerow([photo.path, label, "defect" if label else photo.group, part, photo.mask or ""])
    path = folder / f"{name}-{seed}.csv"
    write_text(path, table.getvalue())
    return path, [defects[i] for i in order[len(defects) // 2 :]]


def _divided(parts: Parts, good: Sequence[Photograph], rng: np.random.Generator) -> dict[str, list[Photograph]]:
    groups = _groups(good)
    waiting = [groups[i] for i in rng.permutation(len(groups))]
    divided: dict[str, list[Photograph]] = {part: [] for part in PARTS}
    for part, size in zip(PARTS, parts.sizes, strict=True):
        while len(divided[part]) < size:
            divided[part] += waiting.pop()
    rest = [photo for group in waiting for photo in group]
    return divided | {"train": [rest[i] for i in np.sort(rng.permutation(len(rest))[: parts.most])]}


def _groups(photos: Sequence[Photograph]) -> list[list[Photograph]]:
    """Those of each group, in the order of their names. Groups that have a picture in common are one."""
    groups: dict[str, dict[Path, Photograph]] = {}
    for photo in photos:
        joined = {photo.path: photo}
        for name in [name for name, members in groups.items() if name == photo.group or photo.path in members]:
            joined = groups.pop(name) | joined
        groups[photo.group] = joined
    return [list(groups[name].values()) for name in sorted(groups)]


def real_defects(name: str, photos: Sequence[Photograph]) -> Images:
    """Pictures of real defects (n, side, side, 3), prepared as the others are."""
    parts = SETS[name]
    return prepare([Image.open(photo.path) for photo in photos], parts.side, squeeze=parts.squeeze)


def textures(side: int) -> Images:
    """Photographs of everyday things, which stand for the textures of DRAEM: (m, side, side, 3)."""
    return prepare([Image.open(path) for path in picture_files(_folder("flickr"))[:200]], side)


def cutpaste(normals: Images, n: int, seed: int) -> tuple[Images, Changes]:
    """CutPaste (Li et al. 2021): a patch, or a thin scar, of a normal picture turned, its brightness jittered, pasted
    elsewhere. A patch takes 2 to 15% of the picture with an aspect of 0.3 to 3.3, a scar is 2 to 16 pixels wide and 10
    to 25 long at 256 pixels."""
    rng = np.random.default_rng(seed_of(seed, "cutpaste"))
    sources = normals[rng.integers(len(normals), size=n)]
    drawn = [_pasted(source, rng) for source in sources]
    return np.stack([picture for picture, _ in drawn]), Changes(sources, np.stack([mask for _, mask in drawn]))


def _pasted(source: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    side = len(source)
    if rng.random() < 0.5:
        area, aspect = rng.uniform(0.02, 0.15) * side**2, np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
        width, height, turn = (area * aspect) ** 0.5, (area / aspect) ** 0.5, 0.0
    else:
        width, height, turn = rng.uniform(2, 16) * side / 256, rng.uniform(10, 25) * side / 256, rng.uniform(-45, 45)
    w, h = (int(np.clip(round(v), 2, side - 1)) for v in (width, height))
    left, top = rng.integers(side - w), rng.integers(side - h)
    patch = source[top : top + h, left : left + w].astype(float) * rng.uniform(0.9, 1.1)
    piece = Image.fromarray(patch.clip(0, 255).astype(np.uint8)).convert("RGBA").rotate(turn, expand=True)
    place = int(rng.integers(max(1, side - piece.width))), int(rng.integers(max(1, side - piece.height)))
    picture, mask = Image.fromarray(source), Image.new("L", (side, side))
    picture.paste(piece, place, piece)
    mask.paste(255, place, piece.getchannel("A"))
    return np.asarray(picture), np.asarray(mask) > 0


def perlin(normals: Images, textures: Images, n: int, seed: int) -> tuple[Images, Changes]:
    """DRAEM (Zavrtanik et al. 2021): a foreign texture, mixed with the picture at a random opacity, where Perlin noise
    lies above 0.5. `textures` are pictures (m, side, side, 3) of something else."""
    rng = np.random.default_rng(seed_of(seed, "perlin"))
    sources = normals[rng.integers(len(normals), size=n)]
    masks = np.stack([_noise_mask(normals.shape[1], rng) for _ in sources])
    opacity = rng.uniform(0.2, 1.0, size=(n, 1, 1, 1))
    mixed = opacity * textures[rng.integers(len(textures), size=n)] + (1 - opacity) * sources
    return np.where(masks[..., None], mixed.round(), sources).astype(np.uint8), Changes(sources, masks)


def _noise_mask(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Where Perlin noise of 1 to 32 cells a side, another number for each axis, exceeds 0.5; never nowhere."""
    while True:
        noise = perlin_noise(side, int(2 ** rng.integers(6)), int(2 ** rng.integers(6)), rng)
        if (mask := noise > 0.5).any():
            return mask


def perlin_noise(side: int, down: int, across: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Perlin's gradient noise (1985), (side, side), about -1 to 1, of `down` x `across` cells."""
    angles = rng.uniform(0, 2 * np.pi, size=(down + 1, across + 1))
    gradients = np.stack([np.sin(angles), np.cos(angles)])
    y, x = np.meshgrid(*(np.arange(side) / side * cells for cells in (down, across)), indexing="ij")
    row, column = y.astype(int), x.astype(int)
    dy, dx = y - row, x - column

    def corner(below: int, right: int) -> NDArray[np.float64]:
        g = gradients[:, row + below, column + right]
        return np.asarray(g[0] * (dy - below) + g[1] * (dx - right))

    def fade(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return t**3 * (t * (6 * t - 15) + 10)

    upper = corner(0, 0) + fade(dx) * (corner(0, 1) - corner(0, 0))
    lower = corner(1, 0) + fade(dx) * (corner(1, 1) - corner(1, 0))
    return np.asarray(np.sqrt(2) * (upper + fade(dy) * (lower - upper)))
