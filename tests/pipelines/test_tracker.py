"""The runs of MLflow: named by what differs, found by whoever comes second, and with the figures that people compare
by."""

import hashlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from kka.errors import KkaError
from kka.project import presets
from kka.project.config import Config, with_values
from kka.records import write_json
from pipelines.track import bring_all
from pipelines.tracking import database
from pipelines.tracking.database import connect
from pipelines.tracking.live import End, Head, Measurement, Reader, SpoolFile, recording
from pipelines.tracking.provenance import _cache, _restore, _states, provenance_of, replay
from pipelines.tracking.reconcile import Costs, RoundRecord, bring_up_to_date, headline
from pipelines.tracking.runs import HEADLINE, Tracker, title
from tests.conftest import ROOT
from tests.pipelines.conftest import tiny


def blossom(**changes: Any) -> Config:
    return with_values(presets.config("blossom"), {path.replace("__", "."): value for path, value in changes.items()})


def test_a_parent_is_named_by_what_differs_from_the_nearest_preset() -> None:
    assert title(blossom()) == "blossom"
    assert title(blossom(align__beta=0.5, seed=3)) == "blossom, beta=0.5, seed=3"
    # enabled, temperature and the like would be clear; end alone would not
    assert title(blossom(detect__hard_proportion__end=0.9)) == "blossom, hard_proportion.end=0.9"
    assert title(tiny()).count("=") == 4 and "more" in title(tiny())
    assert title(tiny(synthesize__controls=4)) != title(tiny())


ZERO = RoundRecord(
    "r0",
    {"evaluate": {"auroc": 0.90, "fpr95": 0.4, "false_positive_rate": 0.05, "groups": {"far": 0.95, "near": 0.8}}},
    {},
    30.0,
)
ONE = RoundRecord(
    "r1",
    {
        "evaluate": {
            "auroc": 0.92,
            "fpr95": 0.3,
            "recall": 0.7,
            "aupro": 0.6,
            "pixel_auroc": 0.95,
            "false_positive_rate": 0.06,
            "groups": {"far": 0.96, "near": 0.85},
            "controls_auroc": 0.5,
        },
        "describe": {"attempts": 200, "kept": 150, "readable": 0.99, "distinct": 0.9},
        "assess": {"hard_rate": 0.2, "hard_rate_r0": 0.3, "hopeless_rate": 0.1},
        "detect": {"images": 150},
    },
    {},
    40.0,
)


def test_a_headline_holds_what_rounds_are_compared_by() -> None:
    points = headline(ONE, ZERO, 1, 40.0)
    assert [name for name, _, _ in points] == list(HEADLINE.values())
    found = {name: value for name, value, step in points if step == 1}
    assert found == pytest.approx(
        {
            "auroc": 0.92,
            "auroc_hardest": 0.85,
            "fpr95": 0.3,
            "recall": 0.7,
            "aupro": 0.6,
            "pixel_auroc": 0.95,
            "false_alarms": 0.06,
            "gap": 0.5,
            "hard_rate": 0.2,
            "hard_rate_r0": 0.3,
            "hopeless_rate": 0.1,
            "readable": 0.99,
            "distinct": 0.9,
            "refused": 50 / 200,
            "images": 150,
            "seconds": 40,
            "images_per_point": 150 / 2,
            "seconds_per_point": 40 / 2,
        }
    )


def test_a_gain_within_the_interval_has_no_price() -> None:
    unsure = RoundRecord("r1", ONE.figures | {"evaluate": ONE.figures["evaluate"] | {"auroc_low": 0.899}}, {}, None)
    assert "images_per_point" not in {name for name, _, _ in headline(unsure, ZERO, 1, 40.0)}
    sure = RoundRecord("r1", ONE.figures | {"evaluate": ONE.figures["evaluate"] | {"auroc_low": 0.901}}, {}, None)
    assert ("images_per_point", 75.0, 1) in headline(sure, ZERO, 1, 40.0)


