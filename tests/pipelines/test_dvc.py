"""The graph under DVC and the records in MLflow, on stages that do nothing but write what they should."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipelines.conftest import ROOT, tiny

# Each stage writes its outs from the contents of its deps that are data, and from its parameters: so they change as real ones do.
STUB = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
import yaml
from kka.images import write_images
from kka.records import Description, write_records
from pipelines._stage import Run, stage

def main(run: Run) -> None:
    name = "evaluate-baseline" if (NAME, run.round) == ("evaluate", "r0") else NAME
    found = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][name]
    text = json.dumps(found.get("do", found)).replace("${last}", run.config.last)
    mine = json.loads(text.replace("${key}", run.round).replace("${item.prev}", run.previous))
    values = run.config.model_dump(mode="json")
    taken = hashlib.sha256(json.dumps([mine["params"], [values[p.split(".")[0]] for p in mine["params"]]]).encode())
    for dep in mine["deps"]:
        if dep.startswith("data/"):
            for path in sorted(Path(dep).rglob("*")) if Path(dep).is_dir() else [Path(dep)]:
                taken.update(path.read_bytes() if path.is_file() else b"")
    number = int(taken.hexdigest()[:6], 16) / 16**6
    if NAME in ("align", "detect"):
        for step in range(3):
            run.log("align/loss" if NAME == "align" else "detect/loss", number + step, step)
    for kind in ("outs", "metrics", "plots"):
        for out in mine.get(kind, []):
            path = run.path(out if isinstance(out, str) else next(iter(out)))
            if path.name == "report":
                path.mkdir()
                for r in run.config.lineage(run.round):
                    (path / f"{r}.png").write_bytes(b"png" + r.encode())
                (path / "table.md").write_text("| round |")
                (path / "report.html").write_text("<p>page</p>")
            elif path.name == "scores.csv":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("split,label,group,score\\ncalibration,0,normal,0.5\\n")
            elif path.name == "descriptions.jsonl":
                path.parent.mkdir(parents=True, exist_ok=True)
                write_records(path, [Description("00000", f"a flower {number}", "kept", 0.5, -1.0)])
            elif path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = "step,loss,fpr,tpr,round,auroc\\n" + "".join(f"{i}.0{f',{number + i}' * 5}\\n" for i in range(3))
                value = {"figure": number}
                if NAME == "evaluate":
                    value = {"auroc": number, "groups": {"far": number}, "hardest_group": "far", "false_positive_rate": 0.05}
                path.write_text(json.dumps(value) if path.suffix == ".json" else rows if path.suffix == ".csv" else f"{name} {number}\\n")
            else:
                path.mkdir(parents=True)
                (path / "file").write_text(f"{name} {number} {path.name}")
                if path.name == "calibration":
                    write_images(path, np.zeros((1, 16, 16, 3), np.uint8))
                if path.name == "detector":
                    (path / "detector.json").write_text(json.dumps({"detector": "bce", "size": [16, 16], "options": {}}))

if __name__ == "__main__":
    stage(main, torch=False)
"""

READ = """
import json, pathlib
from pipelines.track import main
from pipelines._tracker import connect
main([])
client, experiment = connect(pathlib.Path("mlruns").resolve())
found = []
for run in client.search_runs([experiment]):
    number, data = run.info.run_id, run.data
    found.append({
        "id": number, "name": run.info.run_name, "status": run.info.status, "tags": data.tags, "params": data.params,
        "parent": data.tags.get("mlflow.parentRunId"), "inputs": [i.dataset.digest for i in run.inputs.dataset_inputs],
        "artifacts": [a.path for a in client.list_artifacts(number)],
        "steps": {k: sorted(m.step for m in client.get_metric_history(number, k)) for k in data.metrics},
    })
print(json.dumps(found))
"""


