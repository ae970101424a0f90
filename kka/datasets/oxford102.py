"""Oxford 102 Flowers (Nilsback and Zisserman 2008): photographs of 102 species, with the captions of Reed et al.
(2016)."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kka.datasets.shared import hub
from kka.datasets.shared.captions import lines, text
from kka.datasets.shared.division import Shares, divide, divide_tested
from kka.datasets.shared.files import File, Levels, Share, first_ones, folder, pictures, read
from kka.errors import KkaError
from kka.images import parquet
from kka.records import Splits

PATHS = ("captions",)
HUB = True
SPECIES = 102


def load(
    seed: int,
    image_size: int,
    *,
    source: str,
    captions: str | None = None,
    caption: str = "a photo of a flower",
    normal: Sequence[int] = (26,),
    protocol: Literal["random", "official"] = "random",
    calibration: Share = 0.15,
    validation: Share = 0.1,
    test: Share = 0.15,
    unreadable_share: Share = 0.01,
    near_duplicates: Levels = 1.0,
) -> Splits:
    """The species `normal` (1 to 102, as imagelabels.mat counts them) against all others; groups are "species 26" and
    so on.

    `source` is a folder with imagelabels.mat and jpg/ or 102flowers.tgz, or a Hugging Face id whose columns are image
    and label (from 0, or by names that are numbers). `captions` is a folder of .txt files named as the pictures (Reed's
    text_c10), ten lines each; without it every picture is said to be `caption`. Divided at random as the data set
    folder is; with the protocol "official" the test split is that of setid.mat, whose training species have no more
    than 20 pictures each. Raises KkaError for what is missing."""
    if wrong := [n for n in normal if not 1 <= n <= SPECIES]:
        raise KkaError(f"oxford102: normal wants species from 1 to {SPECIES}, got {wrong[0]}.")
    root = Path(source).expanduser()
    if not root.is_dir() and not hub.is_id(source):
        raise KkaError(f"oxford102: source wants a folder or a Hugging Face id, got '{source}', which is neither.")
    tested: set[str] = set()
    if protocol == "official":
        tested = {_name(n) for n in _matlab(root, "setid.mat", "tstid")}
    files = [f for f in (_from_folder(root) if root.is_dir() else _from_hub(source))]
    files = [File(f.path, int(f.label not in normal), f"species {f.label}", data=f.data) for f in files]
    files = _captioned(files, captions, caption)
    files.sort(
        key=lambda f: f.path.name not in tested
    )  # what is tested comes first: it is training that loses what they share
    split, paths = read("oxford102", files, image_size, unreadable_share=unreadable_share)
    kept = first_ones("oxford102", split, paths, near_duplicates)
    if not tested:
        return divide("oxford102", split.take(kept), seed, Shares(calibration, validation, test))
    return divide_tested(
        "oxford102", split.take(kept), np.array([paths[i].name in tested for i in kept]), seed, calibration, validation
    )


def _captioned(files: Sequence[File], captions: str | None, default: str) -> list[File]:
    if captions is None:
        return [replace(f, caption=default) for f in files]
    root = folder("oxford102", "captions", captions)
    texts = {p.stem: p for p in sorted(root.rglob("image_*.txt"))}
    for file in files:
        if file.path.stem not in texts:
            raise KkaError(f"oxford102: captions {captions} has no {file.path.stem}.txt, nor has a folder in it.")
    made = [replace(f, caption=lines(text(texts[f.path.stem]))) for f in files]
    if empty := [f.path.stem for f in made if not f.caption]:
        raise KkaError(f"oxford102: captions {captions} says nothing in {empty[0]}.txt.")
    return made


def _from_folder(root: Path) -> Iterator[File]:
    """Every picture, its species as its label."""
    labels = {_name(i): int(label) for i, label in enumerate(_matlab(root, "imagelabels.mat", "labels"), start=1)}
    if (root / "jpg").is_dir():
        unpacked: Iterator[tuple[Path, bytes | None]] = ((p, None) for p in pictures("oxford102", root / "jpg"))
    elif (root / "102flowers.tgz").is_file():
        unpacked = _unpacked(root / "102flowers.tgz")
    else:
        raise KkaError(f"oxford102: {root} wants the folder jpg or the file 102flowers.tgz, got neither.")
    for path, data in unpacked:
        if path.name not in labels:
            raise KkaError(f"oxford102: imagelabels.mat has {len(labels)} labels, but none for {path}.")
        yield File(path, labels[path.name], "", data=data)


def _unpacked(archive: Path) -> Iterator[tuple[Path, bytes | None]]:
    try:
        with tarfile.open(archive) as packed:
            for member in packed:
                if member.isfile() and member.name.endswith(".jpg") and (content := packed.extractfile(member)):
                    yield archive / Path(member.name).name, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise KkaError(f"oxford102: {archive} cannot be unpacked ({error}). Fetch it again.") from None


def _from_hub(source: str) -> list[File]:
    files = hub.files("oxford102", source)
    pictures, labels = parquet.columns(files, "image", "label")
    if wrong := [n for n in labels if not isinstance(n, int) or not 0 <= n < SPECIES]:
        raise KkaError(
            f"oxford102: {source} wants labels from 0 to {SPECIES - 1}, got {wrong[0]!r}. Name another source."
        )
    # sorted as texts, the names of classes are 1, 10, 100 and so on
    species = [
        int(n) if n.isdigit() else i for i, n in enumerate(parquet.class_names(files[0], "label"), start=1)
    ] or range(1, SPECIES + 1)
    names = [Path(p["path"] or _name(i)) for i, p in enumerate(pictures, start=1)]
    return [File(name, species[n], "", data=p["bytes"]) for name, p, n in zip(names, pictures, labels, strict=True)]


def _name(number: int) -> str:
    return f"image_{number:05d}.jpg"


def _matlab(root: Path, name: str, key: str) -> NDArray[Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not (root / name).is_file():
        raise KkaError(
            f"oxford102: {root} wants {name}, got no such file. It stands beside the photographs on the data set's"
            " page."
        )
    try:
        return np.asarray(loadmat(root / name)[key]).ravel()
    except (MatReadError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise KkaError(f"oxford102: {root / name} wants '{key}', got {error!r:.80}. Fetch it again.") from None