def test_what_was_not_gained_or_is_not_known_is_no_figure() -> None:
    worse = RoundRecord("r1", ONE.figures | {"evaluate": ONE.figures["evaluate"] | {"auroc": 0.89}}, {}, None)
    names = {name for name, _, _ in headline(worse, ZERO, 1, None)}
    assert "images_per_point" not in names and not names & {"seconds", "seconds_per_point"} and "auroc" in names
    blind = RoundRecord("r0", {"evaluate": {"false_positive_rate": 0.05, "groups": {}}}, {}, None)
    assert [name for name, _, _ in headline(blind, blind, 0, None)] == ["false_alarms", "images"]


def test_what_a_stage_cost_is_known_wherever_its_outs_are(tmp_path: Path) -> None:
    told = {"seconds/detect": 4.0, "megabytes/detect": 300.0}
    costs = Costs(tmp_path)
    assert costs.of("detect@r1", {"a": "1"}, {}) == {}
    assert costs.of("detect@r1", {"a": "1"}, told) == {"seconds": 4.0, "megabytes": 300.0}
    costs.write()
    again = Costs(tmp_path)
    assert again.of("detect@r1", {"a": "1"}, {}) == {"seconds": 4.0, "megabytes": 300.0}
    assert again.of("detect@r1", {"a": "2"}, {}) == {}
    assert again.of("detect@r2", {"a": "1"}, {}) == {}


def test_a_parent_shows_one_curve_and_branches_stay_with_their_rounds(tmp_path: Path) -> None:
    rounds = {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}, "b2": {"prev": "r1"}}
    tracker = Tracker(tmp_path, blossom(rounds=rounds, last="r2"))
    assert [tracker.leads(name) for name in ("r0", "r1", "r2", "b2", "r1")] == [True, True, True, False, True]


def test_odd_names_of_groups_are_figures_all_the_same(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, blossom())
    points = [(f"evaluate/groups/{name}", 0.5, 0) for name in ("a:b", "a?b", "..", "x//y", "end/", "Kratzer ä")]
    for _ in range(2):
        tracker.record(tracker.parent, points)
    found = tracker.client.get_run(tracker.parent).data.metrics
    assert len(found) == 5 and all(len(tracker.client.get_metric_history(tracker.parent, key)) == 1 for key in found)


WRITERS = """
import os, sys
from pathlib import Path
import mlflow
from kka.project.config import read_config
from pipelines.tracking.runs import Tracker

def write(home, config, number):
    for tracker in (Tracker(home, config), Tracker(home, config.model_copy(update={"seed": number}))):
        for name in ("r0", "r1", "r2"):
            points = [(f"figure/{number}", number, step) for step in range(5)] + [("common", 1.5, 0)]
            tracker.record(tracker.round(name), points)

home = Path(sys.argv[1])
config = read_config(home.parent / "params.yaml")
children = []
for number in range(8):
    child = os.fork()  # a process of its own, which need not import MLflow anew
    if not child:
        try:
            write(home, config, number)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_eight_writers_at_once_lose_no_run_and_double_none(tmp_path: Path) -> None:
    """From the very first moment, when there is no database."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"seed": 100}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(tmp_path / "mlruns")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    client, experiment = connect(tmp_path / "mlruns")
    found = client.search_runs([experiment], max_results=1000)
    keys = [(run.data.tags["kka.lineage"], run.data.tags["kka.chain"]) for run in found]
    assert (
        len(keys) == len(set(keys)) == 9 * 4
    )  # eight lineages of their own and the common one: a parent and three rounds each
    (round_one,) = [r for r in found if r.data.params["seed"] == "100" and r.data.tags["kka.chain"] == "r0/r1"]
    for i in range(8):
        history = client.get_metric_history(round_one.info.run_id, f"figure/{i}")
        assert sorted((m.step, m.value) for m in history) == [(step, float(i)) for step in range(5)]


