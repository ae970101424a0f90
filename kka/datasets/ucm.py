"""UC Merced land use (Yang and Newsam 2010): aerial photographs of 21 classes, with the captions of UCM-Captions (Qu et
al. 2016)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kka.datasets.shared.captions import lines, text
from kka.datasets.shared.division import Shares, divide
from kka.datasets.shared.files import File, Levels, Share, first_ones, folder, pictures, read
from kka.errors import KkaError
from kka.records import Splits
from kka.registry import suggestion

PATHS = ("source", "captions")
# In the order in which UCM-Captions counts its pictures, a hundred of each.
CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass",
    "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip


def load(
    seed: int,
    image_size: int,
    *,
    source: str,
    captions: str | None = None,
    normal: Sequence[str] = ("storagetanks", "tenniscourt"),
    calibration: Share = 0.15,
    validation: Share = 0.1,
    test: Share = 0.15,
    unreadable_share: Share = 0.01,
    near_duplicates: Levels = 1.0,
) -> Splits:
    """The class folders in `source` (those of UCMerced_LandUse/Images, as tif or converted), the classes `normal`
    against all others.

    `captions` is a json: UCM-Captions' own dataset.json, or a list of {ucm_file, captions}; pictures have several, a
    line each. Without it a picture is "an aerial photo of a CLASS". Divided as the data set folder is; groups are
    classes. Raises KkaError for classes, pictures or captions that are missing."""
    root = folder("ucm", "source", source)
    classes = sorted(p.name for p in root.iterdir() if p.is_dir())
    for name in normal:
        if name not in classes:
            raise KkaError(f"ucm: {source} has no class folder '{name}' for normal.{suggestion(name, classes)}")
    if not set(classes) - set(normal):
        raise KkaError(f"ucm: normal holds every class folder of {source}; leave some out, which are the anomalies.")
    known = None if captions is None else _captions_of(Path(captions).expanduser())
    files = [
        File(p, int(name not in normal), name, _caption(p, name, known))
        for name in classes
        for p in pictures("ucm", root / name)
    ]
    split, paths = read("ucm", files, image_size, unreadable_share=unreadable_share)
    split = split.take(first_ones("ucm", split, paths, near_duplicates))
    return divide("ucm", split, seed, Shares(calibration, validation, test))


def _caption(path: Path, name: str, known: dict[str, str] | None) -> str:
    if known is None:
        return f"an aerial photo of a {name}"
    if not known.get(path.stem):
        raise KkaError(f"ucm: captions has none for {path.name}. Is it the file of this data set?")
    return known[path.stem]


def _captions_of(source: Path) -> dict[str, str]:
    """The captions by the picture's name without its ending, agricultural00 and so on."""
    if not source.is_file():
        raise KkaError(f"ucm: captions wants the json of UCM-Captions, got {source}, which is no file.")
    try:
        content: Any = json.loads(text(source))
        items = content["images"] if isinstance(content, dict) else content
        return {_stem(item): lines("\n".join(_sentences(item))) for item in items}
    except (json.JSONDecodeError, KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise KkaError(
            f"ucm: captions {source} wants {{images: [{{filename, sentences}}]}} or [{{ucm_file, captions}}], got"
            f" others ({error!r:.80})."
        ) from None


def _stem(item: dict[str, Any]) -> str:
    if "ucm_file" in item:
        return Path(item["ucm_file"]).stem
    number = re.fullmatch(r"(\d+)", Path(item["filename"]).stem)
    if number is None:
        return Path(item["filename"]).stem
    place = int(number[1]) - 1  # 1.tif is the first of the first class
    return f"{CLASSES[place // 100]}{place % 100:02d}"


def _sentences(item: dict[str, Any]) -> list[str]:
    return item["captions"] if "captions" in item else [sentence["raw"] for sentence in item["sentences"]]