class Project:
    """A clone, its stages stubs (and its models hollow) or the real ones with tiny numbers."""

    def __init__(self, folder: Path, *, stubs: bool = True) -> None:
        self.folder = folder
        for name in ("kka", "pipelines", "presets"):
            left_out = shutil.ignore_patterns("__pycache__", *(["*.safetensors"] if stubs else []))
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder)
        for path in (folder / "pipelines").glob("[!_]*.py") if stubs else ():
            if path.stem not in ("track", "loop", "tune"):
                path.write_text(f"NAME = {path.stem!r}\n{STUB}")
        rounds = {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}
        config = tiny(rounds=rounds, last="r2", align__beta=0.3) if stubs else tiny()
        (folder / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        self.params(describe__model="kka/mini/lm")
        self.tool("git", "init", "-q", "-b", "main")
        self.commit()

    def commit(self) -> None:
        self.tool("git", "add", "--all")
        self.tool("git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "commit", "-qm", "as it is")

    def tool(self, *command: str) -> str:
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.folder.parent / "config"),
            "GIT_AUTHOR_NAME": "nobody", "GIT_AUTHOR_EMAIL": "nobody@example.org",
            "GIT_COMMITTER_NAME": "nobody", "GIT_COMMITTER_EMAIL": "nobody@example.org",
        }  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, env=os.environ | own, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def repro(self, *arguments: str) -> list[str]:
        """Runs `dvc repro` or another command, and says which stages ran."""
        said = self.tool("dvc", *(arguments or ("repro",)))
        return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage '")]

    def params(self, **changes: Any) -> None:
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            section, key = name.split("__")
            values[section][key] = value
        path.write_text(yaml.safe_dump(values))

    def runs(self) -> list[dict[str, Any]]:
        """What MLflow holds after reconciliation: name, status, tags, params, inputs, artifacts, and by name each figure's steps."""
        return list(json.loads(self.tool(sys.executable, "-c", READ)))

    def models(self) -> dict[str, str]:
        """The LoggedModels and their status; fails where two have one name."""
        code = (
            "import json; from pathlib import Path; from pipelines._tracker import connect; c, e = connect(Path('mlruns').resolve());"
            "print(json.dumps([(m.name, m.status.value) for m in c.search_logged_models([e])]))"
        )
        pairs = json.loads(self.tool(sys.executable, "-c", code))
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield Project(tmp_path / "project")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose stages have run, to be copied."""
    made = Project(tmp_path_factory.mktemp("finished") / "project")
    made.repro()
    return made


def copied(project: Project, folder: Path) -> Project:
    """The same project elsewhere, without its MLflow."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("mlruns", "tmp"), symlinks=True)
    made = object.__new__(Project)
    made.folder = folder
    return made


ALL = {"prepare", "baseline", "evaluate-baseline", "report"} | {
    f"{s}@{r}" for r in ("r1", "r2") for s in ("describe", "synthesize", "assess", "detect", "align", "evaluate")
}


def check_runs(runs: list[dict[str, Any]], rounds: list[str]) -> dict[str, dict[str, Any]]:
    """One parent, each round once, no figure twice. Gives the rounds' runs by their names."""
    (parent,) = [r for r in runs if not r["parent"]]
    children = [r for r in runs if r["parent"] == parent["id"]]
    assert sorted(r["name"] for r in children) == sorted(["r0", *rounds]) and len(children) == len(runs) - 1
    assert parent["steps"]["auroc"] == list(range(len(rounds) + 1))
    for run in runs:
        for name, steps in run["steps"].items():
            assert len(set(steps)) == len(steps), f"{run['name']}: {name} doubles"
    return {r["name"]: r for r in children}


