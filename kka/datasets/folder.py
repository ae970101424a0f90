"""Your own pictures: a folder of normal ones, and if there are any, a folder of anomalies that no detector trains
on."""

from collections.abc import Sequence
from pathlib import Path

from kka.datasets.shared.captions import captioned
from kka.datasets.shared.division import Shares, divide, groups
from kka.datasets.shared.files import File, Levels, Share, first_ones, folder, pictures, read, recaption
from kka.datasets.shared.masks import find, with_masks
from kka.errors import KkaError
from kka.records import Splits

PATHS = ("normal", "anomalies", "masks", "captions", "group")
MODELS = ("captioner",)


def load(
    seed: int,
    image_size: int,
    *,
    normal: str,
    anomalies: str | None = None,
    masks: str | None = None,
    captions: str | None = None,
    caption: str = "a photo of a part",
    captioner: str | None = None,
    group: str | None = None,
    calibration: Share = 0.15,
    validation: Share = 0.1,
    test: Share = 0.15,
    squeeze: bool = False,
    unreadable_share: Share = 0.01,
    near_duplicates: Levels = 1.0,
) -> Splits:
    """Divides the pictures below the folder `normal` at random: the shares for calibration, validation and test, the
    rest to train. `group` is a csv (`division.groups`) that tells which pictures show one item, or come from one batch:
    they look alike, so they come into one split.

    `anomalies` is a folder of real ones, for validation and test alone; the folders in it are their groups. Without
    them the reports tell false positives, but no AUROC. `masks` is a folder that tells where in the anomalies they are
    anomalous, by their paths or names (`masks.find`). `captions` is a csv, a json or a folder of .txt files
    (`captions.captioned`); without it every picture is said to be `caption`, or what the image-to-text model
    `captioner` says of it. Of pictures that are the same the first stays (`files.first_ones`). Raises KkaError where
    folders, pictures or captions are missing."""
    who, inside = "folder", folder("folder", "normal", normal)
    roots = [inside, *([] if anomalies is None else [folder(who, "anomalies", anomalies)])]
    if masks is not None and anomalies is None:
        raise KkaError(f"folder: masks, {masks}, are those of anomalies, got none. Set prepare.options.anomalies too.")
    if len(roots) > 1 and roots[0].resolve().is_relative_to(roots[1].resolve()):
        raise KkaError(
            f"folder: normal, {normal}, is or lies in anomalies, {anomalies}."
            " Give the anomalies a folder of their own; it may lie in that of the normals."
        )
    place = None if masks is None else folder(who, "masks", masks)
    outside = [p for root in roots[1:] for p in _besides(pictures(who, root), place)]
    owned = {} if place is None else find(who, place, outside, roots[1])
    anomalous = {p.resolve() for p in outside}  # a folder of anomalies within that of the normals is theirs alone
    normals = [p for p in _besides(pictures(who, inside), place) if p.resolve() not in anomalous]
    files = [File(p, 0, "normal") for p in normals]
    files += [File(p, 1, _group(p, roots[1])) for p in outside]
    split, paths = read(
        who,
        captioned(who, files, captions, roots, caption),
        image_size,
        unreadable_share=unreadable_share,
        squeeze=squeeze,
    )
    kept = first_ones(who, split, paths, near_duplicates)
    split, paths = split.take(kept), [paths[i] for i in kept]
    split = recaption(split, paths, None if captions else captioner)
    split = with_masks(who, split, paths, owned, squeeze=squeeze)
    together = None if group is None else groups(who, group, paths, split.labels.tolist())
    return divide(who, split, seed, Shares(calibration, validation, test), together)


def _besides(paths: Sequence[Path], place: Path | None) -> list[Path]:
    """The pictures that do not lie in `place`, the folder of masks."""
    return [p for p in paths if place is None or not p.resolve().is_relative_to(place.resolve())]


def _group(path: Path, root: Path) -> str:
    """The name of the folder that an anomaly lies in."""
    return path.relative_to(root).parts[0] if path.parent != root else "anomaly"
