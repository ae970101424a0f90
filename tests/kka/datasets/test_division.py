"""Pictures of one item stay in one split, and what is too little to divide is said."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kka import datasets
from kka.datasets.shared.division import Shares, divide
from kka.errors import KkaError
from kka.records import PARTS, Split, Splits, sha256
from tests.conftest import ROOT, photographs

SHARES = Shares(calibration=0.15, validation=0.1, test=0.15)


def made(sizes: Sequence[int], anomalies: Sequence[int] = ()) -> tuple[Split, list[str]]:
    """A split whose captions are the names of its groups, of normals and of anomalies with these sizes."""
    together = [f"good {i}" for i, n in enumerate(sizes) for _ in range(n)]
    together += [f"bad {i}" for i, n in enumerate(anomalies) for _ in range(n)]
    labels = np.array([int(name.startswith("bad")) for name in together], dtype=np.int64)
    pictures = np.zeros((len(labels), 16, 16, 3), np.uint8)
    return Split(pictures, tuple(together), labels, ("",) * len(labels)), together


def places(splits: Splits) -> dict[str, set[str]]:
    """The splits that each group stands in."""
    found: dict[str, set[str]] = {}
    for part in PARTS:
        for name in getattr(splits, part).captions:
            found.setdefault(name, set()).add(part)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles_and_the_shares_are_nearly_met(seed: int) -> None:
    sizes = [40] * 11 + [20] * 5 + [10] * 6 + [5] * 10 + [1] * 30  # as few items pictured often, and many once
    split, together = made(sizes, [3] * 20)
    splits = divide("parts", split, seed, SHARES, together)
    assert all(len(parts) == 1 for parts in places(splits).values()) and len(places(splits)) == len(sizes) + 20
    normals = [int((getattr(splits, part).labels == 0).sum()) for part in PARTS]
    # with single pictures dealt last, each share is met exactly: 15, 10 and 15% of 680
    assert normals == [408, 102, 68, 102]
    # of 60 anomalies in threes 10 / 25 are 24
    assert [int(s.labels.sum()) for s in (splits.validation, splits.test)] == [24, 36]


def test_a_seed_deals_anew() -> None:
    split, together = made([4] * 30)
    one, same, other = (divide("parts", split, seed, SHARES, together) for seed in (0, 0, 1))
    assert one.test.captions == same.test.captions != other.test.captions


def test_each_split_gets_a_group_where_there_are_four() -> None:
    splits = divide("parts", made([25] * 4)[0], 0, SHARES, made([25] * 4)[1])
    assert [len(getattr(splits, part)) for part in PARTS] == [25] * 4
    with pytest.raises(
        KkaError, match="^parts: group wants at least 4 groups of normal pictures, one for each split, got 3. Leave it"
    ):
        divide("parts", made([30] * 3)[0], 0, SHARES, made([30] * 3)[1])


@pytest.mark.parametrize(("normals", "warned"), [(29, True), (30, False)])
def test_few_normals_are_warned_of(normals: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    divide("parts", made([1] * normals)[0], 0, SHARES)
    said = [m for m in caplog.messages if m.startswith(f"parts: {normals} normal pictures are few: the threshold")]
    assert bool(said) == warned


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Ten items pictured four times, six defects; parts.csv names the item of each good picture alone."""
    rows = [["file", "label", "group"]]
    for i, pixels in enumerate(photographs(46, np.random.default_rng(0))):
        name = f"ok/{i}.png" if i < 40 else f"def/{i}.png"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
        rows += [[name, "ok" if i < 40 else "def", f"item {i // 4}"]] if i < 40 else []
    with (tmp_path / "parts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def items(splits: Splits, folder: Path) -> list[set[int]]:
    """Which items the normals of each split show, by their pixels."""
    known = {sha256(np.asarray(Image.open(p).convert("RGB"))): int(p.stem) // 4 for p in (folder / "ok").iterdir()}
    return [{known[sha256(i)] for i, n in zip(s.images, s.labels, strict=True) if not n} for s in _parts(splits)]


def _parts(splits: Splits) -> list[Split]:
    return [getattr(splits, part) for part in PARTS]


def apart(found: Sequence[set[int]]) -> bool:
    return sum(map(len, found)) == len(set().union(*found))


def test_a_folder_is_divided_by_groups(parts: Path) -> None:
    where = {"normal": str(parts / "ok"), "anomalies": str(parts / "def")}
    found = items(datasets.load("folder", 0, 32, **where, group=str(parts / "parts.csv")), parts)
    assert apart(found) and len(set().union(*found)) == 10 and all(found)
    assert not apart(items(datasets.load("folder", 0, 32, **where), parts))


def test_a_picture_of_two_groups_makes_them_one(parts: Path) -> None:
    path = parts / "parts.csv"
    with path.open("a") as file:
        file.write("".join(f"ok/{4 * i}.png,ok,item {i - 1}\n" for i in range(9, 3, -1)))  # items 3 to 9, a chain
    splits = datasets.load("folder", 0, 32, normal=str(parts / "ok"), group=str(path))
    found = items(splits, parts)
    assert apart(found) and set(range(3, 10)) <= found[0] and len(set().union(*found)) == 10


def test_a_csv_is_divided_by_items(parts: Path) -> None:
    table = (parts / "parts.csv").read_text()
    (parts / "all.csv").write_text(table.replace("group", "item", 1))
    assert apart(items(datasets.load("csv", 0, 32, source=str(parts / "all.csv")), parts))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("ok/7.png,", "ok/77.png,"),
            "names no group for 1 normal pictures, such as .*ok/7.png. Its column file wants",
        ),
        (("file,", "name,"), "parts.csv wants the column file, got name, label, group."),
    ],
)
def test_mistakes_with_groups_are_one_sentence(parts: Path, change: tuple[str, str], said: str) -> None:
    path = parts / "parts.csv"
    path.write_bytes(path.read_bytes().replace(*(text.encode() for text in change), 1))
    with pytest.raises(KkaError, match=f"^folder: .*{said}"):
        datasets.load("folder", 0, 32, normal=str(parts / "ok"), group=str(path))


