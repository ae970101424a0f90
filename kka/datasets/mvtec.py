"""One category in the layout of MVTec AD (Bergmann et al. 2019): train/good, test/good, test/DEFECT. The layout of many
others too, VisA among them, and easy to bring your own pictures into. Masks in ground_truth/DEFECT tell where a test
picture is anomalous."""

from pathlib import Path

import numpy as np

from kka.datasets.shared.captions import captioned
from kka.datasets.shared.division import divide_tested
from kka.datasets.shared.files import File, Levels, Share, first_ones, folder, pictures, read, recaption
from kka.datasets.shared.masks import find, with_masks
from kka.errors import KkaError
from kka.records import Splits
from kka.registry import suggestion

PATHS = ("source", "captions")
MODELS = ("captioner",)
GOOD = ("good", "ok", "normal")


def load(
    seed: int,
    image_size: int,
    *,
    source: str,
    category: str,
    captions: str | None = None,
    caption: str | None = None,
    captioner: str | None = None,
    calibration: Share = 0.2,
    validation: Share = 0.2,
    squeeze: bool = False,
    unreadable_share: Share = 0.01,
    near_duplicates: Levels = 0.0,
) -> Splits:
    """The pictures of the folder `source`/`category`; groups are the defects.

    Of train/good the share `calibration` sets the boundary. Of the official test pictures the share `validation` of the
    good ones and of each defect is there to choose by, and the rest is the test split; 0 keeps all of them in it.
    Captions as the data set folder has them; without any, every picture is "a photo of a CATEGORY". Pictures that are
    tested are left out of training. Masks are ground_truth/DEFECT/NAME_mask.png (`masks.find`). Raises KkaError where
    folders or pictures are missing, or a mask fits no picture."""
    root = folder("mvtec", "source", source) / category
    if not root.is_dir():
        known = sorted(p.parent.name for p in root.parent.glob("*/train"))
        hint = suggestion(category, known) if known else f" Is {source} the folder above the categories?"
        raise KkaError(f"mvtec: {source} has no category '{category}'.{hint}")
    tested = _tested(root)
    owned = find("mvtec", root / "ground_truth", [f.path for f in tested], root / "test")
    files = [*tested, *(File(p, 0, "good") for p in pictures("mvtec", _good(root / "train")))]
    default = caption or f"a photo of a {category.replace('_', ' ')}"
    files = captioned("mvtec", files, captions, [root], default)
    split, paths = read("mvtec", files, image_size, unreadable_share=unreadable_share, squeeze=squeeze)
    kept = first_ones("mvtec", split, paths, near_duplicates)
    split, paths = split.take(kept), [paths[i] for i in kept]
    split = recaption(split, paths, None if captions else captioner)
    split = with_masks("mvtec", split, paths, owned, squeeze=squeeze)
    of_test = np.array([p.is_relative_to(root / "test") for p in paths])
    return divide_tested("mvtec", split, of_test, seed, calibration, validation)


def _good(folder: Path) -> Path:
    """The folder of normal pictures."""
    for name in GOOD:
        if (folder / name).is_dir():
            return folder / name
    raise KkaError(f"mvtec: {folder} wants a folder {', '.join(GOOD[:-1])} or {GOOD[-1]}, got none.")


def _tested(root: Path) -> list[File]:
    good = _good(root / "test")
    defects = sorted(p for p in (root / "test").iterdir() if p.is_dir() and p != good)
    if not defects:
        raise KkaError(f"mvtec: {root / 'test'} wants a folder for each defect beside {good.name}, got none.")
    normal = [File(p, 0, "good") for p in pictures("mvtec", good)]
    return normal + [File(p, 1, d.name) for d in defects for p in pictures("mvtec", d)]
