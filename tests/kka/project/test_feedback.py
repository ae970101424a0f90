"""`kka feedback`: verdicts become a part of the data set, once, or one sentence says why not."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from kka.datasets.shared.feedback import read_manifest
from kka.project import presets
from kka.project.cli import app
from tests.conftest import photographs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with ten pictures in its folder `new`."""
    monkeypatch.chdir(tmp_path)
    presets.write("blossom", tmp_path / "params.yaml")
    (tmp_path / "new").mkdir()
    for i, pixels in enumerate(photographs(10, np.random.default_rng(0))):
        Image.fromarray(pixels).save(tmp_path / "new" / f"{i}.PNG")
    return tmp_path


def feedback(folder: Path, *verdicts: str, name: str = "verdict", **files: str) -> Result:
    """Runs the command on a table with a verdict for each picture in turn; `files` are rows behind them."""
    rows = [(f"new/{i}.PNG", "0.5", "0.01", "1", verdict) for i, verdict in enumerate(verdicts)]
    rows += [(file, "0.5", "0.01", "1", verdict) for verdict, file in files.items()]
    with (folder / "scores.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file", "score", "p_value", "alarm", name), *rows])
    return CliRunner().invoke(app, ["feedback", "scores.csv", *([] if name == "verdict" else ["--column", name])])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "feedback").rglob("*") if p.is_file()}


def test_what_was_looked_at_joins_and_the_rest_does_not(here: Path) -> None:
    result = feedback(here, "ok", "defect", "", " OK ", "ok", "ok", "ok", "ok", "ok", "ok")
    assert result.exit_code == 0, result.output
    records = {r.source: r for r in read_manifest(here / "feedback")}
    assert list(records) == [f"new/{i}.PNG" for i in (0, 1, 3, 4, 5, 6, 7, 8, 9)]
    assert [r.verdict for r in records.values()] == ["ok", "defect", *["ok"] * 7]
    for source, record in records.items():
        content = (here / source).read_bytes()
        assert record.sha256 == hashlib.sha256(content).hexdigest()
        assert (here / "feedback" / record.file).read_bytes() == content and record.file.endswith(".png")
    parts = [r.part for r in records.values()]
    assert parts[1] == "validation" and set(parts[:1] + parts[2:]) == {"train", "calibration"}
    assert result.stdout == (
        f"wrote feedback/manifest.csv: 1 defect to validation, {parts.count('calibration')} ok to calibration,"
        f" {parts.count('train')} ok to train; 0 were there already. Keep them with `dvc add feedback/pictures` and"
        " `git add feedback`; `dvc repro` trains with them\n"
    )


def test_twice_is_once_and_what_is_there_stays_where_it_is(here: Path) -> None:
    assert feedback(here, "ok", "defect").exit_code == 0
    before = contents(here)
    again = feedback(here, "ok", "defect", ok="new/0.PNG")  # and one picture in two rows of one verdict
    assert (again.exit_code, contents(here)) == (0, before)
    assert again.stdout == "feedback/manifest.csv: nothing new, 3 pictures were there already\n"
    more = feedback(here, "ok", "defect", "ok")
    assert more.exit_code == 0 and "1 ok to " in more.stdout and "; 2 were there already" in more.stdout
    after = contents(here)
    assert after["feedback/manifest.csv"].startswith(before["feedback/manifest.csv"])
    assert before.keys() < after.keys() and len(after) == len(before) + 1


def test_the_column_may_have_another_name(here: Path) -> None:
    assert feedback(here, "defect", name="says anna").exit_code == 0
    assert [r.verdict for r in read_manifest(here / "feedback")] == ["defect"]


def test_one_picture_under_two_names_is_one(here: Path) -> None:
    (here / "copy.png").write_bytes((here / "new" / "0.PNG").read_bytes())
    result = feedback(here, "ok", ok="copy.png")
    assert result.exit_code == 0 and [r.source for r in read_manifest(here / "feedback")] == ["new/0.PNG"]
    assert "; 1 were there already" in result.stdout


@pytest.mark.parametrize(
    ("verdicts", "files", "said"),
    [
        (["ok", "okay"], {}, "line 3: verdict wants ok or defect, got 'okay'. Did you mean 'ok'?"),
        (["ok"], {"ok": "new/11.png"}, "line 3: there is no picture new/11.png. Its path is relative to "),
        (["ok"], {"defect": "new"}, "line 3: there is no picture new. "),
        (["ok"], {"defect": "params.yaml"}, "line 3: params.yaml cannot be read as a picture: "),
        (
            ["ok", "ok"],
            {"defect": "new/0.PNG"},
            "line 4: new/0.PNG is defect, but the same picture is ok in scores.csv, line 2. Mend the one",
        ),
        (["", " "], {}, "scores.csv has nothing in its column verdict. Write ok or defect there."),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(
    here: Path, verdicts: list[str], files: dict[str, str], said: str
) -> None:
    result = feedback(here, *verdicts, **files)
    assert result.exit_code == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("kka: feedback: ") and said in result.stderr
    assert not (here / "feedback").exists()


def test_a_verdict_that_was_changed_is_asked_about(here: Path) -> None:
    assert feedback(here, "ok").exit_code == 0
    before = contents(here)
    result = feedback(here, "defect", "ok")
    assert result.stderr == (
        "kka: feedback: scores.csv, line 2: new/0.PNG is defect, but the same picture is ok in feedback/manifest.csv."
        " Mend the one that is wrong.\n"
    )
    assert contents(here) == before


def test_a_table_that_is_none_or_lacks_the_column_is_refused(here: Path) -> None:
    result = CliRunner().invoke(app, ["feedback", "scores.csv"])
    assert result.stderr == (
        "kka: feedback: wanted a csv file as `kka predict` writes it, got scores.csv, which is none.\n"
    )
    result = feedback(here, "ok", name="Verdict")
    assert result.exit_code == 0  # by its own name
    (here / "scores.csv").write_text("file,score\nnew/0.PNG,0.5\n")
    result = CliRunner().invoke(app, ["feedback", "scores.csv"])
    assert result.stderr == (
        "kka: feedback: scores.csv wants the column verdict, got file, score. Write ok or defect for each picture that"
        " was looked at; --column names another column.\n"
    )
