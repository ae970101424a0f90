"""Solar cells in electroluminescence light, from the package elpv-dataset of the Python package index (Deitsch et al.
2019, "Automatic classification of defective photovoltaic module cells in electroluminescence images"). Its pictures are
under CC-BY-NC-SA-4.0: they are read where pip has put them."""

import importlib.util
from pathlib import Path
from typing import Literal

from kka.datasets.shared.captions import text
from kka.datasets.shared.division import Shares, divide
from kka.datasets.shared.files import File, Levels, Share, first_ones, read
from kka.errors import KkaError
from kka.records import Splits

PACKAGES = ("elpv-dataset",)

_THIRDS = ("0", "1/3", "2/3", "1")  # the probability of a defect, as experts put it


def load(
    seed: int,
    image_size: int,
    *,
    kind: Literal["mono", "poly", "all"] = "all",
    caption: str = "an electroluminescence photo of a solar cell",
    calibration: Share = 0.15,
    validation: Share = 0.1,
    test: Share = 0.15,
    near_duplicates: Levels = 1.0,
) -> Splits:
    """The 300 x 300 grey cells of one `kind`, mono- or polycrystalline, or of both, divided as the data set folder
    does.

    Functional cells (1,508) are normal, and their kind is their group. Cells that are defective with a probability of
    2/3 or 1 (106 and 715) are anomalous, each kind and probability a group, such as "mono 2/3"; those with 1/3 are left
    out. Cells of one module look alike, and the set does not say which they are: figures may be a little better than on
    modules that a detector has not seen. Raises KkaError where the package is not installed."""
    files = [file for file in _files(_folder(), caption) if kind in ("all", file.group.split()[0])]
    split, paths = read("elpv", files, image_size, unreadable_share=0.0)
    split = split.take(first_ones("elpv", split, paths, near_duplicates))
    return divide("elpv", split, seed, Shares(calibration, validation, test))


def _folder() -> Path:
    """Where the package keeps its table and pictures; nothing of it is imported."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise KkaError(
            f"elpv: the pictures come with the package {PACKAGES[0]}, which is not installed."
            " Run `pip install -e '.[photos]'`."
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _files(folder: Path, caption: str) -> list[File]:
    """The cells that the experts were sure of."""
    rows = [line.split() for line in text(folder / "labels.csv").splitlines()]
    cells = [(folder / path, _THIRDS[round(3 * float(probability))], kind) for path, probability, kind in rows]
    return [
        File(path, 0, kind, caption) if said == "0" else File(path, 1, f"{kind} {said}", caption)
        for path, said, kind in cells
        if said != "1/3"
    ]