def in_a_process(code: str, home: Path, word: str = "", path: str = "") -> str:
    """What code prints in a process that knows nothing of this one's databases; `path` comes first among its folders of
    packages."""
    head = (
        "import sys; from pathlib import Path; from pipelines.tracking.database import connect;"
        " home, word = Path(sys.argv[1]), sys.argv[2]\n"
    )
    words = [sys.executable, "-c", head + code, str(home), word]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_of_two_machines_that_create_a_run_one_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Tracker(tmp_path, blossom())
    known = first.parent
    second = Tracker(tmp_path, blossom())
    seen = iter([None])  # what the second knew before the first had written
    find = second._find
    monkeypatch.setattr(second, "_find", lambda chain: next(seen, find(chain)))
    assert second.parent == known
    assert [r.info.run_id for r in first.client.search_runs([first.experiment])] == [known]


FILLED = """
import mlflow
client, experiment = connect(home)
run = client.create_run(experiment).info.run_id
client.log_text(run, "of the run", "text.txt")
model = client.create_logged_model(experiment, name="model", source_run_id=run)
(home / "model").mkdir()
(home / "model" / "text.txt").write_text("of the model")
client.log_model_artifacts(model.model_id, str(home / "model"))
client.finalize_logged_model(model.model_id, "READY")
mlflow.set_tracking_uri(client.tracking_uri)
client.create_registered_model("detectors")
client.create_model_version("detectors", f"models:/{model.model_id}", run, model_id=model.model_id)
print(mlflow.__version__, run)
"""
READ = """
import mlflow, sqlite3
client, experiment = connect(home)
mlflow.set_tracking_uri(client.tracking_uri)
print(Path(client.download_artifacts(word, "text.txt")).read_text())
print(Path(mlflow.artifacts.download_artifacts("models:/detectors/1"), "text.txt").read_text())
client.log_text(word, "and more", "more.txt")
print(client.get_experiment(experiment).artifact_location)
database = sqlite3.connect(home / "mlflow.db")
for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
    for row in database.execute(f"SELECT * FROM {table}").fetchall():
        print(*[f"{table}: {cell}" for cell in row if "a_b" in str(cell)], sep="\\n", end="")
"""


def check_move(folder: Path, path: str = "") -> str:
    """Moves a project, after which artifacts of runs and models are found and no cell names the old folder. Gives the
    version of MLflow."""
    before, after = folder / "a_b", folder / "elsewhere"
    version, run = in_a_process(FILLED, before / "mlruns", path=path).split()
    shutil.move(before, after)
    artifacts = (after / "mlruns" / "artifacts").as_uri()
    found = in_a_process(READ, after / "mlruns", run, path=path)
    assert found.strip() == f"of the run\nof the model\n{artifacts}", version
    assert not before.exists() and list((after / "mlruns").rglob("more.txt"))
    return version


def test_after_a_move_artifacts_are_found_where_they_are_now(tmp_path: Path) -> None:
    check_move(tmp_path)


@pytest.mark.slow
def test_a_move_succeeds_with_each_mlflow_that_the_range_allows(tmp_path: Path) -> None:
    """For moving writes to MLflow's own tables, which it may change with any version."""
    from packaging.requirements import Requirement

    pip = [sys.executable, "-m", "pip"]
    listed = subprocess.run([*pip, "index", "versions", "mlflow"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"no package index: {listed.stderr[-200:]}")
    known = listed.stdout.partition("Available versions:")[2].split("\n")[0].replace(",", " ").split()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = next(r for line in needed if (r := Requirement(line)).name == "mlflow").specifier
    versions = list(allowed.filter(known))
    assert versions
    for version in versions:
        packages = [f"{name}=={version}" for name in ("mlflow", "mlflow-skinny", "mlflow-tracing")]
        place = tmp_path / version
        subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(place / "site"), *packages], check=True)
        assert check_move(place, path=str(place / "site")) == version