def test_the_graph_runs_what_changed_and_mlflow_shows_every_round_once(project: Project) -> None:
    assert set(project.repro()) == ALL
    first = check_runs(project.runs(), ["r1", "r2"])
    last = first["r2"]
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    hashes = {o["path"]: o["md5"] for s in lock.values() for o in s["outs"]}
    assert (last["tags"]["dvc.anomalies"], last["tags"]["dvc.adapter"]) == (hashes["data/r2/anomalies"], hashes["data/r2/adapter"])
    splits = ("train", "calibration", "validation", "test")
    assert set(last["inputs"]) == {hashes["data/r2/anomalies"], *(hashes[f"data/splits/{s}"] for s in splits)}
    shown = ["r2.png", "scores.csv"]
    assert (sorted(last["artifacts"]), last["status"]) == (["descriptions.json", *shown], "FINISHED")
    assert last["params"]["align.beta"] == "0.3" and "rounds" not in last["params"]
    assert last["steps"]["align/loss"] == last["steps"]["detect/loss"] == [0, 1, 2]
    stages = ("describe", "synthesize", "assess", "detect", "align", "evaluate", "report")
    assert {k for k in last["steps"] if k.startswith("seconds/")} == {f"seconds/{s}" for s in stages}
    assert project.tool("git", "status", "--short").split() == ["??", "dvc.lock"]

    assert project.repro() == []
    shown = project.tool("dvc", "metrics", "show").splitlines()
    assert [line.split()[0] for line in shown] == ["Path", "metrics/summary.json"]
    plots = json.loads(project.tool("dvc", "plots", "show", "--json"))
    assert set(plots["data"]) == {"AUROC by round", "ROC, first and last round", "plots/r1/align.csv", "plots/r2/align.csv"}

    # restored from the cache, also where MLflow has forgotten everything
    for name in ("data", "metrics", "plots", "report"):
        shutil.rmtree(project.folder / name)
    (project.folder / "mlruns" / "mlflow.db").unlink()
    assert project.repro() == []
    again = check_runs(project.runs(), ["r1", "r2"])
    assert again["r2"]["id"] != last["id"]
    assert (again["r2"]["steps"]["align/loss"], again["r2"]["artifacts"]) == ([0, 1, 2], last["artifacts"])
    # and what it cost
    assert again["r2"]["steps"]["seconds/detect"] == [0]

    # a DPO parameter: nothing before align@r1, and a lineage of its own
    project.params(align__beta=0.5)
    kept = {"prepare", "baseline", "evaluate-baseline", *(f"{s}@r1" for s in ("describe", "synthesize", "assess", "detect", "evaluate"))}
    assert set(project.repro()) == ALL - kept
    assert len(runs := project.runs()) == 8
    for beta in ("0.3", "0.5"):
        check_runs([r for r in runs if r["params"]["align.beta"] == beta], ["r1", "r2"])

    # and back: everything from the run cache
    project.params(align__beta=0.3)
    assert project.repro() == []
    assert len(project.runs()) == 8


