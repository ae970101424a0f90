"""Hopeless anomalies in the stages: who is asked, what is counted, and where they are shown."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kka import detectors
from kka.confusion import judge
from kka.errors import KkaError
from kka.hopeless import Taught
from kka.images import read_images, write_changes_shard
from kka.records import Anomaly, Changes, read_json, read_records, write_records
from pipelines import assess, report
from pipelines.reporting.pictures import strips
from pipelines.stage import Run, make_run
from tests.pipelines.conftest import tiny

N = 24  # anomalies of the tiny project


def asked(run: Run, **changes: Any) -> Run:
    return make_run(tiny(**{f"assess__{name}": value for name, value in changes.items()}), run.root, ["r1"])


def figures(run: Run) -> dict[str, Any]:
    return dict(read_json(run.files.metrics("assess")))


def answers(monkeypatch: pytest.MonkeyPatch, taught: Taught) -> list[tuple[Any, ...]]:
    """What the siblings are given from now on; they answer with `taught`."""
    given: list[tuple[Any, ...]] = []

    def judged(*arguments: Any, **options: Any) -> Taught:
        given.append((*arguments, options))
        return taught

    monkeypatch.setattr(assess, "judge_by_siblings", judged)
    return given


def test_where_nobody_asks_no_detector_is_fitted_and_nothing_is_counted(
    copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, before = answers(monkeypatch, Taught(np.full(N, -1.0))), copy.files.pool.read_bytes()
    assess.main(copy)
    assert not given and not {"hopeless", "hopeless_rate", "without_effect"} & figures(copy).keys()
    assert copy.files.pool.read_bytes() == before and b"effect" not in before


def test_siblings_are_taught_as_the_rounds_detector_is(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = asked(copy, hopeless_quantile=0.5)
    given = answers(monkeypatch, Taught(np.full(N, 1.0)))
    assess.main(run)
    ((name, seed, options, normals, anomalies, calibration, generated, how),) = given
    assert (name, seed, options) == ("bce", run.seed("siblings"), run.config.detect.options)
    assert np.array_equal(normals, run.layout.read_split("train").images)
    assert np.array_equal(calibration, run.layout.read_split("calibration").images)
    assert np.array_equal(anomalies, read_images(run.files.anomalies))
    assert np.array_equal(generated, read_images(run.files.controls)[:4])  # of 8, half are there to train with
    assert how["quantile"] == 0.5 and how["changes"] is None and not how["without_effect"].any()


def test_hard_ones_that_stay_hidden_are_counted_and_the_rates_of_hard_ones_stay(
    copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, pool = figures(copy), copy.files.read_pool()
    assert before["hard"] > 1
    hidden = np.zeros(N, bool)
    hidden[[i for i, a in enumerate(pool) if a.grade == "hard"][1:]] = True
    hidden[[i for i, a in enumerate(pool) if a.grade == "easy"][0]] = True  # that it is easy says it can be found
    answers(monkeypatch, Taught(np.where(hidden, -1.0, 1.0)))
    assess.main(run := asked(copy, hopeless_quantile=0.5))
    found, grades = figures(run), Counter(a.grade for a in run.files.read_pool())
    assert (found["hard"], found["hopeless"]) == (1, before["hard"] - 1) == (grades["hard"], grades["hopeless"])
    assert found["hopeless_rate"] == pytest.approx((before["hard"] - 1) / N) and "without_effect" not in found
    assert {k: found[k] for k in before if k != "hard"} == {k: v for k, v in before.items() if k != "hard"}


def test_real_detectors_tell_the_same_twice(copy: Run) -> None:
    masks = np.ones((N, 32, 32), bool)
    write_changes_shard(copy.files.anomalies, 0, Changes(np.full((N, 32, 32, 3), 100, np.uint8), masks))
    run = asked(copy, hopeless_quantile=1.0)  # after 20 steps few score above all calibration normals
    assess.main(run)
    pool = run.files.read_pool()
    assert all(a.effect is not None and np.isfinite(a.effect) for a in pool) and len({a.effect for a in pool}) > 1
    assert figures(run)["hopeless"] > 0
    before = run.files.pool.read_bytes()
    assess.main(run)
    assert run.files.pool.read_bytes() == before


def test_by_source_the_effect_decides(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = copy.files.read_pool()
    hard = [i for i, a in enumerate(pool) if a.grade == "hard"]
    effects = np.full(N, 3.0)
    effects[hard[0]] = 0.5
    answers(monkeypatch, Taught(np.full(N, -1.0), effects))
    assess.main(run := asked(copy, hopeless_by="source", hopeless_effect=0.5))
    found = run.files.read_pool()
    assert [i for i, a in enumerate(found) if a.grade == "hopeless"] == hard[:1]
    assert [a.effect for a in found] == effects.tolist()


def test_by_source_without_sources_is_one_sentence(copy: Run) -> None:
    with pytest.raises(KkaError, match="assess.hopeless_by source compares .* Set it to boundary"):
        assess.main(asked(copy, hopeless_by="source"))


def test_what_changed_next_to_nothing_is_without_effect(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_images(copy.files.anomalies)
    masks = np.zeros(images.shape[:3], bool)
    masks[:-1, 8:16, 8:16] = True  # none for the last
    sources = images.copy()
    sources[1:, 8:16, 8:16] ^= 128  # the first is what it was made from
    write_changes_shard(copy.files.anomalies, 0, Changes(sources, masks))
    given = answers(monkeypatch, Taught(np.full(N, 1.0), np.full(N, 9.0)))
    assess.main(run := asked(copy, least_effect=0.01))
    without = [0, N - 1]
    assert [i for i, a in enumerate(run.files.read_pool()) if a.grade == "hopeless"] == without and not given
    assert figures(run)["without_effect"] == figures(run)["hopeless"] == 2
    assess.main(run := asked(copy, least_effect=0.01, hopeless_quantile=0.5))
    assert np.flatnonzero(given[0][-1]["without_effect"]).tolist() == without
    assert np.array_equal(given[0][-1]["changes"].sources, sources)
    assert figures(run)["hopeless"] == 2


def test_nobody_knows_the_effect_of_pictures_that_begin_as_noise(copy: Run) -> None:
    assess.main(run := asked(copy, least_effect=5.0))
    assert figures(run)["hopeless"] == 0 and "without_effect" not in figures(run)


def test_a_pool_whose_hard_ones_are_hopeless_is_warned_of(
    copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hard = figures(copy)["hard"]
    answers(monkeypatch, Taught(np.full(N, -1.0)))
    assess.main(asked(copy, hopeless_quantile=0.5))
    said = capsys.readouterr().err
    assert f"no hard anomaly among {N}: {hard} are hopeless." in said and "assess.hopeless_quantile may be low" in said


def test_the_report_shows_hopeless_ones_beside_hard_and_easy_ones(copy: Run) -> None:
    path = copy.files.pool
    pool = [replace(a, grade=("hard", "hopeless", "easy")[i % 3]) for i, a in enumerate(read_records(path, Anomaly))]
    write_records(path, pool)
    titles = [s.title for s in strips(copy.layout, "r1", pool, detectors.load(copy.files.detector))]
    assert titles[:3] == ["hard (8)", "easy (8)", "hopeless (8)"]
    found = figures(copy) | {"hard": 8, "easy": 8, "between": 0, "hopeless": 8, "without_effect": 3}
    copy.files.metrics("assess").write_text(str(found | {"hopeless_rate": 1 / 3}).replace("'", '"'))
    report.main(copy)
    page = copy.root.joinpath("report", "report.html").read_text()
    assert "took 8 of the pictures for normal that can be found: they are hard. 8 were hopeless, 3 of them" in page
    assert "hopeless (8)" in page and "| hopeless |" in copy.root.joinpath("report", "table.md").read_text()


def test_where_none_is_hard_hopeless_ones_are_not_the_nearest(copy: Run) -> None:
    pool = [replace(a, grade="hopeless" if i % 2 else "easy") for i, a in enumerate(copy.files.read_pool())]
    row, *_ = strips(copy.layout, "r1", pool, detectors.load(copy.files.detector))
    nearest = min((a for a in pool if a.grade == "easy"), key=lambda a: a.score)
    assert row.title.startswith("none is hard") and row.captions[0] == nearest.text


def test_a_report_that_nobody_asked_for_hopeless_ones_says_nothing_of_them(copy: Run) -> None:
    report.main(copy)
    page = copy.root.joinpath("report", "report.html").read_text()
    assert "for normal: they are hard. The new" in page and "hopeless (" not in page
    assert "hopeless" not in copy.root.joinpath("report", "table.md").read_text()


def test_the_judge_is_that_of_the_round_before(copy: Run) -> None:
    """The verdict that is regraded is the one that the hard rate comes from."""
    run = asked(copy, hopeless_quantile=0.5)
    assess.main(run)
    images, normals = read_images(run.files.anomalies), run.layout.read_split("calibration").images
    before = judge(detectors.load(run.before.detector), images, normals, quantile=0.95, easy_share=1.0)
    assert figures(run)["hard_rate"] == before.hard_rate
    assert [a.score for a in run.files.read_pool()] == before.scores.tolist()