def test_of_a_place_that_another_mlflow_has_not_a_line_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(tmp_path / "a" / "mlruns")
    monkeypatch.setattr(database, "PLACES", (*database.PLACES, ("runs", "no_column"), ("no_table", "uri")))
    shutil.move(tmp_path / "a", tmp_path / "b")
    client, experiment = connect(tmp_path / "b" / "mlruns")
    assert client.get_experiment(experiment).artifact_location == (tmp_path / "b" / "mlruns" / "artifacts").as_uri()
    connect(tmp_path / "b" / "mlruns")
    said = capsys.readouterr().err
    assert said.count("this version of MLflow has no runs.no_column, no_table.uri: some artifacts may still") == 1


def test_what_a_removed_database_left_does_not_end_in_the_new_one(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, blossom())
    assert tracker.parent
    (tmp_path / "mlflow.db-wal").touch()
    (tmp_path / "mlflow.db").unlink()
    assert in_a_process("c, e = connect(home); print(len(c.search_runs([e])))", tmp_path) == "0\n"


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(KkaError, match=r"cannot reach MLflow at http://127.0.0.1:9: .*Nothing is lost"):
        connect(tmp_path)


def test_what_goes_wrong_in_mlflow_is_one_sentence_and_a_fault_of_ours_is_a_traceback() -> None:
    app = typer.Typer(cls=database.Commands, pretty_exceptions_enable=False)

    @app.command()
    def wrong(what: str) -> None:
        raise {"mlflow": MlflowException("two\nlines"), "ours": KkaError("a mistake."), "fault": KeyError("x")}[what]

    app.callback()(lambda: None)
    answer = CliRunner().invoke(app, ["wrong", "mlflow"])
    assert (answer.exit_code, answer.stderr.count("\n")) == (1, 1)
    assert answer.stderr.startswith("kka: MLflow says: two lines. Nothing is lost")
    answer = CliRunner().invoke(app, ["wrong", "ours"])
    assert (answer.exit_code, answer.stderr) == (1, "kka: a mistake.\n")
    assert isinstance(CliRunner().invoke(app, ["wrong", "fault"]).exception, KeyError)
    assert CliRunner().invoke(app, ["rong"]).exit_code == 2


def test_a_spool_file_of_another_version_is_set_aside_and_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny().model_dump(mode="json")))
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    home, head = tmp_path / "mlruns", {"stage": "detect", "round": "r1", "system": False}
    (home / "spool").mkdir(parents=True)
    old, torn, good = (home / "spool" / f"{name}.jsonl" for name in ("1-old", "2-torn", "9-good"))
    old.write_text(json.dumps(head | {"config": {"renamed": 1}}) + "\n")
    torn.write_text('{"stage": "det\n')
    message = {"key": "detect/loss", "value": 1.0, "step": 0}
    head |= {"config": tiny().model_dump(mode="json")}
    good.write_text(json.dumps(head) + f"\n{json.dumps(message)}\n")
    others = {
        "3-keys": {"version": 7},
        "4-value": [1],
        "5-round": head | {"round": "r9"},
        "6-message": {"name": "detect/loss"},
        "7-end": {"seconds": 1.0},
    }
    for name, line in others.items():
        lines = [head, line] if name in ("6-message", "7-end") else [line]
        (home / "spool" / f"{name}.jsonl").write_text("".join(f"{json.dumps(part)}\n" for part in lines))
    contents = old.read_text()

    reader = Reader(home, monitors=False)  # as the watcher does, of which nobody reads what it prints
    for _ in range(2):
        assert not reader.drain()
    assert old.read_text() == contents and torn.exists() and not good.exists()

    bring_up_to_date(tmp_path, home)
    bring_up_to_date(tmp_path, home)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kka: ")]
    assert "1-old.refused is of another version" in said[0]
    assert [line.partition(".refused")[0].rpartition("/")[2] for line in said] == ["1-old", "2-torn", *others]
    assert (home / "spool" / "1-old.refused").read_text() == contents
    tracker = Tracker(home, tiny())
    assert tracker.client.get_run(tracker.round("r1")).data.metrics["detect/loss"] == 1.0


