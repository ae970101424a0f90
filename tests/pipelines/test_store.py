"""What a stage of the loop need not do again: the marks of one root, and the store that several share."""

import time
from pathlib import Path

import pytest

from kka.images import read_split
from pipelines import loop, prepare
from pipelines.loop import step
from pipelines.stage import Run, make_run
from tests.pipelines.conftest import tiny


def written(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_what_one_root_has_done_another_takes_from_their_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    real = prepare.main
    monkeypatch.setattr(prepare, "main", lambda run: (ran.append(run.root.name), real(run)))
    store = tmp_path / "store"
    one, other = (make_run(tiny(), tmp_path / name, []) for name in ("one", "other"))
    for run in (one, other, one):
        step("prepare", run, store)
    first = written(one.root / "data")
    assert ran == ["one"] and first and written(other.root / "data") == first
    step("prepare", make_run(tiny(seed=1), other.root, []), store)  # writes where links of the first result lie
    assert ran == ["one", "other"] and written(one.root / "data") == first != written(other.root / "data")
    step("prepare", other, store)
    assert ran == ["one", "other"] and written(other.root / "data") == first


def test_a_stage_that_fails_leaves_nothing_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Run) -> None:
        run.root.joinpath("data", "splits", "train").mkdir(parents=True)
        raise RuntimeError

    run = make_run(tiny(), tmp_path / "one", [])
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(prepare, "main", fail)
        step("prepare", run, tmp_path / "store")
    assert not [p for p in (tmp_path / "store").iterdir() if p.suffix != ".lock"]
    step("prepare", run, tmp_path / "store")
    assert len(read_split(run.root.joinpath("data", "splits", "train"))) > 0


GRAPH = """
stages:
  prepare:
    deps: [code, "${prepare.dataset}.py"]
    params: [seed, prepare]
    outs: [data/splits/train, data/splits/calibration, data/splits/validation, data/splits/test]
"""


def graph(folder: Path, **files: str) -> Path:
    """A dvc.yaml with one stage, whose code these files are; __ in a name stands for a slash."""
    for name, text in ({"code__one": "x = 1", "code__two": "y = 2", "blossom": "z = 3"} | files).items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "code" / "__pycache__").mkdir()
    (folder / "code" / "__pycache__" / "one.pyc").write_text(str(folder))
    (folder / "dvc.yaml").write_text(GRAPH)
    return folder / "dvc.yaml"


@pytest.mark.parametrize("stored", [True, False])
def test_a_stage_is_done_again_when_its_code_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """In a file of a folder, and in the file that a template names; not when files are only newer."""
    ran: list[str] = []
    real = prepare.main
    monkeypatch.setattr(prepare, "main", lambda run: (ran.append(code), real(run)))
    run, store = make_run(tiny(), tmp_path / "root", []), tmp_path / "store" if stored else None
    versions: dict[str, dict[str, str]] = {
        "first": {},
        "newer": {},
        "folder": {"code__two": "y = 3"},
        "template": {"blossom": "z = 4"},
        "another": {"other": "z = 5"},
    }
    for code, files in versions.items():
        monkeypatch.setattr(loop, "GRAPH", graph(tmp_path / code, **files))
        step("prepare", run, store)
    monkeypatch.setattr(loop, "GRAPH", tmp_path / "first" / "dvc.yaml")
    code = "first again"
    step("prepare", run, store)
    # "another" has the code of "first", which only a store remembers
    assert ran == (["first", "folder", "template"] if stored else ["first", "folder", "template", "another"])


def test_the_hash_of_code_costs_milliseconds(tmp_path: Path) -> None:
    run = make_run(tiny(), tmp_path, ["r1"])
    stages = ("describe", "synthesize", "assess", "detect", "align", "evaluate")
    keys = [loop._key(stage, run) for stage in stages]
    began = time.perf_counter()
    assert [loop._key(stage, run) for stage in stages] == keys
    assert time.perf_counter() - began < 0.1
