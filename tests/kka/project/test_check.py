"""What `kka data check` says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kka import datasets
from kka.project import presets
from kka.project.check import findings, write_sheet
from kka.project.cli import app
from kka.records import Splits
from tests.conftest import photographs


@pytest.fixture(scope="module")
def splits() -> Splits:
    return datasets.load("blossom", 0, 32)


def said(splits: Splits) -> list[str]:
    return [str(finding) for finding in findings(splits)]


def test_a_good_data_set_is_counted_and_not_warned_of(splits: Splits) -> None:
    lines = said(splits)
    assert lines[0].split(maxsplit=2)[2] == "400 normals, 32x32 pixels"
    assert "300 normals, 600 anomalies of 4 groups (distance 1 300, distance 2 100, " in lines[3]
    assert "400 of normals to train with" in lines[4]
    assert all(line.startswith("ok") for line in lines)


def test_what_will_cause_trouble_is_warned_of(splits: Splits) -> None:
    few = replace(splits.train.take(np.arange(40)), captions=("a photo of a part",) * 40)
    normals = splits.test.take(splits.test.labels == 0)
    leak = replace(
        splits, train=few, calibration=splits.calibration.take(np.arange(30)), test=normals, validation=normals
    )
    warned = [line for line in said(leak) if not line.startswith("ok")]
    assert len(warned) == 7
    for words in (
        "distinct ones say little of what is normal", "300 pictures stand in validation and in test", "look nearly"
                                                                                                      " like one of"
                                                                                                      " another",
        "40 normals are few to learn from", "30 normals set the threshold", "validation      holds no real anomalies",
        "test            holds no real anomalies",
    ):  # fmt: skip
        assert any(words in line for line in warned), words


def test_a_picture_that_nearly_stands_elsewhere_is_found(splits: Splits) -> None:
    test = splits.test
    images = test.images.copy()
    images[0] = (splits.train.images[0].astype(int) + 1).clip(0, 255)  # one grey level brighter
    near = replace(splits, test=replace(test, images=images))
    assert [
        line
        for line in said(near)
        if "1 pictures of one split look nearly like" in line and "train and test (1)" in line
    ]


def test_the_sheet_shows_normals_and_each_group(splits: Splits, tmp_path: Path) -> None:
    write_sheet(splits, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 6 * 128 and sheet.width > 8 * 128  # two rows of normals, four of anomalies


def test_the_command_reads_params_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    for i, pixels in enumerate(photographs(40, np.random.default_rng(0))):
        Image.fromarray(pixels).save(tmp_path / "good" / f"{i}.png")
    presets.write("folder", tmp_path / "params.yaml", ["prepare.options.normal=good", "prepare.image_size=32"])
    result = CliRunner().invoke(app, ["data", "check", "--sheet", "look.png"])
    assert result.exit_code == 0 and (tmp_path / "look.png").is_file()
    assert "24 normals, 32x32 pixels" in result.stdout and "wrote look.png: look at it" in result.stdout
    presets.write("folder", tmp_path / "params.yaml", ["prepare.options.normal=god"], force=True)
    result = CliRunner().invoke(app, ["data", "check"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(
        f"kka: folder: normal wants a folder, got god, which is no such folder. Its path is relative to {tmp_path}.\n"
    )