def test_a_black_picture_is_no_normal_one(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("L", (40, 40)).save(parts / "ok" / "dark.png")
    Image.new("L", (40, 40)).save(parts / "def" / "dark.png")  # as an anomaly it may stay
    where = {"normal": str(parts / "ok"), "anomalies": str(parts / "def")}
    said = "folder: 1 of 48 pictures cannot be used: .*ok/dark.png \\(one shade all over\\)"
    with pytest.raises(KkaError, match=f"^{said}. Mend or remove them"):
        datasets.load("folder", 0, 32, **where)
    splits = datasets.load("folder", 0, 32, **where, unreadable_share=0.1)
    assert sum(Counter(s.labels.tolist())[0] for s in _parts(splits)) == 40
    assert sum(Counter(s.labels.tolist())[1] for s in _parts(splits)) == 7


@pytest.mark.parametrize(("bits", "said"), [(12, "their brightest pixel is 15 of 255"), (16, None)])
def test_twelve_bits_in_sixteen_are_not_taken_for_black(tmp_path: Path, bits: int, said: str | None) -> None:
    for i, pixels in enumerate(photographs(30, np.random.default_rng(0))[..., 0]):
        Image.fromarray((pixels.astype(np.uint16) * 257) >> (16 - bits)).save(tmp_path / f"{i}.png")
    if said is None:
        assert len(datasets.load("folder", 0, 32, normal=str(tmp_path)).train) == 30 - 4 - 3 - 4
        return
    with pytest.raises(KkaError, match=f"^folder: 30 pictures of 16 bits are nearly black, {said}. Does the camera"):
        datasets.load("folder", 0, 32, normal=str(tmp_path))


def test_real_castings_are_divided_by_the_part_that_they_show() -> None:
    folder = Path(os.environ.get("KKA_DATA", ROOT.parent / "shared" / "data")) / "castings"
    if not folder.is_dir():
        pytest.skip(f"the castings are not here: {folder} is no folder")
    splits = datasets.load(
        "folder", 0, 64, normal=str(folder / "ok"), anomalies=str(folder / "def"), group=str(folder / "parts.csv"),
        near_duplicates=0.0,
    )  # fmt: skip
    normals = [int((s.labels == 0).sum()) for s in _parts(splits)]
    assert normals == [397, 99, 66, 99]  # 15, 10 and 15% of 661
