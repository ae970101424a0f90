"""The graph under DVC and the records in MLflow, on stages that do nothing but write what they should."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.conftest import photographs, png
from tests.pipelines.stubs import STUB, Project, copied


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield Project(tmp_path / "project")


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
    assert (last["tags"]["dvc.anomalies"], last["tags"]["dvc.adapter"]) == (
        hashes["data/r2/anomalies"],
        hashes["data/r2/adapter"],
    )
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
    assert set(plots["data"]) == {
        "AUROC by round",
        "ROC, first and last round",
        "plots/r1/align.csv",
        "plots/r2/align.csv",
    }

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
    kept = {
        "prepare",
        "baseline",
        "evaluate-baseline",
        *(f"{s}@r1" for s in ("describe", "synthesize", "assess", "detect", "evaluate")),
    }
    assert set(project.repro()) == ALL - kept
    assert len(runs := project.runs()) == 8
    for beta in ("0.3", "0.5"):
        check_runs([r for r in runs if r["params"]["align.beta"] == beta], ["r1", "r2"])

    # and back: everything from the run cache
    project.params(align__beta=0.3)
    assert project.repro() == []
    assert len(project.runs()) == 8


def told(runs: list[dict[str, Any]], but: tuple[str, ...] = ()) -> dict[str, Any]:
    """What runs hold, without what is another each time: their ids, and what stages cost; and without the figures
    `but`."""
    return {
        (run["tags"]["kka.lineage"], run["tags"]["kka.chain"]): (
            {k: s for k, s in run["steps"].items() if not k.startswith(("seconds", "megabytes", *but))},
            sorted(run["artifacts"]), sorted(run["inputs"]), run["params"], run["status"],
            {k: v for k, v in run["tags"].items() if k.startswith("dvc.") and k != "dvc.revision"},
        )
        for run in runs
    }  # fmt: skip


def test_after_a_run_there_is_nothing_left_to_tell(stubbed: Project, tmp_path: Path) -> None:
    project = copied(stubbed, tmp_path / "project")
    shutil.rmtree(project.folder / "report")
    project.tool("dvc", "repro", "--force", "--single-item", "report")
    quick = "import sys; from pipelines.track import bring_all; bring_all(); print('mlflow' in sys.modules)"
    assert project.tool(sys.executable, "-c", quick) == "False\n"
    (parent,) = [run for run in project.runs() if not run["parent"]]
    assert sorted(parent["artifacts"]) == ["params.yaml", "report.html"]
    assert (
        "| round |" in parent["tags"]["mlflow.note.content"]
        and "- images: generated" in parent["tags"]["mlflow.note.content"]
    )


def test_reconciliation_killed_at_any_moment_is_made_good_by_the_next(stubbed: Project, tmp_path: Path) -> None:
    wanted, victim = copied(stubbed, tmp_path / "whole").runs(), copied(stubbed, tmp_path / "victim")
    check_runs(wanted, ["r1", "r2"])
    began = time.monotonic()
    victim.tool(sys.executable, "-c", "import pipelines.track, mlflow")
    start = time.monotonic() - began  # what imports take here and now
    for late in (0.2, 0.5, 0.9, 1.4, 2.0, 2.7):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.track"], cwd=victim.folder, stderr=subprocess.DEVNULL
        )
        time.sleep(start + late)
        process.kill()
        process.wait()
    found = victim.runs()
    check_runs(found, ["r1", "r2"])
    assert told(found) == told(wanted)
    assert victim.models() == {"detector-r0": "READY", "detector-r1": "READY", "detector-r2": "READY"}
    assert told(victim.runs()) == told(found)


def track(project: Project, *words: str) -> str:
    return project.tool(sys.executable, "-m", "pipelines.track", *words)


def commands(said: str) -> list[str]:
    """The lines of `kka track show` that are commands."""
    return [line.strip() for line in said.splitlines() if line.startswith(("  git ", "  dvc ")) or " params " in line]


def test_a_run_says_how_its_files_come_back_and_they_do(stubbed: Project, tmp_path: Path) -> None:
    project = copied(stubbed, tmp_path / "project")
    detector = project.folder / "data" / "r2" / "detector" / "file"
    project.params(align__beta=0.3)
    project.commit()
    first, committed = detector.read_text(), project.tool("git", "rev-parse", "HEAD").strip()
    runs = {run["name"]: run["id"] for run in project.runs()}
    said = track(project, "show", "data/r2/detector")
    assert said.startswith(f"round r2 of {next(n for n in runs if n not in ('r0', 'r1', 'r2'))} ({runs['r2']})")
    assert commands(said) == ["dvc checkout"] and "not committed" not in said

    project.params(align__beta=0.5)
    project.repro()
    second = detector.read_text()
    assert second != first
    track(project)
    assert "It is not committed yet" in (other := track(project, "show", "data/r2/detector"))
    number = re.findall(r"\(([0-9a-f]{32})\)", other)[0]
    assert number != runs["r2"] and track(project, "show", number) == other

    # back to the first, which a commit holds
    (command,) = commands(track(project, "show", runs["r2"]))
    assert command == f"git checkout {committed} -- params.yaml dvc.yaml dvc.lock && dvc checkout"
    project.tool("sh", "-c", command)
    assert detector.read_text() == first and project.repro() == []

    # and to the second, which none holds: its parameters, and DVC's run cache
    (command,) = commands(track(project, "show", number))
    assert command.startswith(f"kka track params {number} > old.yaml")
    (project.folder / "params.yaml").write_text(track(project, "params", number))
    assert project.repro() == [] and detector.read_text() == second


def test_a_removed_database_comes_back_with_all_that_git_remembers(stubbed: Project, tmp_path: Path) -> None:
    project = copied(stubbed, tmp_path / "project")
    project.commit()
    project.repro("exp", "run", "-S", "align.beta=0.4")
    project.repro("exp", "run", "--temp", "-S", "align.beta=0.5")
    project.tool("git", "checkout", "--", "params.yaml", "dvc.lock")
    project.tool("dvc", "checkout")
    before = project.runs()
    for name in ("mlflow.db", "reconciled.json"):
        (project.folder / "mlruns" / name).unlink()
    after = project.runs()
    # a detector's training curve is told while it trains, and stands nowhere else
    assert told(after, ("detect/loss",)) == told(before, ("detect/loss",)) and len(after) == 3 * 4
    for beta in ("0.3", "0.4", "0.5"):
        own = [run for run in after if run["params"]["align.beta"] == beta]
        check_runs(own, ["r1", "r2"])
        assert [run["artifacts"] for run in own if not run["parent"]] == [["params.yaml", "report.html"]]
    assert track(project, "all").endswith(": 3\n")


def test_feedback_is_a_versioned_part_of_the_data_set(stubbed: Project, tmp_path: Path) -> None:
    """The stub of `prepare` writes what it did before, so nothing else has to run."""
    project = copied(stubbed, tmp_path / "project")
    assert project.repro() == []
    (project.folder / "pictures").mkdir()
    for i, pixels in enumerate(photographs(4, np.random.default_rng(0))):
        (project.folder / "pictures" / f"{i}.png").write_bytes(png(pixels))
    verdicts = "".join(f"pictures/{i}.png,{'defect' if i == 3 else 'ok'}\n" for i in range(4))
    (project.folder / "scores.csv").write_text(f"file,verdict\n{verdicts}")
    command = (sys.executable, "-c", "from kka.project.cli import main; main()", "feedback", "scores.csv")
    said = project.tool(*command)
    project.tool("dvc", "add", "feedback/pictures")
    project.tool("git", "add", "feedback")
    tracked = project.tool("git", "diff", "--cached", "--name-only").split()
    assert tracked == ["feedback/.gitignore", "feedback/manifest.csv", "feedback/pictures.dvc"]
    assert "`dvc add feedback/pictures` and `git add feedback`" in said
    assert project.repro() == ["prepare"] and project.repro() == []
    project.tool(*command)  # twice is once
    assert project.repro() == []
    shutil.rmtree(project.folder / "feedback" / "pictures")
    project.tool("dvc", "checkout", "feedback/pictures.dvc")
    assert len(list((project.folder / "feedback" / "pictures").iterdir())) == 4


def test_a_run_that_is_not_there_is_one_sentence(stubbed: Project, tmp_path: Path) -> None:
    project = copied(stubbed, tmp_path / "project")
    for wanted, sentence in {
        "0" * 32: "there is no run '000",
        "data/r9/detector": "dvc.lock holds no 'data/r9/detector'",
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.track", "show", wanted],
            cwd=project.folder,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1) and sentence in done.stderr


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


@pytest.mark.slow
def test_a_temporary_experiment_has_the_models_and_pictures_that_git_ignores(project: Project) -> None:
    for name in ("models/own", "pictures/good", "../elsewhere/bad"):
        (project.folder / name).mkdir(parents=True)
    looks = "    for key in ('normal', 'anomalies'): assert Path(run.config.prepare.options[key]).is_dir()\n    name ="
    stub = f"NAME = 'prepare'\n{STUB}".replace("    name =", looks)
    (project.folder / "pipelines" / "prepare.py").write_text(stub)
    project.params(describe__model="models/own", prepare__dataset="folder")
    project.params(prepare__options={"normal": "pictures/good", "anomalies": "../elsewhere/bad"})
    project.commit()
    assert project.repro("exp", "run", "--temp", "prepare", "baseline") == ["prepare", "baseline"]
    assert project.tool("git", "status", "--porcelain") == "" and not (project.folder / "data").exists()
    # linked, not copied, and not into the project
    assert not [path for path in project.folder.rglob("*") if path.is_symlink() and ".dvc" not in path.parts]


def test_integer_round_keys_end_every_stage_instead_of_running_none(project: Project) -> None:
    path = project.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"rounds": {1: {"prev": "r0"}}}))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.prepare"], cwd=project.folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "write r1" in done.stderr


def test_a_stage_that_was_killed_shows_as_failed(project: Project) -> None:
    (project.folder / "pipelines" / "prepare.py").write_text(
        f"NAME = 'prepare'\n{STUB}".replace(
            "    name =", "    run.log('half', 1.0, 0); import time; time.sleep(60)\n    name ="
        )
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
def test_eight_experiments_at_once_lose_no_run_and_double_none(stubbed: Project, tmp_path: Path) -> None:
    project = copied(stubbed, tmp_path / "project")
    project.commit()
    betas = [round(0.31 + 0.01 * i, 2) for i in range(8)]
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_AUTHOR_NAME": "nobody",
        "GIT_COMMITTER_NAME": "nobody",
        "GIT_AUTHOR_EMAIL": "nobody@example.org",
        "GIT_COMMITTER_EMAIL": "nobody@example.org",
    }
    # DVC gives up on its own lock after three seconds, so whoever does not get it comes again
    patient = "for i in $(seq 30); do dvc exp run --temp -S align.beta=$0 && exit 0; sleep 1; done; exit 1"
    started = [
        subprocess.Popen(
            ["sh", "-c", patient, str(beta)],
            cwd=project.folder,
            env=os.environ | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for beta in betas
    ]
    ends = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, ends
    runs = project.runs()
    for run in runs:
        if not run["parent"] and run["params"]["align.beta"] != "0.3":
            assert "report.html" in run["artifacts"] and "| round |" in run["tags"]["mlflow.note.content"]
    for beta in [0.3, *betas]:
        check_runs([r for r in runs if r["params"]["align.beta"] == str(beta)], ["r1", "r2"])
    assert len(runs) == 9 * 4


@pytest.mark.slow
def test_trials_of_a_study_are_experiments(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", stubs=False)
    space = {
        "align.beta": {"low": 0.1, "high": 1.0, "log": True},
        "detect.options.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
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
    assert (
        after["align"]["beta"] != before["align"]["beta"]
        and 1e-4 <= after["detect"]["options"]["learning_rate"] <= 1e-2
    )
    assert (project.folder / "data" / "r1" / "detector").is_dir() and project.repro() == []


@pytest.mark.slow
def test_the_load_of_the_machine_is_told_where_somebody_asks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    stub = f"NAME = 'prepare'\n{STUB}".replace("    name =", "    import time; time.sleep(15)\n    name =")
    (project.folder / "pipelines" / "prepare.py").write_text(stub)
    project.tool(sys.executable, "-m", "pipelines.prepare")
    until = time.monotonic() + 30
    while any((project.folder / "mlruns" / "spool").glob("*.jsonl")) and time.monotonic() < until:
        time.sleep(0.5)  # it is the watcher that measures, while the stage runs
    project.folder.joinpath("dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (run,) = [run for run in project.runs() if run["name"] == "r0"]
    assert len(run["steps"]["system/cpu_utilization_percentage"]) >= 2
