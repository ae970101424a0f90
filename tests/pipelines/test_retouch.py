"""A round on normal pictures: what it counts, and before, after and mask in the report."""

import re
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from kka.detectors import Detector
from kka.images import read_images, read_split
from kka.records import Description, read_json, read_records, write_records
from pipelines import assess, report, synthesize
from pipelines.reporting import tables
from pipelines.reporting.pictures import strips
from pipelines.stage import Run, make_run
from tests.pipelines.conftest import tiny

TEXTS = ("a large dark stain", "a long bright scratch", "a grumbling wobble", "many small holes")


@pytest.fixture
def retouched(copy: Run) -> Run:
    """Round r1 of the finished project, its pictures drawn on normal ones."""
    config = tiny(
        synthesize__synthesizer="retouch",
        synthesize__match_spectrum=False,
        synthesize__controls=0,
        synthesize__options={},
    )
    run = make_run(config, copy.root, ["r1"])
    kept = [d for d in read_records(run.files.descriptions, Description) if d.outcome == "kept"]
    write_records(run.files.descriptions, [replace(d, text=TEXTS[i % 4]) for i, d in enumerate(kept)])
    synthesize.main(run)
    return run


def test_what_is_unreadable_or_unchanged_is_counted(retouched: Run) -> None:
    counts = read_json(retouched.files.metrics("synthesize"))
    n = len(retouched.files.read_anomalies()[0])
    assert counts["anomalies"] == n and counts["controls"] == 0
    assert counts["unreadable"] == counts["unknown"] == n // 4 and counts["unknown_kinds"] == ["grumbling wobble"]
    assert counts["drawn"] + counts["unchanged"] == n - n // 4 and counts["drawn"] > n / 2
    normals = read_split(retouched.layout.split("train")).images
    unreadable = read_images(retouched.files.anomalies)[2]
    assert (normals == unreadable).all(axis=(1, 2, 3)).any()


def test_the_report_shows_before_after_and_mask(retouched: Run) -> None:
    assess.main(retouched)
    report.main(retouched)
    folder = retouched.root / "report"
    page = (folder / "report.html").read_text(encoding="utf-8")
    shown = len(re.findall('alt="where the picture above was changed"', page))
    assert shown and shown == page.count('alt="the normal picture before the change"')
    assert "6 name no kind of defect that the vocabulary knows" in page and "grumbling wobble" in page
    of_round = strips(retouched.layout, "r1", retouched.files.read_pool(), cast(Detector, object()))
    assert of_round
    for strip in of_round:
        assert strip.before is not None and strip.masks is not None
        assert [id(row) for row in strip.shown] == [id(strip.before), id(strip.images), id(strip.masks)]
        assert np.array_equal((strip.images != strip.before).any(axis=-1), strip.masks[..., 0] == 255)
    height = len(np.asarray(Image.open(folder / "r1.png")))
    assert height > 3 * 128 * len(of_round)  # small pictures are enlarged to 128 pixels


def test_the_sentence_on_drawing_is_there_where_something_was_counted() -> None:
    assert tables.drawing({"synthesize": {"anomalies": 3, "controls": 0}}) == "" == tables.drawing({})
    said = tables.drawing({"synthesize": {"unreadable": 2, "unchanged": 1, "unknown_kinds": []}})
    assert "2 name no kind of defect" in said and "1 left" in said and "Unknown" not in said
