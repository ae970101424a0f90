"""`kka predict`: scores, p-values and alarms of pictures that lie anywhere, from the detector of a round."""

import csv
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from kka import detectors
from kka.images import prepare, read_split, write_split
from kka.project import presets
from kka.project.cli import app
from kka.records import Split
from kka.scoring import Scorer
from tests.conftest import ROOT, photographs


def project(folder: Path, name: str, **options: Any) -> detectors.Detector:
    """A project whose last round's detector is fitted on 40 photographs, with 19 more that set the boundary."""
    presets.write("blossom", folder / "params.yaml", [f"detect.detector={name}"], force=True)
    rng = np.random.default_rng(0)
    normals, boundary = photographs(40, rng), photographs(19, rng)
    split = Split(boundary, ("a part",) * 19, np.zeros(19, np.int64), ("normal",) * 19)
    write_split(folder / "data" / "splits" / "calibration", split)
    made = detectors.create(name, 0, **options).fit(normals, 255 - normals[:10])
    made.save(folder / "data" / "r3" / "detector")
    return made


def predict(*words: str) -> Result:
    return CliRunner().invoke(app, ["predict", *words])


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for i, pixels in enumerate(photographs(3, np.random.default_rng(1))):
        Image.fromarray(pixels).resize((48, 40)).save(tmp_path / "new" / f"{i}.png")
    Image.fromarray(255 - photographs(1, np.random.default_rng(2))[0]).save(tmp_path / "new" / "deep" / "odd.png")
    return tmp_path


def test_a_p_value_counts_the_normals_that_score_at_least_as_high() -> None:
    detector: Any = SimpleNamespace()
    scorer = Scorer(detector, np.array([1.0, 2.0, 2.0, 3.0]), 32, False)
    found = scorer.p_values(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 9.0]))
    assert found.tolist() == [5 / 5, 5 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5]  # and the picture itself


def test_a_share_of_normals_is_a_false_alarm_and_no_more() -> None:
    """Over many draws of 19 calibration normals and a new one, a p-value of at most 0.1 is as rare as it says."""
    rng, detector = np.random.default_rng(0), SimpleNamespace()
    found = [
        Scorer(detector, np.sort(rng.normal(size=19)), 32, False).p_values(rng.normal(size=1))[0] for _ in range(4000)
    ]  # type: ignore[arg-type]
    assert 0.08 < np.mean(np.array(found) <= 0.1) < 0.12


def test_folders_and_files_are_scored_in_order_and_what_is_broken_is_named(here: Path) -> None:
    detector = project(here, "bce", members=1, steps=5)
    (here / "new" / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    (here / "notes.txt").write_text("no picture either")
    result = predict("new", "new/0.png", "notes.txt", "--fpr", "0.5")
    assert result.exit_code == 0, result.output
    rows = table(here / "scores.csv")
    assert [r["file"] for r in rows] == ["new/0.png", "new/1.png", "new/2.png", "new/deep/odd.png"]
    wanted = detector.score(prepare([Image.open(here / r["file"]) for r in rows], 32))
    np.testing.assert_allclose([float(r["score"]) for r in rows], wanted, rtol=1e-4)
    assert [int(r["alarm"]) for r in rows] == [int(float(r["p_value"]) <= 0.5) for r in rows]
    named = [line for line in result.stderr.splitlines() if line.startswith("cannot be read: ")]
    assert [line.split()[3] for line in named] == ["new/broken.jpg", "notes.txt"]
    alone = predict("new/0.png", "--fpr", "0.01")
    assert "no p-value is below 0.0500 with 19 calibration normals, so --fpr 0.01 gives no alarm" in alone.stderr
    alarms = sum(int(r["alarm"]) for r in rows)
    assert result.stdout == f"wrote scores.csv: 4 pictures, {alarms} alarms; 2 could not be read\n"


def test_many_pictures_are_scored_in_order_whichever_thread_is_done_first(tmp_path: Path) -> None:
    """Nine batches, one of them broken as a whole, with a detector that is slowest on the first."""

    class Mean:
        def score(self, images: Any) -> Any:
            time.sleep(0.1 if images[0, 0, 0, 0] < 10 else 0)
            return images.mean((1, 2, 3), dtype=np.float64)

    paths = [tmp_path / f"{i:03d}.png" for i in range(520)]
    for i, path in enumerate(paths):
        Image.new("RGB", (16, 16), (i % 256,) * 3).save(path)
    for path in (broken := [paths[5], *paths[128:192], paths[519]]):
        path.write_bytes(b"nothing")
    detector: Any = Mean()
    scorer, unreadable = Scorer(detector, np.array([1.0]), 16, False), list[str]()
    found = list(scorer.score(paths, unreadable))
    assert [f.path for f in found] == [p for p in paths if p not in broken]
    assert [f.score for f in found] == [int(f.path.stem) % 256 for f in found]
    assert [u.split(" (")[0] for u in unreadable] == [str(p) for p in broken]


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_a_caller_that_stops_early_leaves_torch_as_it_was(tmp_path: Path) -> None:
    """What one thread sets is what every later one begins with."""
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    detector: Any = SimpleNamespace(score=lambda images: images.mean((1, 2, 3), dtype=np.float64))
    next(Scorer(detector, np.array([1.0]), 16, False).score([tmp_path / "0.png"] * 520, []))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("pictures", "fpr", "doubted"), [(41, 0.1, True), (42, 0.1, False), (20, 0.1, False), (41, 0.5, False)]
)
def test_pictures_that_are_mostly_alarms_are_doubted(
    here: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, fpr: float, doubted: bool
) -> None:
    """21 alarms are more than half of 41 pictures and not of 42, and 20 are too few to tell; with --fpr 0.5 half may be
    false."""
    project(here, "bce", members=1, steps=5)
    (here / "other").mkdir()
    for i in range(pictures):
        Image.new("RGB", (32, 32), (i, i, i)).save(here / "other" / f"{i}.png")
    monkeypatch.setattr(Scorer, "p_values", lambda self, scores: np.where(np.arange(len(scores)) < 21, 0.05, 0.9))
    told = predict("other", "--fpr", str(fpr)).stderr
    assert (
        f"21 of {pictures} pictures are alarms: perhaps they are not of the same world as the normal pictures" in told
    ) == doubted


