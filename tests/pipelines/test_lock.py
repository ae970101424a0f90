"""dvc.lock vouches for what was run with the parameters of now, and for nothing else."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kka.errors import KkaError
from pipelines.tracking.dvc_lock import Lock

PARAMS: dict[str, Any] = {
    "seed": 0,
    "align": {"beta": 0.3},
    "detect": {"options": {"steps": 5}},
    "rounds": {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}},
}


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def stage(
    params: dict[str, Any], deps: dict[str, str], outs: dict[str, str], cmd: str = "python -m pipelines.stage r1 r0"
) -> dict[str, Any]:
    sides = {"deps": deps, "outs": outs}
    return {"cmd": cmd, "params": {"params.yaml": params}} | {
        k: [{"path": p, "md5": md5(v)} for p, v in side.items()] for k, side in sides.items()
    }


def project(root: Path, params: dict[str, Any]) -> Lock:
    """detect@r1 -> align@r1 -> describe@r2, and evaluate@r1 beside them; all but params.yaml as it was when they
    ran."""
    stages = {
        "describe@r2": stage(
            {"seed": 0}, {"data/r1/adapter": "adapter"}, {"metrics/r2/describe.json": "{}"}, "describe r2 r1"
        ),
        "detect@r1": stage({"detect.options": {"steps": 5}}, {"kka/code.py": "code"}, {"data/r1/detector": "detector"}),
        "align@r1": stage({"align": {"beta": 0.3}}, {"data/r1/pool": "pool"}, {"data/r1/adapter": "adapter"}),
        "evaluate@r1": stage(
            {"seed": 0}, {"data/r1/detector": "detector"}, {"metrics/r1/evaluate.json": "{}", "plots/r1/roc.csv": "x"}
        ),
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return Lock.read(root)


def test_everything_is_fresh_under_the_parameters_it_ran_with(tmp_path: Path) -> None:
    assert set(project(tmp_path, PARAMS).stages) == {"describe@r2", "detect@r1", "align@r1", "evaluate@r1"}


@pytest.mark.parametrize(
    ("changes", "fresh"),
    [
        ({"align": {"beta": 0.5}}, {"detect@r1", "evaluate@r1"}),
        ({"detect": {"options": {}}}, {"describe@r2", "align@r1"}),
        ({"seed": 1}, {"detect@r1", "align@r1"}),
        ({"align": None}, {"detect@r1", "evaluate@r1"}),
        ({"rounds": {"r1": {"prev": "r0"}, "r2": {"prev": "r0"}}}, {"detect@r1", "align@r1", "evaluate@r1"}),
    ],
)
def test_a_changed_parameter_makes_all_behind_it_stale(
    tmp_path: Path, changes: dict[str, Any], fresh: set[str]
) -> None:
    assert set(project(tmp_path, PARAMS | changes).stages) == fresh


def test_a_dep_that_its_stage_has_written_anew_since_makes_stale(tmp_path: Path) -> None:
    project(tmp_path, PARAMS)
    text = (tmp_path / "dvc.lock").read_text()
    lock = yaml.safe_load(text)
    lock["stages"]["align@r1"]["outs"][0]["md5"] = md5("another adapter")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert "describe@r2" not in Lock.read(tmp_path).stages


def test_files_are_told_only_where_they_are_what_the_stage_wrote(tmp_path: Path) -> None:
    lock = project(tmp_path, PARAMS)
    assert lock.files("evaluate@r1", "metrics") == []
    path = tmp_path / "metrics" / "r1" / "evaluate.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert lock.files("evaluate@r1", "metrics") == [path]
    path.write_text("{ }")
    assert lock.files("evaluate@r1", "metrics") == lock.files("no such stage", "metrics") == []


def test_hashes_by_stage_and_path(tmp_path: Path) -> None:
    lock = project(tmp_path, PARAMS)
    assert lock.out("align@r1", "data/r1/adapter") == md5("adapter")
    assert lock.out("align@r1", "data/r1/nothing") is lock.out("nothing", "data") is None


def test_without_a_lock_nothing_has_been_run(tmp_path: Path) -> None:
    with pytest.raises(KkaError, match="dvc.lock is missing: nothing has been run yet. Run `dvc repro`."):
        Lock.read(tmp_path)