def test_what_a_stage_writes_to_the_spool_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are no numbers, too: a loss may be NaN."""
    monkeypatch.setattr("pipelines.tracking.live._start_watcher", lambda folder: None)
    write_json(tmp_path / "metrics" / "r1" / "detect.json", {"images": 3})
    with recording(tmp_path / "mlruns", tiny(), "detect", "r1", tmp_path) as log:
        log("detect/loss", math.nan, 1)
    (path,) = (tmp_path / "mlruns" / "spool").glob("*.jsonl")
    file = SpoolFile(path)
    (loss, end) = file.read()
    assert file.head == Head(stage="detect", round="r1", config=tiny())
    assert isinstance(loss, Measurement) and math.isnan(loss.value) and (loss.key, loss.step) == ("detect/loss", 1)
    assert isinstance(end, End) and end.figures == {"images": 3} and end.seconds >= 0 and end.megabytes > 0


def test_a_round_that_was_just_evaluated_is_on_the_parents_curves_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.live._start_watcher", lambda folder: None)
    write_json(tmp_path / "metrics" / "r1" / "evaluate.json", ONE.figures["evaluate"])
    home = tmp_path / "mlruns"
    with recording(home, tiny(), "evaluate", "r1", tmp_path):
        pass
    Reader(home, monitors=False).drain()
    tracker = Tracker(home, tiny())
    figures = tracker.client.get_run(tracker.parent).data.metrics
    assert figures == {HEADLINE[f"evaluate/{k}"]: v for k, v in ONE.figures["evaluate"].items() if k != "groups"}
    assert tracker.client.get_run(tracker.round("r1")).data.metrics["evaluate/groups/far"] == 0.96


class Repository:
    """A project with a run of round r1, whose detector and test split have MD5s."""

    def __init__(self, folder: Path, detector: str) -> None:
        self.home = folder / "mlruns"
        tracker = Tracker(self.home, blossom())
        self.run = tracker.round("r1")
        tracker.tag(self.run, {"dvc.detector": detector})
        outs = [{"path": "data/r1/detector", "md5": "1" * 32, "hash": "md5"}]
        stages = {"detect@r1": {"cmd": "true", "outs": outs}}
        (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        (folder / "params.yaml").write_text(yaml.safe_dump(blossom().model_dump(mode="json")))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("no repository", "git log says: fatal: not a git repository"),
        ("no program", "git is not installed"),
        ("no objects", "git log says: .*(bad|could not|unable|failed)"),
    ],
)
def test_where_git_fails_nothing_is_said_of_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    project = Repository(tmp_path, "2" * 32)
    if broken == "no objects":
        commit = "git init -q && git add dvc.lock && git -c user.name=n -c user.email=n@example.org commit -qm one"
        subprocess.run(["sh", "-c", f"{commit} && rm -rf .git/objects/??"], check=True)
    if broken == "no program":
        monkeypatch.setenv("PATH", "")
    with pytest.raises(KkaError, match=reason):
        provenance_of(project.home, project.run)
    with pytest.raises(KkaError, match=reason):
        replay(project.home)
    # what dvc.lock names comes back without git, and so does `kka track` after the database was removed
    kept = Repository(tmp_path, "1" * 32)
    lines = provenance_of(kept.home, kept.run).splitlines()
    assert "  dvc checkout" in lines and re.search("is not known. track: .*git", lines[-1])
    monkeypatch.setattr("pipelines.track.bring_up_to_date", lambda root, home: None)
    (kept.home / "mlflow.db").unlink()
    bring_all()
    assert re.search(f"\nkka: MLflow lacks what other commits hold. .*{reason}.*\n$", f"\n{capsys.readouterr().err}")


@pytest.mark.parametrize("uri", ["", "sqlite:///{home}/mlflow.db", "sqlite:///mlruns/mlflow.db"])
def test_a_lost_database_is_replayed_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    """The project's own database is local, whether MLFLOW_TRACKING_URI names it or nothing."""
    monkeypatch.chdir(tmp_path)
    project = Repository(tmp_path, "2" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(home=project.home))
    replayed: list[Path] = []
    monkeypatch.setattr("pipelines.track.replay", replayed.append)
    bring_all()
    assert replayed == []
    (project.home / "mlflow.db").unlink()
    bring_all()
    assert replayed == [project.home] and (project.home / "mlflow.db").exists()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////elsewhere/mlflow.db", "sqlite://"])
