"""The rounds side by side."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from kka.metrics import Comparison, auroc
from pipelines.layout import Layout, write_csv
from pipelines.reporting.tables import (
    LEGEND,
    Figures,
    curves,
    gain,
    groups_table,
    hardest_group,
    markdown,
    rounds_table,
    summary,
    warning,
)
from tests.pipelines.conftest import tiny


def row(name: str, near: float, **stages: dict[str, float]) -> Figures:
    test = {
        "auroc": (near + 1) / 2,
        "auroc_low": 0.5,
        "auroc_high": 0.9,
        "fpr95": 0.25,
        "groups": {"far": 1.0, "near": near},
        "hardest_group": "near",
    }
    return {"round": name, "describe": {}, "assess": {}, "detect": {}, "align": {}, "evaluate": test} | stages


ROWS = [
    row("r0", 0.75),
    row(
        "r1",
        0.875,
        detect={"images": 40, "hard_proportion": 0.25, "hard_proportion_wanted": 0.3},
        describe={
            "readable": 0.975,
            "distinct": 1.0,
            "normal": 3,
            "unreadable": 1,
            "duplicate": 0,
        },
        assess={"hard_rate": 0.125, "hard_rate_r0": 0.5},
    ),
]
ROWS[1]["evaluate"]["mean_distance"] = 2.5


def test_the_group_that_round_zero_finds_hardest_is_followed() -> None:
    assert hardest_group(ROWS[0]) == "near"
    for found, wanted in (("far", "far"), ("of the validation split alone", "near")):
        assert hardest_group(ROWS[0] | {"evaluate": ROWS[0]["evaluate"] | {"hardest_group": found}}) == wanted
    assert {"AUROC (95%)", "AUROC near"} <= rounds_table(ROWS, 0.95)[0].keys()


def test_every_cell_says_what_it_was_given_and_a_dash_where_there_is_nothing() -> None:
    zero, one = rounds_table(ROWS, 0.95)
    assert (zero["images"], zero["hard share"], zero["readable"], zero["gap"], zero["AUROC (95%)"]) == (
        "0",
        "-",
        "-",
        "-",
        "0.875 (0.500-0.900)",
    )
    assert (one["images"], one["hard share"], one["refused"], one["distance"]) == (
        "40",
        "0.25 of 0.30",
        "3+1+0",
        "2.50",
    )
    assert (one["AUROC near"], one["hard now"], one["hard r0"], one["readable"]) == ("0.875", "0.12", "0.50", "98%")


def test_hopeless_ones_have_a_column_where_somebody_asked_for_them() -> None:
    assert "hopeless" not in rounds_table(ROWS, 0.95)[1]
    asked = [ROWS[0], ROWS[1] | {"assess": ROWS[1]["assess"] | {"hopeless": 3, "hopeless_rate": 0.25}}]
    assert [cells["hopeless"] for cells in rounds_table(asked, 0.95)] == ["-", "0.25"]


def test_a_group_that_is_called_like_a_column_keeps_its_own() -> None:
    test = ROWS[0]["evaluate"] | {"groups": {"gap": 0.25}, "hardest_group": "gap", "controls_auroc": 0.625}
    (found,) = rounds_table([ROWS[0] | {"evaluate": test}], 0.95)
    assert (found["AUROC gap"], found["gap"]) == ("0.250", "0.625")


def test_every_column_is_explained() -> None:
    explained = {name for names in LEGEND for name in names.split(", ")}
    assert {column.removesuffix(" (95%)") for column in rounds_table(ROWS, 0.95)[0]} - explained == {
        "round",
        "AUROC near",
    }


@pytest.mark.parametrize(("low", "high", "warned"), [(-0.1, -0.01, True), (-0.1, 0.01, False), (0.01, 0.1, False)])
def test_a_last_round_that_is_worse_for_sure_is_warned_of(low: float, high: float, warned: bool) -> None:
    text = warning(Comparison((low + high) / 2, low, high, 0.95))
    assert text.startswith("The last round is worse than round zero: its AUROC differs by -0.0550") is warned
    assert bool(text) is warned and warning(None) == ""


def test_the_gain_is_that_of_the_first_fits_on_the_same_pictures(tmp_path: Path) -> None:
    config, layout = tiny(evaluate__bootstrap=200), Layout(tmp_path)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    scores = {"r0": rng.normal(labels, 2.0), "r1": rng.normal(5 * labels, 1.0)}
    for name, values in scores.items():
        rows = [
            {"split": "test", "label": int(y), "group": "", "score": s} for y, s in zip(labels, values, strict=True)
        ]
        write_csv(layout.round(name).scores, ("split", "label", "group", "score"), rows)
    found = gain(layout, config, seed=0)
    assert found is not None and found.better and found.level == 0.95
    assert found.gain == pytest.approx(auroc(scores["r1"], labels) - auroc(scores["r0"], labels))
    assert gain(layout, tiny(evaluate__bootstrap=0), seed=0) is None


def test_an_interval_that_was_not_measured_is_left_out() -> None:
    bare = row("r0", 0.75)
    del bare["evaluate"]["auroc_low"]
    assert rounds_table([bare], 0.95)[0]["AUROC (95%)"] == "0.875"


def test_several_fits_show_their_deviation() -> None:
    several = row("r0", 0.75)
    several["evaluate"]["auroc_std"] = 0.0123
    assert rounds_table([several], 0.95)[0]["AUROC (95%)"] == "0.875 ±0.012 (0.500-0.900)"


def test_groups_stand_from_the_hardest_on() -> None:
    assert groups_table(ROWS, most=1) == [{"group": "near", "r0": "0.750", "r1": "0.875"}]
    assert [cells["group"] for cells in groups_table(ROWS)] == ["near", "far"]


def test_an_experiment_comes_to_few_rounded_figures_of_its_last_round() -> None:
    rows = deepcopy(ROWS)
    for r, alarms in zip(rows, (0.08, 0.0612345), strict=True):
        r["evaluate"]["false_positive_rate"] = alarms
    found = summary(rows)
    assert found == {
        "auroc": 0.9375,
        "auroc_r0": 0.875,
        "gained": 0.0625,
        "auroc_hardest": 0.875,
        "fpr95": 0.25,
        "false_alarms": 0.0612,
        "hard_rate_r0": 0.5,
        "images": 40,
    }
    for r in rows:
        r["evaluate"] = {"groups": {}, "false_positive_rate": 0.05}
    assert summary(rows) == {"false_alarms": 0.05, "hard_rate_r0": 0.5, "images": 40}


def test_a_table_is_padded() -> None:
    assert (
        markdown([{"a": "1", "long": "2"}, {"a": "333", "long": "4"}])
        == "| a   | long |\n| --- | ---- |\n| 1   | 2    |\n| 333 | 4    |\n"
    )


def test_curves_hold_a_row_a_round(tmp_path: Path) -> None:
    write_csv(path := tmp_path / "plots" / "rounds.csv", *curves(ROWS))
    assert path.read_text().splitlines() == [
        "round,images,auroc,auroc_std,auroc_low,auroc_high,auroc_hardest_group,average_precision,fpr95",
        "r0,0,0.875,,0.5,0.9,0.75,,0.25",
        "r1,40,0.9375,,0.5,0.9,0.875,,0.25",
    ]


def test_a_csv_refuses_a_column_that_it_was_not_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_csv(tmp_path / "a.csv", ["a"], [{"b": 1}])
    assert not (tmp_path / "a.csv").exists()
