"""Studies: what they may change, how they go on after a kill, whom they call the winner. Trials are of paper but in the
last test."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from kka import detectors, synthesizers
from kka.errors import Collapse, KkaError
from kka.images import read_split
from kka.metrics import auroc
from kka.project.config import Config, with_values
from kka.project.presets import edited
from kka.records import Anomaly, Changes, read_records, sha256
from kka.synthesizers.bank import Synthesizer
from kka.training import fit_over_seeds
from pipelines import detect, tune
from pipelines.stage import make_run
from pipelines.tuning.confirm import (
    DEFAULTS,
    WINNER,
    Confirmed,
    best_trials,
    candidates,
    confirm,
    confirmed,
    jobs,
    study_report,
    winner,
)  # fmt: skip
from pipelines.tuning.mirror import Mirror
from pipelines.tuning.space import check_space, defaults, rounded, suggest
from pipelines.tuning.study import ended_trials, open_study, revive, study_folder, work
from pipelines.tuning.trial import RoundResult, Trials, _failure
from tests.conftest import png
from tests.pipelines.conftest import ROOT, Drawn, tiny

FOR_EVER = 2e9
SPACE = {"align.beta": {"low": 0.1, "high": 1.0, "log": True}, "align.lora.r": {"choices": [4, 8]}}


def config(**changes: Any) -> Config:
    """The tiny project with three rounds of paper, whose synthesizer is found from every folder."""
    rounds = {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}, "r3": {"prev": "r2"}}
    asked = {"tune__space": SPACE, "tune__trials": 6, "tune__confirm": {"top": 2, "seeds": 3}}
    model = {"synthesize__options": {"model": str(ROOT / "kka" / "mini" / "t2i")}}
    found = tiny(**(model | asked | changes))
    return Config.model_validate(
        found.model_dump() | ({"rounds": rounds, "last": "r3"} if "rounds" not in changes else {})
    )


class Paper:
    """Trials whose AUROC is what `value` says of their config and round; one that gives None falls apart."""

    value: Callable[[Config, int], float | None] = staticmethod(lambda found, number: found.align.beta)
    seconds = 0.0

    def __init__(self, found: Config, place: Path) -> None:
        self.config = found

    def seed(self, *items: object) -> int:
        return sum(map(hash, map(str, items))) % 1000 + 1 if items[0] != "confirm" else 100 + int(str(items[1]))

    def rounds(self, found: Config, root: Path) -> Iterator[Any]:
        for number, name in enumerate(found.lineage(found.last), start=1):
            time.sleep(self.seconds)
            value = type(self).value(found, number)
            if value is None:
                raise Collapse(f"align: the adapter of round {name} has fallen apart")
            yield SimpleNamespace(round=name, value=value)

    def judge(self, run: Any) -> RoundResult:
        return RoundResult(run.value, {"readable": 1.0, "distinct": 0.9, "kept": 24.0, "attempts": 30.0})


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> type[Paper]:
    """Puts trials of paper in the place of real ones."""
    made = type("Made", (Paper,), {})
    for module in ("pipelines.tuning.study", "pipelines.tuning.confirm"):
        monkeypatch.setattr(f"{module}.Trials", made)
    return made


def states(study: optuna.Study) -> list[str]:
    return [t.state.name for t in study.trials]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"align.bta": {"low": 0.1, "high": 1}},
            "tune.space: there is no parameter 'align.bta'. Did you mean 'align.beta'?",
        ),
        (
            {"seed": {"low": 0, "high": 9}},
            "tune.space: seed stays as it is in a study, or trials could not be compared.",
        ),
        ({"prepare.image_size": {"choices": [32, 64]}}, "tune.space: prepare.image_size stays as it is in a study"),
        (
            {"align.beta": {"low": 0.0, "high": 1}},
            "tune.space: align.beta cannot be 0.0. params.yaml: align.beta: input should be greater",
        ),
        (
            {"align.beta": {"choices": [0.1, "much"]}},
            "tune.space: align.beta cannot be 'much'. params.yaml: align.beta: input should be a valid",
        ),
        ({"align.steps": {"low": 1.5, "high": 20}}, "tune.space: align.steps is a whole number, got 1.5."),
        (
            {"align.enabled": {"low": 0, "high": 1}},
            "tune.space: align.enabled is True, which has no low and high. Give choices.",
        ),
        (
            {"detectt.options.learning_rate": {"low": 1e-4, "high": 1}},
            "tune.space: there is no parameter 'detectt.options.learning_rate'.",
        ),
        ({"describe.options.x": {"low": 1, "high": 2}}, "tune.space: there is no parameter 'describe.options.x'."),
        (
            {"detect.options.learning_rte": {"low": 1e-4, "high": 1e-2}},
            "tune.space: detect.options.learning_rte cannot be 0.0001. detect:",
        ),
        ({}, "tune.space is empty: name parameters by path"),
    ],
)
def test_a_space_is_checked_before_the_first_trial(space: dict[str, Any], said: str) -> None:
    with pytest.raises(KkaError) as error:
        check_space(config(tune__space=space), ROOT)
    assert str(error.value).startswith(said) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"low": 1.0, "high": 0.1}, "wants low below high, got 1 and 0.1"),
        ({"low": 0.1, "high": float("inf")}, "high: input should be a finite number, got inf"),
        ({"low": 0.1}, "wants low and high, or choices"),
        ({"choices": [1]}, "wants two choices or more"),
        ({"low": 0.0, "high": 1.0, "log": True}, "wants low above 0 and no step on a logarithmic scale"),
    ],
)
def test_a_dimension_is_a_range_or_choices(dimension: dict[str, Any], said: str) -> None:
    with pytest.raises(KkaError, match=f"^params.yaml: tune.space(: align.beta |.align.beta.){said}"):
        config(tune__space={"align.beta": dimension})


def test_options_of_a_detector_and_of_a_synthesizer_may_be_searched() -> None:
    space = {
        "detect.options.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "detect.options.steps": {"low": 10, "high": 30},
    }
    check_space(config(tune__space=space), ROOT)
    found = optuna.create_study().ask()
    values = suggest(found, config(tune__space=space))
    assert isinstance(values["detect.options.steps"], int) and isinstance(values["detect.options.learning_rate"], float)
    made = with_values(config(tune__space=space), {**values, "seed": 7})
    assert made.detect.options["steps"] == values["detect.options.steps"] and made.seed == 7


def test_what_a_trial_runs_with_is_what_a_winner_writes() -> None:
    values = rounded(
        {"align.beta": 0.123456789, "align.learning_rate": 1.00004e-05, "align.steps": 40, "align.lora.r": 4}
    )
    text = (ROOT / "presets" / "blossom.yaml").read_text(encoding="utf-8")
    after = edited(text, values)
    found = yaml.safe_load(after)["align"]
    assert (found["beta"], found["learning_rate"], found["steps"], found["lora"]["r"]) == (0.1235, 1e-5, 40, 4)
    lines = [(a, b) for a, b in zip(text.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(lines) == 4 and all(a.partition(" # ")[2] == b.partition(" # ")[2] for a, b in lines)


def test_a_study_begins_with_params_as_they_are_and_ends_after_its_trials(paper: type[Paper], tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    work(study, config(), tmp_path, FOR_EVER)
    assert len(ended_trials(study)) == 6 and rounded(study.trials[0].params) == defaults(config()) == {
        "align.beta": 0.3,
        "align.lora.r": 8,
    }
    assert all(
        t.values == [pytest.approx(rounded(t.params)["align.beta"])]
        for t in study.trials
        if t.state == TrialState.COMPLETE
    )
    assert study.trials[0].intermediate_values == {1: 0.3, 2: 0.3, 3: 0.3}
    work(study, config(), tmp_path, FOR_EVER)  # a day later: nothing is left to do
    assert len(study.trials) == 6
    more = config(tune__trials=8)
    work(open_study(more, tmp_path), more, tmp_path, FOR_EVER)
    assert len(ended_trials(open_study(more, tmp_path))) == 8


def test_the_same_study_draws_the_same_trials_also_where_it_was_interrupted(paper: type[Paper], tmp_path: Path) -> None:
    for name, steps in (("one", [6]), ("two", [2, 3, 6])):
        for trials in steps:
            asked = config(tune__trials=trials)
            work(open_study(asked, tmp_path / name), asked, tmp_path / name, FOR_EVER)
    found = [[t.params for t in open_study(config(), tmp_path / name).trials] for name in ("one", "two")]
    assert found[0] == found[1]


def test_a_name_belongs_to_one_space_and_one_set_of_parameters(paper: type[Paper], tmp_path: Path) -> None:
    open_study(config(), tmp_path)
    with pytest.raises(
        KkaError, match="^tune.study: 'kka' was begun with describe.count 24 and is now asked to go on with 25. Put it"
    ):
        open_study(config(describe__count=25), tmp_path)
    with pytest.raises(KkaError, match="^tune.study: 'kka' was begun with tune.space.align.beta.high 1.0 and is now"):
        open_study(config(tune__space=SPACE | {"align.beta": {"low": 0.1, "high": 2.0, "log": True}}), tmp_path)
    open_study(config(describe__count=25, tune__study="other"), tmp_path)


def test_a_storage_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KkaError, match="^tune.storage: sqlite:////nowhere/at/all.db cannot be used \\("):
        open_study(config(tune__storage="sqlite:////nowhere/at/all.db"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(KkaError, match="^tune.storage: .*file cannot be used \\("):
        open_study(config(), tmp_path / "file")


def test_a_database_holds_a_study_too(paper: type[Paper], tmp_path: Path) -> None:
    asked = config(tune__storage=f"sqlite:///{tmp_path / 'study.db'}", tune__trials=3)
    work(open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    assert states(open_study(asked, tmp_path)) == ["COMPLETE"] * 3


def test_a_trial_that_lies_behind_is_stopped_between_rounds(paper: type[Paper], tmp_path: Path) -> None:
    asked = config(tune__trials=12, tune__sampler="random")
    paper.value = staticmethod(lambda found, number: found.align.beta * (1 if found.align.beta > 0.25 else 0.1))
    work(study := open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert pruned and all(
        len(t.intermediate_values) < 3 for t in pruned
    )  # after the last round there is nothing to save
    assert all(t.user_attrs["reason"].startswith("behind the median of the others in r") for t in pruned)
    assert "PRUNED" not in states(study)[:5]
    free = config(tune__trials=12, tune__sampler="random", tune__pruner="none")
    work(study := open_study(free, tmp_path / "free"), free, tmp_path / "free", FOR_EVER)
    assert set(states(study)) == {"COMPLETE"}


def test_an_adapter_that_falls_apart_prunes_its_trial_with_the_reason(paper: type[Paper], tmp_path: Path) -> None:
    asked = config(tune__trials=12, tune__sampler="random")
    paper.value = staticmethod(lambda found, number: None if number == 2 and found.align.lora.r == 4 else 0.5)
    work(study := open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    found = {t.params["align.lora.r"]: t for t in study.trials}
    assert found[8].state == TrialState.COMPLETE and found[4].state == TrialState.PRUNED
    assert found[4].user_attrs["reason"] == "align: the adapter of round r2 has fallen apart"
    paper.value = staticmethod(lambda found, number: None)
    work(study := open_study(config(), tmp_path / "ill"), config(), tmp_path / "ill", FOR_EVER)
    with pytest.raises(
        KkaError, match="^tune: of 6 trials none finished. align: the adapter of round r1 has fallen apart"
    ):
        candidates(study, config())


def test_the_best_is_within_its_constraints(
    paper: type[Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(self: Paper, run: Any) -> RoundResult:
        return RoundResult(run.value, {"readable": 0.4 if run.value > 0.6 else 1.0, "distinct": 1.0, "kept": 24.0})

    monkeypatch.setattr(paper, "judge", judge)
    asked = config(tune__trials=12)
    work(study := open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    values = [t.values[0] for t in best_trials(study)]
    assert max(t.values[0] for t in study.trials if t.values) > 0.6 >= max(values) and values == sorted(
        values, reverse=True
    )


def test_a_winner_is_named_by_fresh_seeds_alone(
    paper: type[Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the study a high beta is lucky; on fresh seeds, from 100 on, a low one is better."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "mlruns"
    paper.value = staticmethod(
        lambda found, number: found.align.beta if found.seed < 100 else 1 - found.align.beta + found.seed / 1e4
    )
    work(study := open_study(config(), home), config(), home, FOR_EVER)
    lucky, second = best_trials(study)[:2]
    assert (
        list(candidates(study, config())) == [DEFAULTS, str(lucky.number), str(second.number)] and lucky.values[0] > 0.3
    )
    assert len(jobs(study, config())) == 9 and winner(study, config()) is None
    confirm(study, config(), home)
    assert jobs(study, config()) == [] and winner(study, config()) is None
    found = confirmed(study, config())
    assert found[0].name == DEFAULTS and found[0].gain == 0.0
    assert found[-1].gain == pytest.approx(0.3 - rounded(lucky.params)["align.beta"])
    assert found[-1].compare(0.95, 2).worse
    assert "No trial is better than the parameters that the study began with." in study_report(study, config())
    with pytest.raises(KkaError, match="^tune: no trial is better than the parameters that .* stays as it is."):
        tune.apply(config(), WINNER, "in process")


def test_a_candidate_that_falls_apart_on_a_fresh_seed_is_out(paper: type[Paper], tmp_path: Path) -> None:
    paper.value = staticmethod(
        lambda found, number: None if found.seed == 101 and found.align.beta > 0.5 else found.align.beta
    )
    work(study := open_study(config(), tmp_path), config(), tmp_path, FOR_EVER)
    confirm(study, config(), tmp_path)
    names = {c.name for c in confirmed(study, config())}
    out = {str(t.number) for t in best_trials(study)[:2] if t.params["align.beta"] > 0.5}
    assert out and not out & names and DEFAULTS in names


def test_the_winner_goes_into_params_with_its_comments(
    paper: type[Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "mlruns"
    work(study := open_study(config(), home), config(), home, FOR_EVER)
    confirm(study, config(), home)
    found = winner(study, config())
    assert found is not None and f"Trial {found.name} over the defaults: +" in study_report(study, config())
    (tmp_path / "params.yaml").write_text((ROOT / "presets" / "blossom.yaml").read_text())
    tune.apply(config(), WINNER, "in process")
    told = capsys.readouterr().out
    values = rounded(study.trials[int(found.name)].params)
    assert f"+  beta: {values['align.beta']} # how strongly" in told and "higher on 3 of 3 fresh seeds" in told
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["align"]["beta"] == values["align.beta"]
    with pytest.raises(KkaError, match="^tune: there is no finished trial 99. There are 0, "):
        tune.apply(config(), "99", "in process")


def test_it_is_applied_once_and_not_before_it_is_confirmed(
    paper: type[Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "mlruns"
    with pytest.raises(KkaError, match="^tune: there is no study 'kka'. `kka tune` begins it."):
        tune.apply(config(), WINNER, "in process")
    work(study := open_study(config(), home), config(), home, FOR_EVER)
    (tmp_path / "params.yaml").write_text((ROOT / "presets" / "blossom.yaml").read_text())
    with pytest.raises(
        KkaError, match="^tune: nothing is confirmed on fresh seeds yet. Let `kka tune` come to its end"
    ):
        tune.apply(config(), WINNER, "in process")
    confirm(study, config(), home)
    tune.apply(config(), WINNER, "in process")
    written = (tmp_path / "params.yaml").read_text()
    found = winner(study, config())
    assert found is not None
    values = rounded(study.trials[int(found.name)].params)
    after = config(
        align__beta=values["align.beta"], align__lora=config().align.lora.model_dump() | {"r": values["align.lora.r"]}
    )
    capsys.readouterr()
    tune.apply(after, WINNER, "in process")
    assert (
        tmp_path / "params.yaml"
    ).read_text() == written and f"holds trial {found.name} already" in capsys.readouterr().out
    tune.apply(config(describe__count=99), found.name, "in process")
    assert "Mind that the study began with describe.count 24 and params.yaml now says 99." in capsys.readouterr().out


def test_two_aims_give_a_front_by_the_images_of_each_trial(paper: type[Paper], tmp_path: Path) -> None:
    space = {"align.beta": SPACE["align.beta"], "synthesize.controls": {"low": 8, "high": 40}}
    asked = config(tune__pareto=True, tune__space=space)
    work(study := open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    assert set(states(study)) == {"COMPLETE"}
    assert all(trial.values[1] == 3 * (24 + trial.params["synthesize.controls"]) for trial in study.trials)
    front = best_trials(study)
    assert [trial.values[1] for trial in front] == sorted(trial.values[1] for trial in study.best_trials)
    assert "## The front" in study_report(study, asked)
    fewer = config(tune__pareto=True, tune__study="fewer", tune__space={"describe.count": {"low": 10, "high": 24}})
    work(study := open_study(fewer, tmp_path), fewer, tmp_path, FOR_EVER)
    assert all(
        trial.constraints["missing descriptions"] <= 0 for trial in study.trials
    )  # each by what it was asked for itself


def test_a_mistake_that_is_not_the_trials_own_stops_the_study_and_costs_nothing(
    paper: type[Paper], tmp_path: Path
) -> None:
    def away(found: Config, number: int) -> float:
        raise KkaError("describe.endpoint: http://there/v1 is away. Is it up?")

    paper.value = staticmethod(away)
    study = open_study(config(), tmp_path)
    with pytest.raises(KkaError, match="Is it up"):
        work(study, config(), tmp_path, FOR_EVER)
    assert ended_trials(study) == [] and states(study) == ["FAIL"]
    paper.value = Paper.value
    work(study, config(), tmp_path, FOR_EVER)
    assert len(ended_trials(study)) == 6


def test_what_memory_does_not_hold_is_given_up_where_others_came_through(paper: type[Paper], tmp_path: Path) -> None:
    def large(found: Config, number: int) -> float:
        if found.align.lora.r == 4:
            raise RuntimeError("CUDA out of memory")
        return found.align.beta

    paper.value = staticmethod(large)
    asked = config(tune__trials=10, tune__sampler="random")
    work(study := open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    assert {t.user_attrs.get("reason") for t in study.trials if t.params["align.lora.r"] == 4} == {
        "RuntimeError: CUDA out of memory"
    }
    paper.value = staticmethod(
        lambda found, number: large(found.model_copy(update={"align": config(align__lora={"r": 4}).align}), number)
    )
    with pytest.raises(RuntimeError, match="out of memory"):  # each of them: that is no trial's own
        work(open_study(asked, tmp_path / "none"), asked, tmp_path / "none", FOR_EVER)


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("kka: align: it fell apart\nERROR: failed to run: python, exited with 3", Collapse("align: it fell apart")),
        ("kka: no such folder\nERROR: failed to run: python, exited with 1", KkaError("no such folder")),
        ("ERROR: unable to lock", KkaError("dvc exp run: ERROR: unable to lock")),
        (
            "Traceback\ntorch.OutOfMemoryError: CUDA out of memory\nERROR: exited with 1",
            MemoryError("torch.OutOfMemoryError: CUDA out of memory"),
        ),
        ("Traceback\nRuntimeError: mat1 and mat2\nERROR: exited with 1", KkaError("dvc exp run: ERROR: exited with 1")),
    ],
)
def test_why_an_experiment_failed_is_told_by_its_output(output: str, error: Exception) -> None:
    failure = _failure("dvc exp run", output)
    assert (type(failure), str(failure)) == (type(error), str(error))


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TypeError("none")])
def test_an_error_of_the_code_stops_the_study_and_the_confirmation_at_any_time(
    paper: type[Paper], tmp_path: Path, error: Exception
) -> None:
    """It would meet all trials, whether or not some have come through before it."""

    def wrong(found: Config, number: int) -> float:
        raise error

    work(study := open_study(config(tune__trials=2), tmp_path), config(tune__trials=2), tmp_path, FOR_EVER)
    paper.value = staticmethod(wrong)
    with pytest.raises(type(error), match=str(error)):
        work(study, config(), tmp_path, FOR_EVER)
    assert len(ended_trials(study)) == 2 and states(study)[-1] == "FAIL"
    with pytest.raises(type(error), match=str(error)):
        confirm(study, config(tune__trials=2), tmp_path)
    assert not [key for key in study.user_attrs if key.startswith("confirm")]


def test_a_trial_that_uses_up_the_bank_is_given_up(paper: type[Paper], tmp_path: Path) -> None:
    pictures = [{"bytes": png(np.full((16, 16, 3), grey, np.uint8)), "path": None} for grey in range(3)]
    archive = tmp_path / "archive"
    archive.mkdir()
    pq.write_table(pa.table({"image": pictures, "caption": ["a fox"] * 3}), archive / "photographs.parquet")

    def hand_out(found: Config, number: int) -> float:
        Synthesizer(archive=str(archive)).synthesize(["a fox"] * found.align.lora.r, range(found.align.lora.r))
        return found.align.beta

    paper.value = staticmethod(hand_out)
    asked = config(tune__space=SPACE | {"align.lora.r": {"choices": [2, 8]}}, tune__sampler="random")
    work(study := open_study(asked, tmp_path), asked, tmp_path, FOR_EVER)
    reasons = {t.params["align.lora.r"]: t.user_attrs.get("reason", "") for t in study.trials}
    assert reasons[2] == "" and reasons[8].startswith("the bank wanted a photograph for 'a fox', got none: all 3 are")


def test_a_gain_is_sure_where_chance_would_not_give_the_best_of_several() -> None:
    """At a two-sided level, as everywhere: of trials that are no better, one study in forty calls one better."""
    gains = [0.01, 0.02, 0.03]  # mean 0.02, standard error 0.00577: t is 3.46, and 4.30 is wanted of one, 6.21 of two
    found = Confirmed("7", [0.9] * 3, gains)
    alone = found.compare(0.95, 1)
    assert (alone.gain, alone.low) == (pytest.approx(0.02), pytest.approx(0.02 - 4.3027 * 0.01 / 3**0.5, abs=1e-6))
    assert not alone.better and Confirmed("7", [0.9] * 3, [0.01, 0.012, 0.014]).compare(0.95, 1).better
    several = Confirmed("7", [0.9] * 3, [0.010, 0.015, 0.020])
    assert several.compare(0.95, 1).better and not several.compare(0.95, 2).better
    assert str(several.compare(0.95, 1)) == "+0.0150 (95% interval +0.0026 to +0.0274): better for sure"


PROCESS = """
import sys, time
from pathlib import Path
from tests.pipelines import test_tune as t
from pipelines.tuning import study
t.Paper.seconds = float(sys.argv[2])
study.Trials = t.Paper
asked = t.config()
study.work(study.open_study(asked, Path(sys.argv[1])), asked, Path(sys.argv[1]), t.FOR_EVER)
"""


def test_the_trial_of_a_killed_process_is_tried_again_and_nothing_is_lost(paper: type[Paper], tmp_path: Path) -> None:
    """Of two processes one is killed, and the other does its trial too."""
    open_study(config(), tmp_path)
    slow, quick = (
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), seconds],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for seconds in ("60", "0.2")
    )
    study, until = open_study(config(), tmp_path), time.time() + 60
    while (
        len(ended_trials(study)) < 2 and time.time() < until
    ):  # the quick one has done two, so the other runs the one that is not over
        time.sleep(0.1)
    slow.kill()
    assert quick.wait(60) == 0 and slow.wait(60) < 0
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    again = [t for t in study.trials if t.user_attrs.get("retry of") == failed[0].number]
    assert (
        len(failed) == len(again) == 1
        and again[0].params == failed[0].params
        and again[0].state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    assert len(ended_trials(study)) == 6 and len(study.trials) == 7


def test_a_trial_that_kills_its_process_each_time_is_given_up(paper: type[Paper], tmp_path: Path) -> None:
    study = open_study(config(), tmp_path)
    place = study_folder(config(), tmp_path)
    (place / "running").mkdir(parents=True)
    for _ in range(3):
        trial = study.ask()
        suggest(trial, config())
        (place / "running" / str(trial.number)).touch()
        revive(study, place, config())
    assert states(study) == ["FAIL"] * 3 and [t.user_attrs.get("tries") for t in study.trials] == [None, 2, 3]


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_a_study_stands_in_mlflow_once(paper: type[Paper], tmp_path: Path) -> None:
    paper.value = staticmethod(
        lambda found, number: None if number == 2 and found.align.lora.r == 4 else found.align.beta
    )
    work(study := open_study(config(), tmp_path), config(), tmp_path, FOR_EVER)
    confirm(study, config(), tmp_path)
    place = study_folder(config(), tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # killed while it tells of a trial
        patch.setattr(Mirror, "_write", _stop)
        Mirror(tmp_path, config()).update(study)
    for _ in range(2):
        Mirror(tmp_path, config()).finish(study, study_report(study, config()), place)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("kka").experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    trials = {r.data.tags["kka.trial"]: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert parent.data.params == {
        "align.beta": "0.1 to 1, log",
        "align.lora.r": "one of [4, 8]",
        "tune.objective": "panel",
    }
    assert {m.step for m in client.get_metric_history(parent.info.run_id, "auroc")} == {
        t.number for t in study.trials if t.state == TrialState.COMPLETE
    }
    assert (
        len(runs) == 7
        and parent.info.status == "FINISHED"
        and parent.data.tags["mlflow.note.content"].startswith("# Study kka")
    )
    for trial in study.trials:
        run = trials[str(trial.number)]
        assert run.info.status == ("FINISHED" if trial.state == TrialState.COMPLETE else "KILLED")
        assert run.data.params == {k: str(v) for k, v in rounded(trial.params).items()}
        wanted = [
            (number, pytest.approx(trial.intermediate_values[number])) for number in sorted(trial.intermediate_values)
        ]
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "auroc")] == wanted
    kept = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {"study.md", "optimization_history.png", "slice.png", "intermediate_values.png"} <= kept
    assert {k for k in parent.data.metrics if k.startswith("fresh_seeds/")} == {
        f"fresh_seeds/{c}" for c in candidates(study, config())
    }


def test_a_real_trial_is_judged_by_a_panel_and_takes_what_an_earlier_one_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesizers, "create", lambda name, options, **data: Drawn())
    asked = config(rounds={"r1": {"prev": "r0"}}, last="r1", synthesize__match_spectrum=False)
    trials = Trials(asked, tmp_path)
    judges = trials.prepare()
    assert trials.prepare() == judges and set(read_split(tmp_path / "panel").groups) == {"r1"}
    made = {p.name for p in (tmp_path / "store").iterdir()}
    (one,) = [trials.judge(run) for run in trials.rounds(trials.config, tmp_path / "one")]
    new = {p.name.split("-")[0] for p in (tmp_path / "store").iterdir() if p.name not in made}
    assert new == {
        "baseline",
        "describe",
        "synthesize",
        "assess",
        "detect",
    }  # of a seed of its own; the splits are the panel's
    made = {p.name for p in (tmp_path / "store").iterdir()}
    (other,) = [
        trials.judge(run) for run in trials.rounds(with_values(trials.config, {"align.beta": 0.9}), tmp_path / "other")
    ]
    assert one == other and made == {p.name for p in (tmp_path / "store").iterdir()}
    assert 0 < one.auroc <= 1 and one.figures["auroc r1"] == one.auroc and one.figures["kept"] == 24
    panel = {sha256(picture) for picture in read_split(tmp_path / "panel").images}
    pool = read_records(tmp_path / "one" / "data" / "r1" / "pool.jsonl", Anomaly)
    assert not panel & {a.sha256 for a in pool}
    by_labels = Trials(config(rounds={"r1": {"prev": "r0"}}, last="r1", tune__objective="validation"), tmp_path)
    run = make_run(by_labels.config, tmp_path / "one", ["r1"])
    wanted = read_split(tmp_path / "base" / "data" / "splits" / "validation")
    scores = detectors.load(tmp_path / "one" / "data" / "r1" / "detector").score(wanted.images)
    assert by_labels.judge(run).auroc == pytest.approx(auroc(scores, wanted.labels))


class Retouching:
    """Draws a square on a flat picture, and says so."""

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> synthesizers.Drawn:
        sources = np.stack([np.full((32, 32, 3), seed % 200, np.uint8) for seed in seeds])
        masks = np.zeros((len(texts), 32, 32), bool)
        masks[:, 8:16, 8:16] = True
        pictures = np.where(masks[..., None], sources + 50, sources).astype(np.uint8)
        return synthesizers.Drawn(pictures, Changes(sources, masks), tuple({"text": text} for text in texts))

    def __repr__(self) -> str:
        return "Retouching()"


def test_trials_and_the_panel_work_with_pictures_that_were_made_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a synthesizer says of its pictures reaches the detectors, also from what an earlier trial has made."""
    monkeypatch.setattr(synthesizers, "create", lambda name, options, **data: Retouching())
    given: list[Changes | None] = []

    def fit(*arguments: Any, changes: Changes | None = None, **options: Any) -> Any:
        given.append(changes)
        assert changes is not None and arguments[4].shape == changes.sources.shape
        inside = changes.masks[..., None]
        assert np.array_equal(arguments[4], np.where(inside, changes.sources + 50, changes.sources))
        return fit_over_seeds(*arguments, changes=changes, **options)

    monkeypatch.setattr(detect, "fit_over_seeds", fit)
    asked = config(
        rounds={"r1": {"prev": "r0"}}, last="r1", synthesize__match_spectrum=False, assess__hopeless_quantile=0.01
    )
    trials = Trials(asked, tmp_path)
    trials.prepare()
    for name, changes in (("one", {}), ("other", {"detect.hard_proportion.end": 0.9})):
        (found,) = [trials.judge(run) for run in trials.rounds(with_values(trials.config, changes), tmp_path / name)]
        assert 0 < found.auroc <= 1 and 0 <= found.figures["hopeless_rate"] <= 1
        pool = read_records(tmp_path / name / "data" / "r1" / "pool.jsonl", Anomaly)
        assert all(a.effect is not None for a in pool)
    assert len(given) == 3  # the panel's, and one for each trial
    made = [path.name.split("-")[0] for path in (tmp_path / "store").iterdir() if path.is_dir()]
    assert made.count("synthesize") == 2 and made.count("detect") == 3  # the second trial took the first one's pictures


