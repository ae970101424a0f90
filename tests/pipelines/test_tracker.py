"""The runs of MLflow: named by what differs, found by whoever comes second, and with the figures that people compare
by."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kka.errors import KkaError
from kka.project import presets
from kka.project.config import Config
from pipelines.tracking.database import connect
from pipelines.tracking.reconcile import Costs, RoundRecord, headline
from pipelines.tracking.runs import Tracker, title
from pipelines.tuning.space import changed
from tests.conftest import ROOT
from tests.pipelines.conftest import tiny


def blossom(**changes: Any) -> Config:
    return changed(presets.config("blossom"), {path.replace("__", "."): value for path, value in changes.items()})


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
            "false_positive_rate": 0.06,
            "groups": {"far": 0.96, "near": 0.85},
            "controls_auroc": 0.5,
        },
        "describe": {"attempts": 200, "kept": 150, "readable": 0.99, "distinct": 0.9},
        "assess": {"hard_rate": 0.2, "hard_rate_r0": 0.3},
        "detect": {"images": 150},
    },
    {},
    40.0,
)


def test_a_headline_holds_what_rounds_are_compared_by() -> None:
    found = {name: value for name, value, step in headline(ONE, ZERO, 1, 40.0) if step == 1}
    assert found == pytest.approx(
        {
            "auroc": 0.92,
            "auroc_hardest": 0.85,
            "fpr95": 0.3,
            "false_alarms": 0.06,
            "gap": 0.5,
            "hard_rate": 0.2,
            "hard_rate_r0": 0.3,
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


def in_a_process(code: str, home: Path, word: str = "") -> str:
    """What code prints in a process that knows nothing of this one's databases."""
    head = (
        "import sys; from pathlib import Path; from pipelines.tracking.database import connect;"
        "home, word = Path(sys.argv[1]), sys.argv[2];"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code, str(home), word], cwd=ROOT, capture_output=True, text=True
    )
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


def test_after_a_move_artifacts_are_found_where_they_are_now(tmp_path: Path) -> None:
    before, after = tmp_path / "a_b", tmp_path / "elsewhere"
    tracker = Tracker(before / "mlruns", blossom())
    run = tracker.round("r1")
    tracker.client.log_text(run, "what it said", "said.txt")
    del tracker
    shutil.move(before, after)
    said = in_a_process(
        "c, e = connect(home); print(open(c.download_artifacts(word, 'said.txt')).read(),"
        " c.get_experiment(e).artifact_location);"
        "c.log_text(word, 'and more', 'more.txt')",
        after / "mlruns",
        run,
    )
    assert said == f"what it said {(after / 'mlruns' / 'artifacts').as_uri()}\n"
    assert not before.exists() and list((after / "mlruns").rglob("more.txt"))


def test_what_a_removed_database_left_does_not_end_in_the_new_one(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, blossom())
    assert tracker.parent
    (tmp_path / "mlflow.db-wal").touch()
    (tmp_path / "mlflow.db").unlink()
    assert in_a_process("c, e = connect(home); print(len(c.search_runs([e])))", tmp_path) == "0\n"


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(KkaError, match=r"MLflow at http://127.0.0.1:9 wants to be reached, got: .*Nothing is lost"):
        connect(tmp_path)
