"""The guard around a stage: what it is given, what it leaves behind, and how a user's mistake ends it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kka.errors import KkaError
from kka.project import presets
from pipelines.stage import Run, link_ignored, make_run
from tests.pipelines.conftest import ROOT, tiny


def ends(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A stage as DVC starts it, in a folder with its own params.yaml."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_run_knows_its_round_and_its_previous_one(tmp_path: Path) -> None:
    config = tiny(rounds={"r1": {"prev": "r0"}, "r2": {"prev": "r1"}})
    assert [(r.round, r.previous) for r in (make_run(config, tmp_path, a) for a in ([], ["r1"], ["r2", "r1"]))] == [
        ("r0", "r0"),
        ("r1", "r0"),
        ("r2", "r1"),
    ]
    with pytest.raises(KkaError, match="rounds has no 'r9'. It knows: r0, r1, r2"):
        make_run(config, tmp_path, ["r9", "r8"])
    with pytest.raises(KkaError, match="rounds.r2 continues r1, but the stage was asked to continue r0"):
        make_run(config, tmp_path, ["r2", "r0"])


def test_seeds_differ_by_stage_round_item_and_base(run: Run) -> None:
    other = make_run(tiny(seed=1), run.root, ["r1"])
    zero = make_run(run.config, run.root, [])
    assert (
        len(
            {
                run.seed("describe"),
                run.seed("detect"),
                run.seed("describe", 0),
                zero.seed("describe"),
                other.seed("describe"),
            }
        )
        == 5
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count: 200", "cuont: 200", "describe has the unknown key 'cuont'. Did you mean 'count'?"),
        ("{prev: r0}", "{prev: r7}", "rounds.r1: prev wants r0 or another round (r1, r2, r3), got 'r7'"),
        ("  r1: {prev: r0}", "  1: {prev: r0}", "rounds wants names as keys, got the number 1"),
        ("dataset: blossom", "dataset: blosom", "kka/datasets has no 'blosom'. Did you mean 'blossom'?"),
    ],
)
def test_a_mistake_in_params_ends_the_stage_with_its_sentence_alone(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    result = ends(tmp_path, "pipelines.prepare")
    assert result.returncode == 1
    assert all(line.startswith("kka: ") for line in result.stderr.splitlines())
    assert said in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_stage_without_its_records_says_which_one_to_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    result = ends(tmp_path, "pipelines.report", "r3")
    assert result.returncode == 1
    assert (
        result.stderr.startswith("kka: ")
        and "is missing. Run the stage that writes it, or `dvc repro`." in result.stderr
    )


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["prepare"], "import runpy; runpy.run_module('pipelines.prepare', run_name='__main__')"),
        (["kka", "data", "check"], "from kka.project.cli import main; main()"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    tmp_path: Path, argv: list[str], code: str
) -> None:
    """A limit on the size of files stands for the disk: from the kernel comes the same kind of error."""
    presets.write("blossom", tmp_path / "params.yaml")
    (tmp_path / "kka").symlink_to(ROOT / "kka")
    limited = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); sys.argv = {argv!r}; {code}"
    )
    told = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1 and "no space left to write to" in told.stderr.splitlines()[-1], told.stderr
    assert "Traceback" not in told.stderr
    assert not list(tmp_path.glob("data/splits/*")) and not (tmp_path / "data-check.png").exists()


def test_a_temporary_copy_is_linked_with_what_it_lacks_and_nothing_else(tmp_path: Path) -> None:
    project = tmp_path / "a" / "b" / "c" / "d" / "e" / "project"
    copy, data = project / ".dvc" / "tmp" / "exps" / "standalone" / "one", project.parent / "data"
    for folder in (project / "models" / "own", project / "kka", copy / "kka", data, tmp_path / "far"):
        folder.mkdir(parents=True)
    (project / "features.py").touch()
    options = {"normal": "../data", "anomalies": "../../../../../../far", "captions": "absent.json"}
    backbone = {"backbone": "features.py:make", "layers": ["kka", 1]}
    config = tiny(describe__model="models/own", prepare__options=options, detect__options=backbone)
    for _ in range(2):
        link_ignored(config, copy, project)
    links = {p for p in tmp_path.rglob("*") if p.is_symlink()}
    assert links == {copy / "models" / "own", copy / "features.py", copy.parent / "data"}
    assert (copy / "../data").resolve() == data and (copy / "models/own").is_dir()
    link_ignored(config, project, project)
    assert links == {p for p in tmp_path.rglob("*") if p.is_symlink()}
