"""The whole loop on the built-in language model, small; and what stops it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from kka import detectors, synthesizers
from kka.describing.adapters import is_blank
from kka.errors import KkaError
from kka.images import read_images, read_split
from kka.metrics import auroc
from kka.records import Anomaly, Description, Pair, read_json, read_records, write_records
from pipelines import align, describe, detect, synthesize
from pipelines.loop import run_loop
from pipelines.stage import Run, make_run
from tests.pipelines.conftest import Drawn, tiny

TWO = tiny(rounds={"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}, last="r2")


@pytest.fixture(autouse=True, scope="module")
def drawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesizers, "create", lambda name, options, **data: Drawn())
        yield


def written(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_round_leaves_its_records_behind(finished: tuple[Path, list[str]]) -> None:
    root, logged = finished
    found = read_records(root / "data/r1/descriptions.jsonl", Description)
    kept = [d for d in found if d.outcome == "kept"]
    pool = read_records(root / "data/r1/pool.jsonl", Anomaly)
    assert [a.text for a in pool] == [d.text for d in kept] and len(kept) == 24
    assert len(read_images(root / "data/r1/anomalies")) == 24 and len(read_images(root / "data/r1/controls")) == 8
    pairs = read_records(root / "data/r1/pairs.jsonl", Pair)
    assert {p.part for p in pairs} <= {"train", "validation"} and pairs
    figures = {
        s: read_json(root / f"metrics/r1/{s}.json")
        for s in ("describe", "synthesize", "assess", "detect", "align", "evaluate")
    }
    assert figures["describe"]["kept"] == figures["synthesize"]["anomalies"] == figures["detect"]["pool"] == 24
    assert figures["assess"]["hard"] + figures["assess"]["between"] + figures["assess"]["easy"] == 24
    assert 0 < figures["assess"]["controls_auroc"] < 1 and 0 <= figures["align"]["readable"] <= 1
    assert set(figures["evaluate"]["groups"]) == {f"distance {d}" for d in (1, 2, 3, 4)}
    assert {"bce/loss", "align/loss"} <= set(logged)


def test_a_detector_is_fitted_from_each_seed_and_evaluated_over_all(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    for name in ("r0", "r1"):
        folder = finished[0] / "data" / name
        assert [p.name for p in (folder / "repeats").iterdir()] == ["1"]
        one, other = (load_file(f / "weights.safetensors") for f in (folder / "detector", folder / "repeats" / "1"))
        assert any(not np.array_equal(one[k], other[k]) for k in one)
        figures = read_json(finished[0] / "metrics" / name / "evaluate.json")
        scored = [
            detectors.load(f).score(read_split(finished[0] / "data/splits/test").images)
            for f in (folder / "detector", folder / "repeats/1")
        ]
        labels = read_split(finished[0] / "data/splits/test").labels
        both = [auroc(s, labels) for s in scored]
        assert figures["auroc"] == pytest.approx(np.mean(both)) and figures["auroc_std"] == pytest.approx(
            np.std(both, ddof=1)
        )
        assert np.array_equal(make_run(tiny(), finished[0], []).layout.round(name).read_scores().values, scored[0])
    run_loop(tiny(detect__seeds=1, evaluate__bootstrap=0), root := tmp_path / "one", report=False)
    assert not list((root / "data/r1/repeats").iterdir()) and "auroc_std" not in read_json(
        root / "metrics/r1/evaluate.json"
    )


def test_a_detector_with_score_maps_shows_them_in_the_report(copy: Run) -> None:
    def height() -> int:
        with Image.open(copy.root.joinpath("report", "r1.png")) as sheet:
            return sheet.height

    before = height()
    config = tiny(detect__detector="probe", detect__options={})
    run_loop(config, copy.root)
    without = height()
    config = tiny(detect__detector="patchcore", detect__options={"most_patches": 2000, "most_stored": 50})
    run_loop(config, copy.root)
    assert height() > max(before, without)


def test_the_report_shows_the_rounds(finished: tuple[Path, list[str]]) -> None:
    root, _ = finished
    text = (root / "report/report.md").read_text()
    assert "| r0 " in text and "| r1 " in text and "![hard, easy and rejected anomalies](r1.png)" in text
    assert (root / "report/r1.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "report/table.md").read_text() in text
    assert (root / "plots/rounds.csv").read_text().splitlines()[1].startswith("r0,0,0.")


def test_nothing_unfinished_is_left_and_no_path_or_date_stands_in_the_results(finished: tuple[Path, list[str]]) -> None:
    root, _ = finished
    assert [p for p in root.rglob("*.part")] == []
    for name, content in written(root).items():
        assert str(root).encode() not in content, name


def test_a_finished_loop_is_not_run_again_and_a_round_more_is_that_round(copy: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in copy.root.rglob("*") if p.is_file()}
    run_loop(tiny(), copy.root)
    assert before == {p: p.stat().st_mtime_ns for p in copy.root.rglob("*") if p.is_file()}
    run_loop(TWO, copy.root, report=False)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    pool = read_records(copy.root.joinpath("data", "r2", "pool.jsonl"), Anomaly)
    assert [a.round for a in pool] == ["r1"] * 24 + ["r2"] * 24
    assert len({a.text for a in pool}) == 48
    assert read_json(copy.root.joinpath("metrics", "r2", "detect.json"))["pool"] == 48


def test_the_same_seed_gives_the_same_bytes(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    run_loop(tiny(), tmp_path)
    assert written(tmp_path) == written(finished[0])


def test_without_alignment_the_adapter_stays_blank(copy: Run) -> None:
    run = make_run(tiny(align__enabled=False), copy.root, ["r1"])
    align.main(run)
    assert is_blank(run.before.adapter) and written(run.files.adapter) == written(run.before.adapter)
    assert read_records(run.files.pairs, Pair) == []
    assert read_json(run.files.metrics("align")) == {}


def test_a_corrupt_adapter_is_refused(copy: Run) -> None:
    run = make_run(TWO, copy.root, ["r2"])
    weights = run.before.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(KkaError, match="data/r1/adapter: wanted a LoRA adapter"):
        describe.main(run)


def test_no_description_that_the_guard_keeps_ends_the_round(copy: Run) -> None:
    before = written(copy.root)
    run = make_run(
        tiny(
            describe__attempts=4,
            describe__guard={"normal_quantile": 0.0, "readable_quantile": 1.0, "readable_margin": 0.0},
        ),
        copy.root,
        ["r1"],
    )
    with pytest.raises(
        KkaError, match="describe: round r1 wanted 24 descriptions, got none that the guard keeps .4 attempts, 0 kept"
    ):
        describe.main(run)
    assert written(copy.root) == before


def test_an_adapter_that_has_fallen_apart_ends_the_round(copy: Run) -> None:
    before = written(copy.root)
    run = make_run(
        tiny(align__learning_rate=0.5, align__health={"sample": 20, "readable": 1.0, "distinct": 1.0}),
        copy.root,
        ["r1"],
    )
    with pytest.raises(
        KkaError,
        match=r"align: the adapter has fallen apart: \d+% of 20 descriptions are (readable|distinct), wanted at least"
        r" 100%",
    ):
        align.main(run)
    assert written(copy.root) == before


def test_a_picture_that_was_exchanged_stops_the_detector(copy: Run) -> None:
    path = copy.root.joinpath("data", "r1", "pool.jsonl")
    pool = read_records(path, Anomaly)
    write_records(path, [replace(a, row=(a.row + 1) % len(pool)) for a in pool])
    with pytest.raises(KkaError, match=r"data/r1/anomalies: picture \d+ is not the one"):
        detect.main(copy)


def test_interrupted_synthesis_keeps_its_whole_shards(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that were written before a kill are not made again, and the result is the same."""
    monkeypatch.setattr("kka.images.SHARD", 10)
    made: list[int] = []

    class Stops(Drawn):
        def __init__(self, after: float) -> None:
            self.after = after

        def synthesize(self, texts: Any, seeds: Any) -> Any:
            made.append(len(texts))
            if len(made) > self.after:
                raise KeyboardInterrupt
            return super().synthesize(texts, seeds)

    whole = read_images(copy.root.joinpath("data", "r1", "anomalies"))
    shutil.rmtree(copy.root.joinpath("data", "r1", "anomalies"))
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(synthesizers, "create", lambda name, options, **data: Stops(2))
        synthesize.main(copy)
    assert not copy.root.joinpath("data", "r1", "anomalies").exists()
    made.clear()
    monkeypatch.setattr(synthesizers, "create", lambda name, options, **data: Stops(np.inf))
    synthesize.main(copy)
    assert made == [4, 8]
    assert np.array_equal(read_images(copy.root.joinpath("data", "r1", "anomalies")), whole)
    assert not list(copy.root.joinpath("data", "r1").glob("*.part"))


def test_a_pool_of_hard_ones_only_writes_nothing(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from kka import confusion
    from pipelines import assess

    before = written(copy.root)
    monkeypatch.setattr(confusion, "grade", lambda scores, calibration, **_: ["hard"] * len(scores))
    with pytest.raises(KkaError, match="assess: wanted hard and easy anomalies"):
        assess.main(copy)
    assert written(copy.root) == before


def test_a_pool_without_a_hard_one_is_warned_of(
    copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kka import confusion
    from pipelines import assess

    assess.main(copy)
    assert not capsys.readouterr().err
    monkeypatch.setattr(confusion, "grade", lambda scores, calibration, **_: ["easy"] * len(scores))
    assess.main(copy)
    assert "assess r1: no hard anomaly among 24" in capsys.readouterr().err
