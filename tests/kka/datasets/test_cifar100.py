import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kka import datasets
from kka.datasets import cifar100
from kka.errors import KkaError
from kka.records import Split, Splits, sha256
from tests.conftest import cached

TINY = {"train": 30, "calibration": 10, "validation": 5}


def load(folder: Path, seed: int = 0, **options: object) -> Splits:
    return datasets.load("cifar100", seed, 32, **{"source": str(folder), **TINY, **options})


def hashes(split: Split) -> set[str]:
    return {sha256(image) for image in split.images}


def parts(splits: Splits) -> list[Split]:
    return [splits.train, splits.calibration, splits.validation, splits.test]


def test_classes_stand_in_the_order_of_the_labels() -> None:
    assert len(set(cifar100.CLASSES)) == 100
    assert list(cifar100.CLASSES) == sorted(cifar100.CLASSES)
    assert [cifar100.CLASSES.index(c) for c in cifar100.FURNITURE] == [5, 20, 25, 84, 94]


def test_splits_have_the_asked_sizes_and_labels(cifar100_folder: Path) -> None:
    splits = load(cifar100_folder)
    assert [len(s) for s in parts(splits)] == [30, 10, 10, 10 + 100]
    assert [int(s.labels.sum()) for s in parts(splits)] == [0, 0, 5, 100]
    for split in parts(splits):
        assert split.images.shape[1:] == (32, 32, 3)
        assert [g not in cifar100.FURNITURE for g in split.groups] == split.labels.astype(bool).tolist()


def test_archive_and_anomalies_share_no_class(cifar100_folder: Path) -> None:
    splits, archive = load(cifar100_folder), datasets.archive("cifar100", 32, source=str(cifar100_folder))
    held_out = {g for s in parts(splits) for g, label in zip(s.groups, s.labels, strict=True) if label}
    assert len(set(archive.groups)) == 45
    assert len({g for g, label in zip(splits.test.groups, splits.test.labels, strict=True) if label}) == 50
    assert not held_out & set(archive.groups)
    assert not set(archive.groups) & set(cifar100.FURNITURE)
    assert archive.labels.all()


def test_no_photograph_straddles_two_splits(cifar100_folder: Path) -> None:
    # 240 of 243 training photographs are left: one stood there twice, one in the test file, one under two labels
    splits, archive = load(cifar100_folder), datasets.archive("cifar100", 32, source=str(cifar100_folder))
    for one, other in combinations([*parts(splits), archive], 2):
        assert not hashes(one) & hashes(other)
    for split in (*parts(splits), archive):
        assert len(hashes(split)) == len(split)
    assert len(cifar100._photographs(str(cifar100_folder))[0][0]) == 240


def test_a_seed_gives_the_same_splits_and_another_one_others(cifar100_folder: Path) -> None:
    one, same, other = load(cifar100_folder, 3), load(cifar100_folder, 3), load(cifar100_folder, 4)
    for a, b in zip(parts(one), parts(same), strict=True):
        assert np.array_equal(a.images, b.images) and a.captions == b.captions
    assert hashes(one.train) != hashes(other.train)
    assert hashes(one.test) == hashes(other.test)  # the test file as it is


def test_archive_seed_alone_divides_the_classes() -> None:
    assert cifar100.divide(cifar100.FURNITURE, 45, 0) == cifar100.divide(cifar100.FURNITURE, 45, 0)
    archived, held_out = cifar100.divide(cifar100.FURNITURE, 45, 0)
    assert (len(archived), len(held_out)) == (45, 50)
    assert archived != cifar100.divide(cifar100.FURNITURE, 45, 1)[0]


def test_archive_per_class_is_a_limit(cifar100_folder: Path) -> None:
    archive = datasets.archive("cifar100", 32, source=str(cifar100_folder), archive_per_class=1)
    assert set(Counter(archive.groups).values()) == {1}


def test_captions_name_the_class_in_many_ways() -> None:
    rng = np.random.default_rng(0)
    said = {cifar100.caption("oak_tree", rng) for _ in range(2000)}
    assert len(said) == 60
    assert (
        "a photo of an oak tree" in said
        and "an oak tree in an image" in said
        and "this small picture shows an oak tree" in said
    )
    assert all("an oak tree" in s and "a oak" not in s and "a image" not in s for s in said)


def test_pictures_come_in_the_asked_size(cifar100_folder: Path) -> None:
    assert datasets.load("cifar100", 0, 16, source=str(cifar100_folder), **TINY).train.images.shape == (30, 16, 16, 3)


