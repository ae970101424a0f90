"""The data sets on files, each from a small fixture in its official form on disk."""

import json
import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from kka import datasets
from kka.datasets import ucm
from kka.datasets.shared.files import first_ones
from kka.errors import KkaError
from kka.records import Split, Splits, sha256
from tests.conftest import ROOT, cached, photographs

Write = Callable[[str, int], list[Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes n different pictures to a folder, 0.png and so on."""
    rng = np.random.default_rng(0)

    def pictures(folder: str, n: int) -> list[Path]:
        made = []
        for i, pixels in enumerate(photographs(n, rng)):
            path = tmp_path / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            made.append(path)
        return made

    return pictures


def load(name: str, seed: int = 0, **options: Any) -> Splits:
    return datasets.load(name, seed, 32, **{k: str(v) if isinstance(v, Path) else v for k, v in options.items()})


def parts(splits: Splits) -> dict[str, Split]:
    return {name: getattr(splits, name) for name in ("train", "calibration", "validation", "test")}


def counts(splits: Splits) -> list[tuple[int, int]]:
    """Normals and anomalies of each part."""
    return [(int((s.labels == 0).sum()), int((s.labels == 1).sum())) for s in parts(splits).values()]


def assert_apart(splits: Splits) -> None:
    for one, other in combinations(parts(splits).values(), 2):
        assert not {sha256(i) for i in one.images} & {sha256(i) for i in other.images}


def test_a_folder_of_normals_is_divided(tmp_path: Path, write: Write) -> None:
    write("good", 40)
    splits = load("folder", normal=tmp_path / "good", caption="a photo of a gear")
    assert counts(splits) == [(24, 0), (6, 0), (4, 0), (6, 0)]  # 15%, 10%, 15%
    assert set(splits.train.captions) == {"a photo of a gear"}
    assert_apart(splits)
    again, other = load("folder", normal=tmp_path / "good"), load("folder", 1, normal=tmp_path / "good")
    assert np.array_equal(again.train.images, splits.train.images) and not np.array_equal(
        other.train.images, splits.train.images
    )


def test_what_the_crop_cuts_is_said_and_squeezed_nothing_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good").mkdir()
    for i, pixels in enumerate(photographs(40, np.random.default_rng(0))):
        wide = np.zeros((32, 64, 3), np.uint8)
        wide[:, 16:48] = np.asarray(Image.fromarray(pixels).resize((32, 32)))
        wide[:, 48:] = 255
        Image.fromarray(wide).save(tmp_path / "good" / f"{i}.png")
    cut = load("folder", normal=tmp_path / "good")
    assert "the square in the middle leaves out 50% of the pictures: prepare.options.squeeze keeps" in caplog.text
    caplog.clear()
    whole = load("folder", normal=tmp_path / "good", squeeze=True)
    assert "leaves out" not in caplog.text
    assert (whole.train.images[:, :, 26:] > 240).all() and not (cut.train.images[:, :, 26:] > 240).all()


def test_anomalies_go_to_validation_and_test_and_keep_their_groups(tmp_path: Path, write: Write) -> None:
    write("good", 40), write("good/bad/scratch", 10), write("good/bad/dent", 5), write("good/bad", 5)
    splits = load("folder", normal=tmp_path / "good", anomalies=tmp_path / "good" / "bad")
    assert counts(splits) == [(24, 0), (6, 0), (4, 8), (6, 12)]  # a group's 10 / (10 + 15)
    assert Counter(splits.test.groups) == {"normal": 6, "scratch": 6, "dent": 3, "anomaly": 3}
    assert_apart(splits)


FORMATS: dict[str, Callable[[Image.Image, Path], None]] = {
    "grey.png": lambda i, p: i.convert("L").save(p),
    "alpha.png": lambda i, p: i.convert("RGBA").save(p),
    "palette.png": lambda i, p: i.quantize(256).save(p),
    "deep.png": lambda i, p: Image.fromarray(np.asarray(i.convert("L")).astype(np.uint16) * 257).save(p),
    "deep.tif": lambda i, p: Image.fromarray(np.asarray(i.convert("L")).astype(np.uint16) * 257).save(p),
    "photo.JPG": lambda i, p: i.save(p, quality=95),
    "cmyk.jpg": lambda i, p: i.convert("CMYK").save(p),
    "wide.webp": lambda i, p: i.resize((64, 48)).save(p, lossless=True),
    "bitmap.bmp": lambda i, p: i.save(p),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_common_format_is_read(tmp_path: Path, write: Write, name: str) -> None:
    write("good", 20)
    pixels = photographs(1, np.random.default_rng(1))[0]
    FORMATS[name](Image.fromarray(pixels), tmp_path / "good" / name)
    found = load("folder", normal=tmp_path / "good")
    assert sum(n for n, _ in counts(found)) == 21
    grey = pixels.astype(float) @ [0.299, 0.587, 0.114]
    everything = np.concatenate([s.images for s in parts(found).values()]).astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(everything - grey).mean((1, 2)).min() < (30 if name == "wide.webp" else 6)


def test_unreadable_pictures_are_named_and_too_many_stop(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    good = write("good", 40)
    good[3].write_bytes(good[3].read_bytes()[:60])
    (tmp_path / "good" / "notes.jpg").write_text("no picture")
    sentence = "folder: 2 of 41 pictures cannot be used: .*3.png \\(.*\\), .*notes.jpg"
    with pytest.raises(KkaError, match=sentence + ".*or raise prepare.options.unreadable_share \\(0.01\\)"):
        load("folder", normal=tmp_path / "good")
    with caplog.at_level(logging.WARNING):
        assert sum(n for n, _ in counts(load("folder", normal=tmp_path / "good", unreadable_share=0.1))) == 39
    assert any("2 of 41 pictures cannot be used" in m for m in caplog.messages)


def test_repeats_are_left_out_so_that_none_straddles(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    good = write("good", 40)
    for i in range(10):
        picture = Image.open(good[i])
        picture.save(tmp_path / "good" / f"copy {i}.bmp")  # the same pixels
        picture.save(tmp_path / "good" / f"again {i}.jpg", quality=95, subsampling=0)  # nearly
    with caplog.at_level(logging.WARNING):
        splits = load("folder", normal=tmp_path / "good")
    assert sum(n for n, _ in counts(splits)) == 40
    assert caplog.messages == ["folder: left out 10 equal and 10 nearly equal of 60 pictures"]
    assert sum(n for n, _ in counts(load("folder", normal=tmp_path / "good", near_duplicates=0.0))) == 50


def test_near_duplicates_by_their_distance() -> None:
    """One grey level up and down on alternate pixels of 16x16 is a root mean square of 1."""
    base = np.full((1, 16, 16, 3), 100, np.uint8)
    shifted = base.copy()
    shifted[:, ::2] += 1
    shifted[:, 1::2] -= 1
    split = Split(np.concatenate([base, shifted, base + 40]), ("",) * 3, np.zeros(3, np.int64), ("",) * 3)
    paths = [Path(str(i)) for i in range(3)]
    assert first_ones("folder", split, paths, 1.0).tolist() == [0, 2]
    assert first_ones("folder", split, paths, 0.99).tolist() == [0, 1, 2]
    other = Split(split.images, split.captions, np.array([0, 1, 0]), split.groups)
    assert first_ones("folder", other, paths, 1.0).tolist() == [0, 1, 2]  # a small defect is no repeat


def test_a_fixed_camera_is_told_what_to_do(tmp_path: Path) -> None:
    rng, base = np.random.default_rng(0), photographs(1, np.random.default_rng(1))[0]
    for i in range(30):
        noisy = (base.astype(int) + rng.integers(-1, 2, base.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"{i}.png")
    with pytest.raises(
        KkaError,
        match="29 of 30 pictures look like another one, as with a fixed camera. Lower .*near_duplicates \\(1.0\\)",
    ):
        load("folder", normal=tmp_path)
    assert sum(n for n, _ in counts(load("folder", normal=tmp_path, near_duplicates=0.0))) == 30


def csv_captions(folder: Path, names: Sequence[str]) -> Path:
    rows = "".join(f"{n},gear {n[:-4]}\n{n},a second look\n" for n in names)
    (folder / "captions.csv").write_text("file,caption\n" + rows)
    return folder / "captions.csv"


def json_captions(folder: Path, names: Sequence[str]) -> Path:
    (folder / "captions.json").write_text(json.dumps({n: [f"gear {n[:-4]}", "a second look"] for n in names}))
    return folder / "captions.json"


def list_captions(folder: Path, names: Sequence[str]) -> Path:
    rows = [{"file": f"good/{n}", "captions": [f"gear {n[:-4]}", "a second look ."]} for n in names]
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder / "captions.json"


def text_captions(folder: Path, names: Sequence[str]) -> Path:
    (folder / "texts").mkdir()
    for n in names:
        (folder / "texts" / f"{n[:-4]}.txt").write_text(f"gear {n[:-4]}\n\n  a second look \n", encoding="utf-8-sig")
    return folder / "texts"


@pytest.mark.parametrize("form", [csv_captions, json_captions, list_captions, text_captions])
def test_captions_come_in_four_forms(tmp_path: Path, write: Write, form: Callable[[Path, Sequence[str]], Path]) -> None:
    names = [p.name for p in write("good", 20)]
    if form is list_captions:
        (tmp_path / "root").mkdir()
        (tmp_path / "good").rename(tmp_path / "root" / "good")
    splits = load(
        "folder", normal=tmp_path / ("root" if form is list_captions else "good"), captions=form(tmp_path, names)
    )
    said = [line for s in parts(splits).values() for c in s.captions for line in [c.replace("look.", "look")]]
    assert sorted(said) == sorted(f"gear {i}\na second look" for i in range(20))


def test_a_caption_is_of_one_picture(tmp_path: Path, write: Write) -> None:
    write("good", 20), write("bad", 1), write("bad/hole", 1)
    where = {
        "normal": tmp_path / "good",
        "anomalies": tmp_path / "bad",
        "captions": tmp_path / "captions.csv",
        "validation": 0.0,
    }
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{i}.png,a gear\n" for i in range(20)))
    with pytest.raises(
        KkaError, match="captions .* has '0.png', which is .*good/0.png and another one. Write 'good/0.png'."
    ):
        load("folder", **where)
    (tmp_path / "captions.csv").write_text(
        "file,caption\nbad/0.png,a rusty gear\n" + "".join(f"good/{i}.png,a gear\n" for i in range(20))
    )
    splits = load("folder", **where)
    assert {c for s in parts(splits).values() for c, label in zip(s.captions, s.labels, strict=True) if not label} == {
        "a gear"
    }
    assert sorted(c for c, label in zip(splits.test.captions, splits.test.labels, strict=True) if label) == [
        "a photo of a part",
        "a rusty gear",
    ]


def test_rows_of_a_json_and_lines_of_a_cell_are_kept(tmp_path: Path, write: Write) -> None:
    names = [p.name for p in write("good", 20)]
    rows = [{"file": n, "caption": said} for n in names for said in ("a gear", "a wheel")]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    (tmp_path / "captions.csv").write_text("file, caption\n" + "".join(f'{n}, "a gear\na wheel"\n' for n in names))
    for name in ("captions.json", "captions.csv"):
        assert set(load("folder", normal=tmp_path / "good", captions=tmp_path / name).train.captions) == {
            "a gear\na wheel"
        }


def test_a_label_by_another_name_is_not_passed_over(tmp_path: Path, write: Write) -> None:
    rows = [f"good/{p.name},0" for p in write("good", 40)] + [f"bad/{p.name},1" for p in write("bad", 10)]
    (tmp_path / "all.csv").write_text("\n".join(["file,Label", *rows]))
    with pytest.raises(
        KkaError,
        match="^csv: .*all.csv has the unknown column 'Label'. Did you mean 'label'\\? Rename it or leave it out.",
    ):
        load("csv", source=tmp_path / "all.csv")
    (tmp_path / "all.csv").write_text("\n".join(["file , label", *rows]))
    assert sum(n for _, n in counts(load("csv", source=tmp_path / "all.csv"))) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normal": "nowhere"}, "folder: normal wants a folder, got nowhere, which is no such folder."),
        ({"normal": "empty"}, "folder: empty wants pictures \\(png, jpg, .*\\), got none."),
        ({"normal": "few"}, "folder: wanted at least 20 normal pictures, got 19."),
        ({"anomalies": "good/0.png"}, "folder: anomalies wants a folder, got good/0.png, which is a file."),
        (
            {"captions": "absent.csv"},
            "folder: captions wants a .csv, a .json or a folder of .txt files, got absent.csv",
        ),
        (
            {"captions": "one.csv"},
            "folder: captions one.csv has none for good/1.png, by its path below good, or by its name",
        ),
        ({"anomalies": "good"}, "folder: normal, good, is or lies in anomalies, good. Give the anomalies"),
        (
            {"normal": "good", "anomalies": "."},
            "folder: normal, good, is or lies in anomalies, \\.. Give the anomalies",
        ),
        ({"captions": "spare.csv"}, "folder: captions spare.csv has 1 for pictures that are not there: 99.png."),
        ({"captions": "head.csv"}, "folder: head.csv wants the column caption, got file, text."),
        ({"captions": "cells.csv"}, "folder: cells.csv, line 2: wanted 2 cells, got more or fewer."),
        ({"captions": "blank.csv"}, "folder: captions blank.csv has empty ones: 0.png."),
        ({"captions": "broken.json"}, "folder: captions broken.json wants {file: caption} .* got no JSON"),
        (
            {"captions": "odd.json"},
            "folder: captions odd.json wants .* each caption a string or a list of strings, got others.",
        ),
        ({"captions": "latin.csv"}, "latin.csv: wanted UTF-8 text, got other bytes."),
        ({"test": 0.9}, "folder: calibration, validation and test leave no normals to train with."),
        ({"test": 1.5}, "the data set 'folder': test wants less than or equal to 1, got 1.5."),
        ({"anomalies": "both"}, "folder: both/0.png and good/0.png are one picture, normal and anomalous."),
    ],
)
def test_mistakes_with_a_folder_are_one_sentence(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    good = write("good", 20)
    write("few", 19)
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "0.png").write_bytes(good[0].read_bytes())
    texts = {
        "one.csv": "file,caption\n0.png,a gear\n", "head.csv": "file,text\n", "cells.csv": "file,caption\n0.png\n",
        "spare.csv": "file,caption\n" + "".join(f"{i}.png,a gear\n" for i in [*range(20), 99]),
        "blank.csv": "file,caption\n0.png,\n", "broken.json": "{", "odd.json": '{"0.png": 5}',
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.csv").write_bytes("file,caption\n0.png,Geh\xe4use\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KkaError, match=f"^{said}"):
        load("folder", **{"normal": "good", **options})


def test_a_csv_says_which_split_label_and_group(tmp_path: Path, write: Write) -> None:
    write("p", 12)
    rows = [f"p/{i}.png,{part},{label},{group}" for i, (part, label, group) in enumerate(
        [("train", "0", "")] * 3 + [("calibration", "good", "")] * 2 + [("validation", "normal", "")]
        + [("validation", "1", "dent")]
        + [("test", "ok", "")] * 2 + [("test", "defect", "dent"), ("test", "bad", ""), ("test", "anomaly", "hole")]
    )]  # fmt: skip
    (tmp_path / "all.csv").write_text("file,part,label,group\n" + "\n".join(rows) + "\n")
    splits = load("csv", source=tmp_path / "all.csv")
    assert counts(splits) == [(3, 0), (2, 0), (1, 1), (2, 3)]
    assert Counter(splits.test.groups) == {"normal": 2, "dent": 1, "anomaly": 1, "hole": 1}
    (tmp_path / "p" / "0.png").write_bytes(
        (tmp_path / "p" / "7.png").read_bytes()
    )  # a training picture that is tested too
    assert counts(load("csv", source=tmp_path / "all.csv")) == [(2, 0), (2, 0), (1, 1), (2, 3)]


def test_a_csv_without_parts_is_divided(tmp_path: Path, write: Write) -> None:
    write("p", 30)
    rows = "".join(f"p/{i}.png,{'a gear' if i else ''}\np/{i}.png,{'a wheel' if i else ''}\n" for i in range(30))
    (tmp_path / "all.csv").write_text("file,caption\n" + rows)
    splits = load("csv", source=tmp_path / "all.csv", caption="a part")
    assert sum(n for n, _ in counts(splits)) == 30
    assert Counter(c for s in parts(splits).values() for c in s.captions) == {"a gear\na wheel": 29, "a part": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\n0.png\n", "all.csv wants the column file, got name."),
        ("file,label\np/0.png,maybe\n", "all.csv, line 2: label wants one of 0, normal, .*, got 'maybe'."),
        ("file,part\np/0.png,tset\n", "all.csv, line 2: part wants train, .*, got 'tset'. Did you mean 'test'\\?"),
        ("file,part\np/0.png,test\np/1.png,\n", "all.csv: every picture wants a part, or none; p/1.png has none."),
        (
            "file,label\np/0.png,0\np/0.png,1\n",
            "all.csv, line 3: p/0.png stands there twice, with another label, group or part.",
        ),
        ("file\np/77.png\n", "there is no picture .*p/77.png."),
    ],
)
def test_mistakes_in_a_csv_name_their_line(tmp_path: Path, write: Write, text: str, said: str) -> None:
    write("p", 2)
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(KkaError, match=f"^csv: (.*/)?{said}"):
        load("csv", source=tmp_path / "all.csv")


@pytest.fixture
def bottles(tmp_path: Path, write: Write) -> Path:
    write("bottle/train/good", 30), write("bottle/test/good", 10)
    write("bottle/test/crack", 10), write("bottle/test/dirt", 5), write("bottle/ground_truth/crack", 10)
    return tmp_path


def test_mvtec_keeps_its_own_test_split(bottles: Path) -> None:
    splits = load("mvtec", source=bottles, category="bottle")
    assert counts(splits) == [
        (24, 0),
        (6, 0),
        (2, 3),
        (8, 12),
    ]  # a fifth of train/good; a fifth of each group of the test
    assert Counter(splits.test.groups) == {"good": 8, "crack": 8, "dirt": 4}
    assert set(splits.train.captions) == {"a photo of a bottle"}
    assert_apart(splits)
    official = load("mvtec", source=bottles, category="bottle", validation=0.0)
    assert counts(official) == [(21, 0), (6, 0), (3, 0), (10, 15)]


def test_mvtec_trains_on_nothing_that_is_tested(bottles: Path) -> None:
    trained, tested = bottles / "bottle/train/good/0.png", bottles / "bottle/test/good/0.png"
    trained.write_bytes(tested.read_bytes())
    splits = load("mvtec", source=bottles, category="bottle")
    assert sum(n for n, _ in counts(splits)) == 39 and len(splits.validation) + len(splits.test) == 25
    assert_apart(splits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"category": "botle"}, "mvtec: .* has no category 'botle'. Did you mean 'bottle'\\?"),
        ({"category": "bottle/train"}, "mvtec: .*train/test wants a folder good, ok or normal, got none."),
        ({"category": None}, "the data set 'mvtec': category wants a valid string, got None."),
    ],
)
def test_mistakes_with_mvtec_are_one_sentence(bottles: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(KkaError, match=f"^{said}"):
        load("mvtec", source=bottles, **options)


@pytest.fixture
def land(tmp_path: Path) -> Path:
    """UC Merced's class folders with tif files, 30 of each normal class and 4 of the others."""
    rng = np.random.default_rng(0)
    for name in ucm.CLASSES:
        n = 30 if name in ("storagetanks", "tenniscourt") else 4
        for i, pixels in enumerate(photographs(n, rng)):
            path = tmp_path / "Images" / name / f"{name}{i:02d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "Images"


def test_ucm_reads_its_own_captions_by_number(land: Path, tmp_path: Path) -> None:
    """The official json counts pictures 1.tif to 2100.tif, class after class."""
    rows = [
        {"filename": f"{100 * c + i + 1}.tif", "sentences": [{"raw": f"{name} {i} ."}, {"raw": "seen from above ."}]}
        for c, name in enumerate(ucm.CLASSES)
        for i in range(100)
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": rows, "dataset": "UCM"}))
    splits = load("ucm", source=land, captions=tmp_path / "dataset.json")
    assert counts(splits) == [(36, 0), (9, 0), (6, 19 * 2), (9, 19 * 2)]  # 4 * 10 / 25 is 1.6, so two of four
    for split in parts(splits).values():
        for group, caption in zip(split.groups, split.captions, strict=True):
            assert caption.startswith(f"{group} ") and caption.endswith(".\nseen from above.")
    assert set(splits.train.groups) == {"storagetanks", "tenniscourt"}
    assert_apart(splits)


def test_ucm_reads_the_real_captions(land: Path) -> None:
    source = ROOT.parent / "shared" / "data" / "ucm_captions.json"
    if not source.is_file():
        pytest.skip(f"the real captions are not here: there is no {source}")
    splits = load("ucm", source=land, captions=source)
    assert all(len(c.splitlines()) == 5 for c in splits.train.captions)
    assert any("tennis court" in c for c in splits.train.captions)
    assert all(
        "tank" in c for c, g in zip(splits.train.captions, splits.train.groups, strict=True) if g == "storagetanks"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"normal": ["tenniscour"]},
            "ucm: .* has no class folder 'tenniscour' for normal. Did you mean 'tenniscourt'\\?",
        ),
        ({"normal": list(ucm.CLASSES)}, "ucm: normal holds every class folder of"),
        (
            {"captions": "nowhere.json"},
            "ucm: captions wants the json of UCM-Captions, got nowhere.json, which is no file.",
        ),
        ({"captions": __file__}, "ucm: captions .*test_files.py wants {images: .*, got others"),
    ],
)
def test_mistakes_with_ucm_are_one_sentence(land: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(KkaError, match=f"^{said}"):
        load("ucm", source=land, **options)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Oxford 102's own files, 60 pictures of species 26 and 3 of each of nine others, and their captions."""
    rng = np.random.default_rng(0)
    labels = [26] * 60 + [s for s in range(1, 10) for _ in range(3)]
    (tmp_path / "jpg").mkdir()
    for i, (pixels, label) in enumerate(zip(photographs(len(labels), rng), labels, strict=True), start=1):
        Image.fromarray(pixels).save(tmp_path / "jpg" / f"image_{i:05d}.jpg", quality=95)
        text = tmp_path / "text_c10" / f"class_{label:05d}" / f"image_{i:05d}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"flower {i} of species {label}\nit has petals\n")
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    ids = np.arange(1, len(labels) + 1)
    savemat(tmp_path / "setid.mat", {"trnid": [ids[:10]], "valid": [ids[10:30]], "tstid": [ids[30:]]})
    return tmp_path


def test_oxford102_reads_its_own_files(flowers: Path) -> None:
    splits = load("oxford102", source=flowers, captions=flowers / "text_c10")
    assert counts(splits) == [(36, 0), (9, 0), (6, 9), (9, 18)]
    assert set(splits.train.groups) == {"species 26"} and "species 9" in splits.test.groups
    assert all(c.startswith("flower ") and c.endswith("of species 26\nit has petals") for c in splits.train.captions)
    assert_apart(splits)
    official = load("oxford102", source=flowers, protocol="official", validation=0.0)
    assert counts(official) == [(23, 0), (4, 0), (3, 0), (30, 27)]  # 15% of 30, and a tenth
    assert set(official.train.captions) == {"a photo of a flower"}


def test_oxford102_comes_from_the_hub(flowers: Path, hub_cache: Path) -> None:
    labels = [26] * 60 + [s for s in range(1, 10) for _ in range(3)]
    pictures = [{"bytes": p.read_bytes(), "path": None} for p in sorted((flowers / "jpg").iterdir())]
    place = cached(hub_cache, "someone/flowers") / "data" / "train-00000-of-00001.parquet"
    place.parent.mkdir()
    pq.write_table(pa.table({"image": pictures, "label": [n - 1 for n in labels]}), place)
    found, folder = load("oxford102", source="someone/flowers"), load("oxford102", source=flowers)
    for name, split in parts(found).items():
        assert np.array_equal(split.images, parts(folder)[name].images) and split.groups == parts(folder)[name].groups
    named = [str(n) for n in sorted(range(1, 103), key=str)]  # as a folder of a class each sorts
    about = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": named}}}}).encode()}
    own = [{"bytes": p["bytes"], "path": f"image_{i:05d}.jpg"} for i, p in enumerate(pictures, start=1)]
    table = pa.table({"image": own, "label": [named.index(str(n)) for n in labels]}).replace_schema_metadata(about)
    pq.write_table(table.take(list(range(len(own)))[::-1]), place)
    found = load("oxford102", source="someone/flowers", captions=flowers / "text_c10")
    assert counts(found) == counts(folder) and all(
        c.startswith("flower ") and "species 26" in c for c in found.train.captions
    )
    pq.write_table(pa.table({"image": pictures, "label": labels}).slice(0, 0), place)
    with pytest.raises(KkaError, match="^oxford102: "):
        load("oxford102", source="someone/flowers")
    pq.write_table(pa.table({"image": pictures, "label": ["tulip"] * len(labels)}), place)
    with pytest.raises(KkaError, match="^oxford102: someone/flowers wants labels from 0 to 101, got 'tulip'"):
        load("oxford102", source="someone/flowers")


def test_captions_that_say_nothing_are_refused(flowers: Path, land: Path, tmp_path: Path) -> None:
    next((flowers / "text_c10").rglob("*.txt")).write_text(" \n")
    with pytest.raises(KkaError, match="^oxford102: captions .* says nothing in image_"):
        load("oxford102", source=flowers, captions=flowers / "text_c10")
    rows = [{"ucm_file": f"{p.stem}.tif", "captions": []} for p in land.rglob("*.*")]
    (tmp_path / "empty.json").write_text(json.dumps(rows))
    with pytest.raises(KkaError, match="^ucm: captions has none for "):
        load("ucm", source=land, captions=tmp_path / "empty.json")


def test_oxford102_reads_the_packed_photographs(flowers: Path) -> None:
    unpacked = load("oxford102", source=flowers)
    with tarfile.open(flowers / "102flowers.tgz", "w:gz") as packed:
        packed.add(flowers / "jpg", "jpg")
    for path in (flowers / "jpg").iterdir():
        path.unlink()
    (flowers / "jpg").rmdir()
    packed_ones = load("oxford102", source=flowers)
    for name, split in parts(packed_ones).items():
        assert np.array_equal(
            np.sort(split.images.reshape(len(split), -1), 0),
            np.sort(parts(unpacked)[name].images.reshape(len(split), -1), 0),
        )
    content = (flowers / "102flowers.tgz").read_bytes()
    (flowers / "102flowers.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(KkaError, match="oxford102: .*102flowers.tgz cannot be unpacked"):
        load("oxford102", source=flowers)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normal": [0]}, "oxford102: normal wants species from 1 to 102, got 0."),
        (
            {"source": "nowhere"},
            "oxford102: source wants a folder or a Hugging Face id, got 'nowhere', which is neither.",
        ),
        ({"captions": "."}, None),
        ({"protocol": "offical"}, "the data set 'oxford102': protocol wants 'random' or 'official', got 'offical'."),
    ],
)
def test_mistakes_with_oxford102_are_one_sentence(flowers: Path, options: dict[str, Any], said: str | None) -> None:
    with pytest.raises(KkaError, match=f"^{said or 'oxford102: captions . has no image_00001.txt'}"):
        load("oxford102", **{"source": flowers, **options})


def test_oxford102_names_the_file_that_is_missing(flowers: Path) -> None:
    (flowers / "imagelabels.mat").write_text("no matlab")
    with pytest.raises(KkaError, match="imagelabels.mat wants 'labels', got"):
        load("oxford102", source=flowers)
    (flowers / "imagelabels.mat").unlink()
    with pytest.raises(KkaError, match="wants imagelabels.mat, got no such file"):
        load("oxford102", source=flowers)
