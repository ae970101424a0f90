"""CIFAR-100: photographs of 100 classes in 32x32; by default household furniture is normal.

The other classes are divided by `archive_seed`: photographs of `archive_classes` of them form the archive that stands
for what a text-to-image model could draw; all anomalies of validation and test are of the classes that are left. So the
detector is tested on kinds of anomalies that neither the archive nor the language model has ever held."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kka import images
from kka.datasets.shared import hub
from kka.errors import KkaError
from kka.images import parquet
from kka.records import Split, Splits, seed_of, sha256
from kka.registry import suggestion

HUB = True

# In the order of `fine_label`, so that files without Hugging Face's own list of names are read too.
# fmt: off
CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
FURNITURE = SUPERCLASSES["household_furniture"]

# Sixty ways to say it, each true of every photograph: enough for three rounds of descriptions without repeats, and few
# enough that the training captions hold nearly all that can be said of a normal class, so that the guard knows one when
# it reads it.
_HEADS = tuple(
    f"{kind}{noun}" for kind in ("", "small ") for noun in ("photo", "picture", "photograph", "image", "snapshot")
)
_FORMS = (
    "{a_head} of {it}",
    "{a_head} that shows {it}",
    "{it} in {a_head}",
    "{a_head} with {it} in it",
    "{it}, seen in {a_head}",
    "this {head} shows {it}",
)
_PARAPHRASES = 6


def load(
    seed: int,
    image_size: int,
    *,
    source: str = "uoft-cs/cifar100",
    normal: Sequence[str] = FURNITURE,
    train: int = 1500,
    calibration: int = 500,
    validation: int = 300,
    archive_classes: int = 45,
    archive_seed: int = 0,
) -> Splits:
    """Splits whose groups are class names. `source` is a folder with a train and a test parquet file, or a Hugging Face
    id; `normal` names classes or superclasses; with `archive_classes` 0 the test split holds all others.

    `train`, `calibration` and `validation` count normals, of the training file; validation has as many anomalies beside
    them. Test is all normal photographs of the test file against all of the held-out classes. Raises KkaError where
    data, classes or photographs are missing."""
    normal = expand(normal)
    _, held_out = divide(normal, archive_classes, archive_seed)
    (pixels, names), (test_pixels, test_names) = _photographs(source)
    rng = np.random.default_rng(seed_of(seed, "cifar100"))
    normals = _draw(
        names,
        normal,
        train + calibration + validation,
        rng,
        f"normal photographs in {source}; lower train, calibration or validation",
    )
    others = _draw(names, held_out, validation, rng, f"photographs of held-out classes in {source}; lower validation")
    first, second, third = np.split(normals, [train, train + calibration])
    mixed = np.concatenate([third, others])
    tested = np.flatnonzero(np.isin(test_names, [*normal, *held_out]))
    return Splits(
        train=_split(pixels[first], names[first], normal, image_size, rng),
        calibration=_split(pixels[second], names[second], normal, image_size, rng),
        validation=_split(pixels[mixed], names[mixed], normal, image_size, rng),
        test=_split(test_pixels[tested], test_names[tested], normal, image_size, rng),
    )


def archive(
    image_size: int,
    *,
    source: str = "uoft-cs/cifar100",
    normal: Sequence[str] = FURNITURE,
    archive_classes: int = 45,
    archive_per_class: int = 100,
    archive_seed: int = 0,
) -> Split:
    """Photographs of the archive's classes, at most `archive_per_class` of each, from the training file, each with
    several captions, a line each. Raises KkaError as `load` does."""
    normal = expand(normal)
    archived, _ = divide(normal, archive_classes, archive_seed)
    if not archived:
        raise KkaError(
            "cifar100: archive_classes is 0, so there is no archive. Set it to 45, or take another synthesizer than"
            " bank."
        )
    pixels, names = _photographs(source)[0]
    rng = np.random.default_rng(seed_of("cifar100", "archive", archive_seed))
    rows = np.concatenate([rng.permutation(np.flatnonzero(names == name))[:archive_per_class] for name in archived])
    split = _split(pixels[rows], names[rows], normal, image_size, rng)
    # several captions a photograph, as Oxford-102 and UCM have: what they agree in is what a bank can find it by
    captions = ("\n".join(caption(n, rng) for _ in range(_PARAPHRASES)) for n in names[rows])
    return replace(split, captions=tuple(captions))


def expand(normal: Sequence[str]) -> list[str]:
    """The classes that names of classes and superclasses stand for, each once. Raises KkaError for a name that there is
    not."""
    known = [*CLASSES, *SUPERCLASSES]
    for name in normal:
        if name not in known:
            raise KkaError(f"cifar100: normal names the unknown class '{name}'.{suggestion(str(name), known)}")
    return list(dict.fromkeys(c for name in normal for c in SUPERCLASSES.get(name, (name,))))


def divide(normal: Sequence[str], archive_classes: int, archive_seed: int) -> tuple[list[str], list[str]]:
    """The anomalous classes: those of the archive, and the held-out ones."""
    anomalous = [c for c in CLASSES if c not in normal]
    if not normal or not 0 <= archive_classes < len(anomalous):
        raise KkaError(
            f"cifar100: wanted at least one normal class and one held-out class, got {len(normal)} normal classes and"
            f" archive_classes {archive_classes} of {len(anomalous)}."
        )
    order = np.random.default_rng(seed_of("cifar100", "classes", archive_seed)).permutation(len(anomalous))
    chosen = {anomalous[i] for i in order[:archive_classes]}
    return [c for c in anomalous if c in chosen], [c for c in anomalous if c not in chosen]


def caption(name: str, rng: np.random.Generator) -> str:
    """One of the ways to say what a photograph shows."""
    form, head = _FORMS[rng.integers(len(_FORMS))], _HEADS[rng.integers(len(_HEADS))]
    return form.format(head=head, a_head=_an(head), it=_an(name.replace("_", " ")))


def _an(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _draw(
    names: NDArray[np.str_], classes: Sequence[str], n: int, rng: np.random.Generator, what: str
) -> NDArray[np.int64]:
    """`n` rows of the classes at random."""
    drawn = rng.permutation(np.flatnonzero(np.isin(names, list(classes))))
    if len(drawn) < n:
        raise KkaError(f"cifar100: wanted {n} and got {len(drawn)} {what}.")
    return drawn[:n]


def _split(
    pixels: NDArray[np.uint8], names: NDArray[np.str_], normal: Sequence[str], size: int, rng: np.random.Generator
) -> Split:
    labels = (~np.isin(names, list(normal))).astype(np.int64)
    return Split(
        images.prepare(list(pixels), size), tuple(caption(n, rng) for n in names), labels, tuple(names.tolist())
    )


Photographs = tuple[NDArray[np.uint8], NDArray[np.str_]]


def _photographs(source: str) -> tuple[Photographs, Photographs]:
    """Pixels (n, 32, 32, 3) and class names of the training and of the test file. A photograph of the training file
    that stands in the test file too, or twice in the training file, is left out, so that none can straddle two
    splits."""
    (train, train_names), (test, test_names) = (_decode(source, *_read(source, part)) for part in ("train", "test"))
    earlier, kept = {sha256(photograph) for photograph in test}, []
    for i, photograph in enumerate(train):
        digest = sha256(photograph)
        if digest not in earlier:
            kept.append(i)
        earlier.add(digest)
    return (train[kept], train_names[kept]), (test, test_names)


def _decode(source: str, pictures: list[Any], labels: list[Any]) -> Photographs:
    if not pictures or not all(isinstance(label, int) and 0 <= label < len(CLASSES) for label in labels):
        raise KkaError(
            f"{source}: wanted photographs with a fine_label from 0 to 99, got {'others' if pictures else 'none'}."
        )
    pixels = [images.decode(picture, f"{source}, row {i}") for i, picture in enumerate(pictures)]
    if odd := {p.shape for p in pixels} - {(32, 32, 3)}:
        raise KkaError(
            f"{source}: wanted photographs of 32x32 pixels, got some of"
            f" {' and '.join(f'{w}x{h}' for h, w, _ in sorted(odd))}."
        )
    return np.stack(pixels), np.array([CLASSES[label] for label in labels])


def _read(source: str, part: str) -> list[list[Any]]:
    """The encoded photographs of one part, and their labels."""
    return parquet.columns(_files(source, part), "img", "fine_label")


def _files(source: str, part: str) -> list[Path]:
    folder = Path(source).expanduser()
    if folder.is_dir():
        if files := sorted(folder.rglob(f"{part}*.parquet")):
            return files
        raise KkaError(
            f"cifar100: {folder} wants {part}.parquet, as Hugging Face writes it (or {part}-00000-of-00001.parquet),"
            " got no such file."
        )
    if not hub.is_id(source):
        raise KkaError(
            f"cifar100: source wants a folder or a Hugging Face id such as uoft-cs/cifar100, got '{source}', which is"
            " neither."
        )
    return hub.files("cifar100", source, part)