def test_alarms_have_heat_maps_where_the_detector_has_them(here: Path) -> None:
    project(here, "patchcore", backbone=str(ROOT / "kka" / "mini" / "features"))
    assert predict("new/deep", "--maps", "heat", "--regions", "regions.csv", "--fpr", "0.2").exit_code == 0
    (found,) = (here / "heat").iterdir()
    with Image.open(found) as image:  # the picture, and beside it its heat map
        assert found.name == "00000-odd.png" and image.size == (64, 32)
    assert table(here / "regions.csv") and {r["file"] for r in table(here / "regions.csv")} == {"new/deep/odd.png"}
    project(here, "bce", members=1, steps=5)
    for words, told in (
        (["--maps", "heat"], "--maps"),
        (["--maps", "a", "--regions", "b.csv"], "--maps and --regions"),
    ):
        result = predict("new", *words)
        assert (
            result.exit_code == 1
            and result.stderr == f"kka: predict: the detector 'bce' has no heat maps. Leave {told} out.\n"
        )


class Grey:
    """A detector whose map is the grey value, and whose score is the highest."""

    def score(self, images: Any) -> Any:
        return images.max((1, 2, 3)).astype(np.float64)

    def score_map(self, images: Any) -> Any:
        return images[..., 0].astype(np.float64)


