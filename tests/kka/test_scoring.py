"""`kka predict`: scores, p-values and alarms of pictures that lie anywhere, from the detector of a round."""

import csv
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
from kka.images import prepare, write_split
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
    assert predict("new/deep", "--maps", "heat", "--fpr", "0.2").exit_code == 0
    (found,) = (here / "heat").iterdir()
    with Image.open(found) as image:
        assert found.name == "00000-odd.png" and image.size == (32, 32)
    project(here, "bce", members=1, steps=5)
    result = predict("new", "--maps", "heat")
    assert (
        result.exit_code == 1
        and result.stderr == "kka: predict: the detector 'bce' has no heat maps. Leave --maps out.\n"
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
