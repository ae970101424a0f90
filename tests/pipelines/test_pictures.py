"""Records and pictures belong together, or the stage stops."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kka.errors import KkaError
from kka.images import read_images, shard_path, write_images
from kka.records import Anomaly, Description, sha256, write_json, write_records
from pipelines.generated import measuring_controls, new_pictures, pictures, training_controls
from pipelines.matching import match_spectrum
from pipelines.stage import Run, make_run
from tests.pipelines.conftest import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)  # more than one shard


def store(run: Run, name: str, part: str, n: int) -> None:
    write_images(folder := run.path("data", name, part), IMAGES[:n])
    write_json(folder / "captions.json", ["a flower"] * n)


def test_pictures_come_in_the_order_of_their_records(run: Run, anomaly: Callable[..., Anomaly]) -> None:
    store(run, "r1", "anomalies", 300)
    store(run, "r2", "anomalies", 3)
    wanted = [("r1", 299), ("r2", 1), ("r1", 0)]
    records = [anomaly(round=r, row=i, sha256=sha256(IMAGES[i])) for r, i in wanted]
    assert np.array_equal(pictures(run, records), IMAGES[[299, 1, 0]])


@pytest.mark.parametrize("row", [1, 3])
def test_a_picture_that_is_not_the_recorded_one_is_refused(run: Run, anomaly: Callable[..., Anomaly], row: int) -> None:
    store(run, "r1", "anomalies", 3)
    with pytest.raises(
        KkaError, match=f"data/r1/anomalies: picture {row} is not the one.*dvc repro --force synthesize@r1"
    ):
        pictures(run, [anomaly(row=row, sha256=sha256(IMAGES[0]))])


def test_a_missing_and_a_truncated_shard_are_named(run: Run, anomaly: Callable[..., Anomaly]) -> None:
    store(run, "r1", "anomalies", 300)
    shard = shard_path(run.path("data", "r1", "anomalies"), 0)
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(KkaError, match="images-00000.parquet: wanted a shard of pictures, got a broken file"):
        pictures(run, [anomaly()])
    shard.unlink()
    with pytest.raises(KkaError, match="images-00000.parquet is missing"):
        pictures(run, [anomaly()])


def test_as_many_pictures_as_kept_descriptions(run: Run) -> None:
    store(run, "r1", "anomalies", 2)
    found = [Description(str(i), str(i), "kept" if i else "normal", 0.0, 0.0) for i in range(3)]
    path = run.path("data", "r1", "descriptions.jsonl")
    write_records(path, found)
    kept, images = new_pictures(run)
    assert ([d.id for d in kept], len(images)) == (["1", "2"], 2)
    write_records(path, found[:2])
    with pytest.raises(KkaError, match="wanted 1 pictures, got 2"):
        new_pictures(run)


def test_controls_are_halved_into_those_to_train_with_and_those_to_measure(run: Run) -> None:
    store(run, "r1", "controls", 5)
    trained, measured = training_controls(run), measuring_controls(run)
    assert trained is not None and np.array_equal(trained, IMAGES[[0, 1]])
    assert measured is not None and np.array_equal(measured, IMAGES[[2, 3, 4]])


def test_controls_of_earlier_rounds_are_trained_on_too_but_never_measured(tmp_path: Path) -> None:
    run = make_run(tiny(rounds={"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}, last="r2"), tmp_path, ["r2"])
    store(run, "r1", "controls", 4)
    store(run, "r2", "controls", 6)
    trained, measured = training_controls(run), measuring_controls(run)
    assert trained is not None and np.array_equal(trained, IMAGES[[0, 1, 0, 1, 2]])
    assert measured is not None and np.array_equal(measured, IMAGES[[3, 4, 5]])


def test_no_controls_are_no_controls(run: Run) -> None:
    write_json(run.path("data", "r1", "controls", "captions.json"), [])
    assert training_controls(run) is measuring_controls(run) is None


def test_controls_that_lack_pictures_are_refused(run: Run) -> None:
    store(run, "r1", "controls", 4)
    write_json(run.path("data", "r1", "controls", "captions.json"), ["a flower"] * 5)
    with pytest.raises(KkaError, match="controls: wanted 5 pictures, got 4"):
        training_controls(run)


def test_spectra_are_matched_by_the_training_half_of_the_controls_alone(run: Run) -> None:
    normals, found = IMAGES[200:], []
    for measured in (10, 20):  # the measuring half differs
        store(run, "r1", "anomalies", 5)
        write_images(
            folder := run.path("data", "r1", "controls"),
            np.concatenate([IMAGES[:8] // 2, IMAGES[measured : measured + 8]]),
        )
        write_json(folder / "captions.json", ["a flower"] * 16)
        match_spectrum(run, normals)
        found.append(read_images(run.path("data", "r1", "anomalies")))
        assert not np.array_equal(read_images(folder)[8:], IMAGES[measured : measured + 8])
    assert np.array_equal(*found)
    assert found[0].std() > IMAGES[:5].std() * 1.2  # the controls held half the contrast of the normals