def test_files_in_the_hubs_own_layout_are_found(cifar100_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar100").mkdir()
    for part in ("train", "test"):
        shutil.copy(cifar100_folder / f"{part}.parquet", tmp_path / "cifar100" / f"{part}-00000-of-00001.parquet")
    assert hashes(load(tmp_path).train) == hashes(load(cifar100_folder).train)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normal": ["bed", "chiar"]}, "cifar100: normal names the unknown class 'chiar'. Did you mean 'chair'?"),
        ({"normal": []}, "wanted at least one normal class"),
        ({"archive_classes": 95}, "archive_classes 95 of 95"),
        ({"train": 100}, "cifar100: wanted 115 and got 50 normal photographs in"),
        ({"validation": 2, "calibration": 1, "train": 1, "archive_classes": 94, "normal": ["bed"]}, None),
        ({"validation": 5, "archive_classes": 94, "train": 1, "calibration": 1}, "lower validation"),
        (
            {"colour": "red"},
            "the data set 'cifar100' has the unknown option 'colour'. It knows: source, normal, train,",
        ),
    ],
)
def test_wrong_options_are_one_sentence(cifar100_folder: Path, options: dict[str, object], said: str | None) -> None:
    if said is None:
        assert len(load(cifar100_folder, **options).validation) == 4
        return
    with pytest.raises(KkaError) as caught:
        load(cifar100_folder, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_source_that_is_neither_folder_nor_id(tmp_path: Path) -> None:
    with pytest.raises(
        KkaError, match="source wants a folder or a Hugging Face id such as uoft-cs/cifar100, got './nowhere'"
    ):
        load(Path("./nowhere"), source="./nowhere")
    with pytest.raises(KkaError, match="wants train.parquet, as Hugging Face writes it"):
        load(tmp_path)


def test_what_the_hub_does_not_have_is_one_sentence(hub_cache: Path) -> None:
    with pytest.raises(
        KkaError, match=r"^cifar100: 'some/where' is no folder .* \(.+\). Go online once, or name a folder .*$"
    ):
        load(Path(), source="some/where")
    cached(hub_cache, "some/where")
    with pytest.raises(KkaError, match=r"^cifar100: 'some/where' .* \(it has no such parquet files\). Go online once"):
        load(Path(), source="some/where")


@pytest.mark.parametrize(
    ("revision", "layout"),
    [("main", "cifar100/{}-00000-of-00001.parquet"), ("refs/convert/parquet", "cifar100/{}/0000.parquet")],
)
def test_the_hub_gives_what_the_folder_gives(
    cifar100_folder: Path, hub_cache: Path, revision: str, layout: str
) -> None:
    if revision != "main":
        cached(hub_cache, "uoft-cs/cifar100")
    snapshot = cached(hub_cache, "uoft-cs/cifar100", revision)
    for part in ("train", "test"):
        place = snapshot / layout.format(part)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(cifar100_folder / f"{part}.parquet", place)
    assert hashes(load(Path(), source="uoft-cs/cifar100").train) == hashes(load(cifar100_folder).train)


def test_only_the_part_that_is_asked_for_is_read(cifar100_folder: Path, hub_cache: Path) -> None:
    place = cached(hub_cache, "uoft-cs/cifar100") / "cifar100"
    place.mkdir()
    for part in ("train", "test"):
        shutil.copy(cifar100_folder / f"{part}.parquet", place / f"{part}-00000-of-00001.parquet")
    (place / "train_more-00000-of-00001.parquet").write_bytes(b"")
    assert hashes(load(Path(), source="uoft-cs/cifar100").train) == hashes(load(cifar100_folder).train)
    (place.parent / "other").mkdir()
    shutil.copy(cifar100_folder / "train.parquet", place.parent / "other")
    with pytest.raises(KkaError, match="^cifar100: 'uoft-cs/cifar100' holds several data sets \\(cifar100, other\\)"):
        load(Path(), source="uoft-cs/cifar100")


def test_broken_files_are_one_sentence(cifar100_folder: Path, tmp_path: Path) -> None:
    shutil.copy(cifar100_folder / "test.parquet", tmp_path)
    whole = (cifar100_folder / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KkaError, match=r"train.parquet: wanted parquet with the columns img and fine_label"):
        load(tmp_path)
    pq.write_table(
        pa.table({"img": [{"bytes": b"no picture", "path": None}], "fine_label": [5]}), tmp_path / "train.parquet"
    )
    with pytest.raises(KkaError, match="row 0 cannot be read as a picture: it is no picture that Pillow knows"):
        load(tmp_path)
    pq.write_table(pa.table({"img": [{"bytes": b"", "path": None}], "fine_label": [100]}), tmp_path / "train.parquet")
    with pytest.raises(KkaError, match="fine_label from 0 to 99"):
        load(tmp_path)
    pq.write_table(pa.table({"image": [1]}), tmp_path / "train.parquet")
    with pytest.raises(KkaError, match="columns img and fine_label"):
        load(tmp_path)


def test_real_photographs(cifar100_data: Path, cifar100_archive: Split) -> None:
    splits = datasets.load("cifar100", 0, 32, source=str(cifar100_data))
    archive = cifar100_archive
    assert [len(s) for s in parts(splits)] == [1500, 500, 600, 5500]
    assert Counter(splits.test.labels.tolist()) == {0: 500, 1: 5000}
    assert 4450 <= len(archive) <= 4500  # a handful stand in the test file too
    for one, other in combinations([*parts(splits)[:3], archive, splits.test], 2):
        assert not hashes(one) & hashes(other)