def test_a_server_or_a_database_elsewhere_is_not_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert database.server(tmp_path) == uri


def test_the_commit_that_names_all_files_is_found_among_those_that_name_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that removed dvc.lock, or names one file of two, is not it."""
    monkeypatch.chdir(tmp_path)
    project = Repository(tmp_path, "2" * 32)
    Tracker(project.home, blossom()).tag(project.run, {"dvc.adapter": "3" * 32})

    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    commits = {}
    for name, text in {"one": "2" * 32, "both": f"{'2' * 32} ä {'3' * 32}", "gone": None, "none": "stages: {}"}.items():
        Path("dvc.lock").unlink() if text is None else Path("dvc.lock").write_text(text, encoding="utf-8")
        git("add", "-A", "dvc.lock")
        git("commit", "-qm", name)
        commits[name] = git("rev-parse", "HEAD")
    assert f"git commit {commits['both']} names these files" in provenance_of(project.home, project.run)
    assert list(_states()) == []  # none of these commits holds a params.yaml


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC asks its own libraries by old names
def test_what_the_cache_holds_whole_is_restored_from_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder that DVC's configuration names; half a folder is no result."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    Repo.init(no_scm=True).close()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n[cache]\n    dir = ../elsewhere\n")
    names = ("metrics/r1/evaluate.json", "data/r1/detector/a", "data/r1/detector/sub/b", "data/r2/detector/c",
             "data/r2/detector/d", "data/r1/pool.jsonl")  # fmt: skip
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    outs = ["metrics/r1/evaluate.json", "data/r1/detector", "data/r2/detector", "data/r1/pool.jsonl"]
    with Repo() as repo:
        for stage in repo.add(outs):
            stage.dump()
    hashes = {out: yaml.safe_load(Path(f"{out}.dvc").read_text())["outs"][0]["md5"] for out in outs}
    lacking = hashlib.md5(b"data/r2/detector/d").hexdigest()
    next((tmp_path / "elsewhere").rglob(lacking[2:])).unlink()
    root = tmp_path / "restored"
    root.mkdir()
    stages = {"all": {"cmd": "true", "outs": [{"path": out, "md5": md5} for out, md5 in hashes.items()]}}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    _restore(root, _cache())
    found = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}
    found.pop("dvc.lock")
    assert found == {name: name for name in names[:3]}


def test_the_user_interface_shows_the_experiment_that_is_meant(tmp_path: Path) -> None:
    Tracker(tmp_path / "mlruns", blossom())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"MLFLOW_EXPERIMENT_NAME": "another", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "pipelines.track", "ui", "--port", str(port)]
    server = subprocess.Popen(
        words, cwd=tmp_path, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert server.stdout
        address = server.stdout.readline().split()[-1]
        client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
        number = client.get_experiment_by_name("another").experiment_id
        assert number != client.get_experiment_by_name("kka").experiment_id
        wanted = f"http://127.0.0.1:{port}/#/experiments/{number}/runs?workflowType=machine_learning"
        assert address == wanted
        until = time.monotonic() + 90
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    assert answer.read() == b"OK"
                    break
            except OSError:
                assert server.poll() is None
                time.sleep(0.3)
        else:
            pytest.fail("the server did not come up")
    finally:
        os.killpg(server.pid, 9)
        server.communicate()


def test_the_address_on_a_server_is_the_servers() -> None:
    assert database.address("7", "https://mlflow.example.org/").startswith(
        "https://mlflow.example.org/#/experiments/7/"
    )