def told(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What runs hold, without what is another each time: their ids, and what stages cost."""
    return {
        run["tags"]["kka.chain"]: (
            {k: s for k, s in run["steps"].items() if not k.startswith(("seconds", "megabytes"))},
            sorted(run["artifacts"]), sorted(run["inputs"]), run["params"], run["status"],
            {k: v for k, v in run["tags"].items() if k.startswith("dvc.") and k != "dvc.revision"},
        )
        for run in runs
    }  # fmt: skip


def test_reconciliation_killed_at_any_moment_is_made_good_by_the_next(finished: Project, tmp_path: Path) -> None:
    wanted, victim = copied(finished, tmp_path / "whole").runs(), copied(finished, tmp_path / "victim")
    check_runs(wanted, ["r1", "r2"])
    began = time.monotonic()
    victim.tool(sys.executable, "-c", "import pipelines._reconcile, pipelines._watch, mlflow")
    start = time.monotonic() - began  # what imports take here and now
    for late in (0.2, 0.5, 0.9, 1.4, 2.0, 2.7):
        process = subprocess.Popen([sys.executable, "-m", "pipelines.track"], cwd=victim.folder, stderr=subprocess.DEVNULL)
        time.sleep(start + late)
        process.kill()
        process.wait()
    found = victim.runs()
    check_runs(found, ["r1", "r2"])
    assert told(found) == told(wanted)
    assert victim.models() == {"detector-r0": "READY", "detector-r1": "READY", "detector-r2": "READY"}
    assert told(victim.runs()) == told(found)


@pytest.mark.slow
def test_the_same_seed_in_two_clones_gives_the_same_lock(tmp_path: Path) -> None:
    locks = []
    for name in ("one", "two"):
        clone = Project(tmp_path / name, stubs=False)
        clone.repro()
        locks.append((clone.folder / "dvc.lock").read_text())
        check_runs(clone.runs(), ["r1"])
    assert locks[0] == locks[1]


@pytest.mark.slow
def test_a_round_is_added_from_the_command_line_and_only_it_runs(project: Project) -> None:
    project.repro()
    project.commit()
    added = {f"{s}@r3" for s in ("describe", "synthesize", "assess", "detect", "align", "evaluate")} | {"report"}
    more = ("exp", "run", "-S", "+rounds.r3.prev=r2", "-S", "last=r3")
    assert set(project.repro(*more, "--temp")) == added
    assert not (project.folder / "data" / "r3").exists()
    # the experiment's folder is gone, but what it measured is in MLflow
    assert {r["name"] for r in project.runs() if r["parent"]} == {"r0", "r1", "r2", "r3"}
    assert set(project.repro(*more)) <= added
    assert (project.folder / "data" / "r3" / "detector").exists()
    check_runs(project.runs(), ["r1", "r2", "r3"])


def test_integer_round_keys_end_every_stage_instead_of_running_none(project: Project) -> None:
    path = project.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"rounds": {1: {"prev": "r0"}}}))
    done = subprocess.run([sys.executable, "-m", "pipelines.prepare"], cwd=project.folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "write r1" in done.stderr


def test_a_stage_that_was_killed_shows_as_failed(project: Project) -> None:
    (project.folder / "pipelines" / "prepare.py").write_text(
        f"NAME = 'prepare'\n{STUB}".replace("    name =", "    run.log('half', 1.0, 0); import time; time.sleep(60)\n    name =")
    )
    stage = subprocess.Popen([sys.executable, "-m", "pipelines.prepare"], cwd=project.folder)
    spool = project.folder / "mlruns" / "spool"
    while not any("half" in p.read_text() for p in spool.glob("*.jsonl")):
        time.sleep(0.05)
    stage.kill()
    stage.wait()
    project.folder.joinpath("dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    status = {r["name"]: r["status"] for r in project.runs()}
    assert status["r0"] == "FAILED"
    assert list(spool.iterdir()) == []


@pytest.mark.slow
def test_eight_experiments_at_once_lose_no_run_and_double_none(finished: Project, tmp_path: Path) -> None:
    project = copied(finished, tmp_path / "project")
    project.commit()
    betas = [round(0.31 + 0.01 * i, 2) for i in range(8)]
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GIT_AUTHOR_NAME": "nobody", "GIT_COMMITTER_NAME": "nobody",
           "GIT_AUTHOR_EMAIL": "nobody@example.org", "GIT_COMMITTER_EMAIL": "nobody@example.org"}  # fmt: skip
    started = [
        subprocess.Popen(["dvc", "exp", "run", "--temp", "-S", f"align.beta={beta}"], cwd=project.folder, env=os.environ | own,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for beta in betas
    ]  # fmt: skip
    ends = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, ends
    runs = project.runs()
    for beta in [0.3, *betas]:
        check_runs([r for r in runs if r["params"]["align.beta"] == str(beta)], ["r1", "r2"])
    assert len(runs) == 9 * 4


@pytest.mark.slow
def test_trials_of_a_study_are_experiments(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", stubs=False)
    space = {"align.beta": {"low": 0.1, "high": 1.0, "log": True}, "detect.options.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    tune = {"trials": 2, "confirm": {"top": 0, "seeds": 2}, "space": space}
    path = project.folder / "params.yaml"
    before = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(before | {"tune": before["tune"] | tune}))
    project.commit()
    said = project.tool(sys.executable, "-m", "pipelines.tune", "--dvc")
    assert "2 trials, 0 of them pruned" in said and project.tool("git", "status", "--porcelain") == ""
    assert {"kka-0", "kka-1"} <= set(project.tool("dvc", "exp", "list", "--name-only").split())
    told = project.tool(sys.executable, "-m", "pipelines.tune", "--dvc", "--apply", "1")
    assert "trial 1, whose figure in the study nobody has confirmed" in told
    after = yaml.safe_load(path.read_text())
    assert after["align"]["beta"] != before["align"]["beta"] and 1e-4 <= after["detect"]["options"]["learning_rate"] <= 1e-2
    assert (project.folder / "data" / "r1" / "detector").is_dir() and project.repro() == []
