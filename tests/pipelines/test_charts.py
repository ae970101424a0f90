"""Charts: where a figure lands, worked out by hand."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from kka.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LIGHT,
    RIGHT,
    WIDTH,
    auroc_by_round,
    histogram,
    roc,
    shares_by_round,
    standalone,
    ticks,
)

TOP = 50.0  # beneath a legend of one line
HOSTILE = '<script>alert(1)</script>&"'


def paths(chart: str, colour: str) -> list[list[tuple[float, float]]]:
    """The points of each path that is drawn in the colour."""
    found = []
    for path in ET.fromstring(chart).iter("path"):
        if f"var(--{colour})" in (path.get("stroke"), path.get("fill")) and "h" not in path.attrib["d"]:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def x(share: float) -> float:
    return LEFT + share * (WIDTH - RIGHT - LEFT)


def y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def near(points: list[tuple[float, float]]) -> object:
    return pytest.approx(np.array(points), abs=0.06)  # coordinates have one decimal


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0.926, 1, [0.92, 0.94, 0.96, 0.98, 1]),
        (-3, 25, [-10, 0, 10, 20, 30]),
        (0.5, 0.5, None),
    ],
)
def test_ticks_are_round_and_hold_the_figures(low: float, high: float, wanted: list[float] | None) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and len(found) >= 2
    assert wanted is None or found == wanted


def test_auroc_by_round_stands_at_its_place_in_its_band() -> None:
    chart = auroc_by_round(["r0", "r1"], [0.5, 0.75], [(0.25, 0.5), (0.5, 1.0)], "near", [0.0, 1.0])
    left, right = (
        x(0.3 / 1.6),
        x(1.3 / 1.6),
    )  # the rounds are one apart, with 0.3 beside them; the axis goes from 0 to 1
    band, line = paths(chart, "first")
    assert np.array(line) == near([(left, y(0.5)), (right, y(0.75))])
    assert np.array(band) == near([(left, y(0.25)), (right, y(0.5)), (right, y(1)), (left, y(0.5))])
    assert np.array(paths(chart, "second")[0]) == near([(left, y(0)), (right, y(1))])
    assert "AUROC r0 0.500, r1 0.750; near r0 0.000, r1 1.000" in ET.fromstring(chart).attrib["aria-label"]


def test_without_an_interval_there_is_no_band() -> None:
    assert len(paths(auroc_by_round(["r0", "r1"], [0.5, 0.75], [], "near", [0.5, 0.5]), "first")) == 1


def test_shares_have_a_line_each() -> None:
    chart = shares_by_round(["r1"], {"hard for r0": [0.25], "readable": [1.0], "distinct": [0.5]})
    for colour, share in (("first", 0.25), ("second", 1.0), ("third", 0.5)):
        assert np.array(paths(chart, colour)[0]) == near([(x(0.5), y(share))])


def test_roc_goes_from_corner_to_corner() -> None:
    chart = roc("ROC", {"r0": [(0, 0), (0.5, 0.75), (1, 1)], "r1": [(0, 0), (0, 1), (1, 1)]})
    first, second = paths(chart, "first")
    assert np.array(first) == near([(x(0), y(0)), (x(0.5), y(0.75)), (x(1), y(1))])
    assert np.array(second) == near([(x(0), y(0)), (x(0), y(1)), (x(1), y(1))])


def test_a_histogram_shows_shares_of_each_kind_and_the_threshold() -> None:
    chart = histogram("Scores", np.array([0.0, 0.0, 0.0, 30.0]), np.array([30.0]), 15.0)
    normals, anomalies = (np.array(paths(chart, c)[0]) for c in ("first", "second"))
    assert np.allclose(normals[1], (x(0), y(0.75)), atol=0.06)
    assert np.allclose(normals[-2], (x(1), y(0.25)), atol=0.06) and np.allclose(anomalies[-2], (x(1), y(1)), atol=0.06)
    assert np.allclose(anomalies[1], (x(0), y(0)), atol=0.06)
    assert f'd="M{x(0.5):.1f} {TOP}V{HEIGHT - BOTTOM}"' in chart and "threshold 15.000" in chart
    assert ">0<" in chart and ">30<" in chart  # the ends of the axis too, where they are round


def test_a_histogram_without_anomalies_or_without_a_spread() -> None:
    chart = histogram("Scores", np.array([1.0, 1.0]), np.array([]), 1.0)
    assert "anomalous" not in chart and paths(chart, "first") and "nan" not in chart


def test_a_name_is_text_and_nothing_else() -> None:
    for chart in (auroc_by_round(["r0"], [0.5], [], HOSTILE, [0.5]), roc(HOSTILE, {HOSTILE: [(0, 0), (1, 1)]})):
        for drawn in (chart, standalone(chart)):
            assert "<script" not in drawn and ET.fromstring(drawn) is not None


def test_a_chart_of_its_own_is_black_on_white() -> None:
    chart = roc("ROC of r1", {"r1": [(0, 0), (1, 1)]})
    assert "var(--ink)" in chart and "xmlns" not in chart
    alone = standalone(chart)
    assert "var(" not in alone and LIGHT["ink"] in alone
    root = ET.fromstring(alone)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root[0].attrib["fill"] == "#ffffff"


def test_perfect_rounds_still_have_an_axis() -> None:
    chart = auroc_by_round(["r0", "r1"], [1.0, 1.0], [(1.0, 1.0)] * 2, "near", [1.0, 1.0])
    assert ">0.99<" in chart and ">1<" in chart and "nan" not in chart