@pytest.mark.slow
def test_a_real_study_ends_in_a_table_and_goes_on_at_once(tmp_path: Path) -> None:
    """Two real trials and a winner from fresh seeds, from the command on; the second time nothing is left to do."""
    rounds = {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}
    space = {"align.beta": {"low": 0.1, "high": 1.0, "log": True}}
    asked = config(rounds=rounds, last="r2", tune__space=space, tune__trials=2, tune__confirm={"top": 1, "seeds": 2})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(json.loads(asked.model_dump_json())))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for attempt in range(2):
        began = time.time()
        told = subprocess.run(
            [sys.executable, "-m", "pipelines.tune"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        assert f"{2 * attempt} of 2 trials are done" in told.stderr and "## On fresh seeds" in told.stdout
        assert attempt == 0 or time.time() - began < 30
    store = [p.name.split("-")[0] for p in (tmp_path / "mlruns" / "tune" / "kka" / "store").iterdir() if p.is_dir()]
    # one panel, two trials, two fresh seeds with two candidates: each its alignment, but one round zero for each of the
    # four seeds
    assert (store.count("prepare"), store.count("baseline"), store.count("align")) == (1, 4, 1 + 2 + 4)
    study = open_study(asked, tmp_path / "mlruns")
    assert states(study) == ["COMPLETE"] * 2 and all(
        {"auroc r1", "auroc r2"} <= t.user_attrs["r2"].keys() for t in study.trials
    )
