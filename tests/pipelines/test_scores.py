"""What evaluation leaves for people to look at: every score, and the pictures scored most wrongly."""

from dataclasses import replace

import numpy as np

from kka.evaluation import Measured
from kka.records import Mistake, Split
from pipelines.evaluate import MOST, write_scores
from pipelines.stage import Run

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
TEST = Split(
    IMAGES,
    tuple(f'caption, "{i}"' for i in range(30)),
    np.repeat([0, 1], [20, 10]),
    tuple(["a, b"] * 20 + ["near"] * 4 + ["far"] * 6),
)
CALIBRATION = TEST.take(np.arange(2))
SCORES = np.random.default_rng(1).normal(TEST.labels, 1.0) / 3


def write(run: Run, test: Split = TEST) -> None:
    write_scores(run, test, CALIBRATION, Measured({}, SCORES[: len(test)], np.array([0.1, 0.2])))


def test_every_score_stands_in_full_calibration_first(run: Run) -> None:
    write(run)
    head, *lines = run.files.scores.read_text().splitlines()
    assert head == "split,label,group,score"
    assert lines[:2] == ['calibration,0,"a, b",0.1', 'calibration,0,"a, b",0.2']
    assert (
        lines[2] == f'test,0,"a, b",{float(SCORES[0])!r}'
        and lines[-1] == f"test,1,far,{float(SCORES[29])!r}"
        and len(lines) == 32
    )
    found = run.files.read_scores()
    assert np.array_equal(found.values, SCORES) and np.array_equal(found.labels, TEST.labels)
    assert (len(found.normals), len(found.anomalies)) == (20, 10)


def test_mistakes_are_the_worst_of_either_kind_with_their_pictures(run: Run) -> None:
    write(run)
    found, images = run.files.read_mistakes()
    assert [m.label for m in found] == [0] * MOST + [1] * MOST
    rows = [m.row for m in found]
    assert rows[0] == SCORES[:20].argmax() and rows[MOST] == 20 + SCORES[20:].argmin()
    assert np.array_equal(images, IMAGES[rows])
    assert found[0] == Mistake(rows[0], 0, "a, b", f'caption, "{rows[0]}"', float(SCORES[rows[0]]))


def test_without_known_anomalies_only_false_alarms_are_mistakes(run: Run) -> None:
    write(run, replace(TEST, labels=np.zeros(30, np.int64)))
    write(run, TEST.take(np.arange(3)))  # fewer than before, and none of the earlier ones stays
    found, images = run.files.read_mistakes()
    assert [m.label for m in found] == [0, 0, 0] and len(images) == 3
    assert run.files.plot("roc").read_text() == "fpr,tpr\n"
    assert len(run.files.read_scores().anomalies) == 0