@pytest.fixture
def spots(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures of 400x200, one of them with two bright spots, and a detector that sees them; calibration normals
    are no brighter than 100."""
    scorer = Scorer(Grey(), np.linspace(50.0, 100, 99), 50, False, 100.0)  # type: ignore[arg-type]
    monkeypatch.setattr("kka.project.cli._scorer", lambda command, name: scorer)
    (here / "seen").mkdir()
    pixels = np.full((200, 400, 3), 60, np.uint8)
    Image.fromarray(pixels).save(here / "seen" / "clean.png")
    pixels[40:80, 120:160], pixels[160:180, 240:300] = 250, 200
    Image.fromarray(pixels).save(here / "seen" / "spots.png")
    return here


def test_regions_are_boxes_in_the_pixels_of_the_picture(spots: Path) -> None:
    """A pixel of the map is four of the picture, of which the 200 in the middle are seen."""
    assert predict("seen", "--regions", "regions.csv").exit_code == 0
    rows = table(spots / "regions.csv")
    assert list(rows[0]) == ["file", "x", "y", "width", "height", "area", "score"]
    assert [r["file"] for r in rows] == ["seen/spots.png"] * 2
    for row, box in zip(rows, ((120, 40, 40, 40), (240, 160, 60, 20)), strict=True):  # the brighter one first
        assert [int(row[c]) for c in ("x", "y", "width", "height")] == pytest.approx(box, abs=4)
        assert int(row["area"]) == pytest.approx(box[2] * box[3], rel=0.3)
    assert [float(r["score"]) for r in rows] == pytest.approx([250, 200], abs=20)
    assert [r["alarm"] for r in table(spots / "scores.csv")] == ["0", "1"]


def test_regions_as_json_name_every_picture(spots: Path) -> None:
    assert predict("seen", "--regions", "table.csv").exit_code == 0
    assert predict("seen", "--regions", "regions.json").exit_code == 0
    clean, spotted = json.loads((spots / "regions.json").read_text())
    assert clean == {"file": "seen/clean.png", "regions": []} and spotted["file"] == "seen/spots.png"
    as_text = [{k: str(v) for k, v in region.items()} for region in spotted["regions"]]
    assert [{k: v for k, v in row.items() if k != "file"} for row in table(spots / "table.csv")] == as_text


def test_outlines_run_around_the_regions_of_alarms(spots: Path) -> None:
    assert predict("seen", "--maps", "heat").exit_code == 0
    (found,) = (spots / "heat").iterdir()
    pixels = np.asarray(Image.open(found))
    assert found.name == "00000-spots.png" and pixels.shape == (50, 100, 3)
    line = (pixels == (255, 0, 255)).all(2)
    np.testing.assert_array_equal(line[:, :50], line[:, 50:])  # on the picture, and on its heat map
    # 100 pixels of the left are not seen, so the first spot begins at (120 - 100) / 4, 40 / 4
    assert line[9, 5:15].all() and line[10:20, 4].all() and not line[10:20, 5:15].any()
    assert (pixels[12:18, 7:13] > 240).all()


def test_a_map_is_made_of_the_same_look_as_the_score(here: Path) -> None:
    """With maps and without the scores are the same, and the threshold is that of the calibration normals."""
    detector: Any = project(here, "patchcore", backbone=str(ROOT / "kka" / "mini" / "features"))
    assert predict("new").exit_code == 0
    plain = (here / "scores.csv").read_bytes()
    assert predict("new", "--regions", "regions.json").exit_code == 0 and (here / "scores.csv").read_bytes() == plain
    scorer = Scorer.load(here / "data" / "r3" / "detector", here / "data" / "splits" / "calibration")
    maps = detector.score_map(read_split(here / "data" / "splits" / "calibration").images)
    assert scorer.pixel_threshold == pytest.approx(np.quantile(maps.max((1, 2)), 0.95))
    (one,) = scorer.score([here / "new" / "0.png"], [], maps=True)
    np.testing.assert_allclose(one.map, detector.score_map(one.image[None])[0], rtol=1e-6)
    assert one.size == (48, 40)


def test_large_pictures_are_scored_in_small_batches(tmp_path: Path) -> None:
    """At 1024 pixels four of them are as many pixels as 64 pictures of 256."""
    seen: list[int] = []

    class Counting(Grey):
        def score(self, images: Any) -> Any:
            seen.append(len(images))
            return super().score(images)

    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    for side, batches in ((1024, [4, 4, 2]), (256, [10])):
        seen.clear()
        detector: Any = Counting()
        list(Scorer(detector, np.array([1.0]), side, False).score([tmp_path / "0.png"] * 10, []))
        assert sorted(seen, reverse=True) == batches


@pytest.mark.parametrize(("pictures", "change", "warned"), [(60, 0, False), (60, 40, True), (29, 40, False)])
def test_drift_is_told_with_the_test_that_found_it(spots: Path, pictures: int, change: int, warned: bool) -> None:
    (spots / "stream").mkdir()
    for i, grey in enumerate(np.linspace(50, 100, pictures)):
        Image.new("L", (60, 60), int(grey) + change).save(spots / "stream" / f"{i:02d}.png")
    result = predict("stream")
    told = [line for line in result.stderr.splitlines() if line.startswith("drift: ")]
    assert result.exit_code == 0 and bool(told) == warned
    if warned:  # all but a fifth of the normals scores below the darkest picture
        assert told[0].startswith(
            "drift: the p-values of these 60 pictures are not uniform, even if 5% of them are defects"
            " (two-sample Kolmogorov-Smirnov test against 99 calibration normals: distance 0.8"
        )


def test_pictures_are_prepared_as_the_data_set_was(here: Path) -> None:
    detector = project(here, "bce", members=1, steps=5)
    params = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(
        params.replace("  dataset: blossom", "  dataset: folder").replace(
            "options: {} # what", "options: {normal: new, squeeze: true} # what"
        )
    )
    assert predict("new").exit_code == 0
    rows = table(here / "scores.csv")
    wanted = detector.score(prepare([Image.open(here / r["file"]) for r in rows], 32, squeeze=True))
    np.testing.assert_allclose([float(r["score"]) for r in rows], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["new", "--out", "new"], "kka: predict: --out wants a file, got the folder new.\n"),
        (["new", "--maps", "scores.txt"], "kka: predict: --maps wants a folder, got the file scores.txt.\n"),
        (
            ["new", "--regions", "boxes.txt"],
            "kka: predict: --regions wants a file that ends in .csv or .json, got boxes.txt.\n",
        ),
        (["nowhere"], "kka: predict: there is no file or folder nowhere.\n"),
        (["empty"], "kka: predict: the folder empty holds no pictures.\n"),
        (["scores.txt"], "kka: predict: none of 1 files can be read as a picture: scores.txt ("),
        (["new", "--round", "r7"], "kka: predict: params.yaml has no round 'r7'. It has r0, r1, r2, r3.\n"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(here: Path, words: list[str], said: str) -> None:
    project(here, "bce", members=1, steps=5)
    (here / "empty").mkdir()
    (here / "scores.txt").write_text("no picture")
    result = predict(*words)
    assert result.exit_code == 1 and result.stderr.startswith(said) and not (here / "scores.csv").exists()
