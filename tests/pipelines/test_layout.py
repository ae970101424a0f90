"""Records and pictures belong together, or the stage stops."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kka.errors import KkaError
from kka.images import shard_path, write_images
from kka.records import Anomaly, Description, sha256, write_json, write_records
from pipelines.layout import Layout
from pipelines.stage import Run

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)  # more than one shard


def store(run: Run, name: str, part: str, n: int) -> None:
    write_images(folder := getattr(run.layout.round(name), part), IMAGES[:n])
    write_json(folder / "captions.json", ["a flower"] * n)


def test_pictures_come_in_the_order_of_their_records(run: Run, anomaly: Callable[..., Anomaly]) -> None:
    store(run, "r1", "anomalies", 300)
    store(run, "r2", "anomalies", 3)
    wanted = [("r1", 299), ("r2", 1), ("r1", 0)]
    records = [anomaly(round=r, row=i, sha256=sha256(IMAGES[i])) for r, i in wanted]
    assert np.array_equal(run.layout.read_pictures(records), IMAGES[[299, 1, 0]])


@pytest.mark.parametrize("row", [1, 3])
def test_a_picture_that_is_not_the_recorded_one_is_refused(run: Run, anomaly: Callable[..., Anomaly], row: int) -> None:
    store(run, "r1", "anomalies", 3)
    with pytest.raises(
        KkaError, match=f"data/r1/anomalies: picture {row} is not the one.*dvc repro --force synthesize@r1"
    ):
        run.layout.read_pictures([anomaly(row=row, sha256=sha256(IMAGES[0]))])


def test_a_missing_and_a_truncated_shard_are_named(run: Run, anomaly: Callable[..., Anomaly]) -> None:
    store(run, "r1", "anomalies", 300)
    shard = shard_path(run.files.anomalies, 0)
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(KkaError, match="images-00000.parquet: wanted a shard of pictures, got a broken file"):
        run.layout.read_pictures([anomaly()])
    shard.unlink()
    with pytest.raises(KkaError, match="images-00000.parquet is missing"):
        run.layout.read_pictures([anomaly()])


def test_as_many_pictures_as_kept_descriptions(run: Run) -> None:
    store(run, "r1", "anomalies", 2)
    found = [Description(str(i), str(i), "kept" if i else "normal", 0.0, 0.0) for i in range(3)]
    path = run.files.descriptions
    write_records(path, found)
    kept, images = run.files.read_anomalies()
    assert ([d.id for d in kept], len(images)) == (["1", "2"], 2)
    write_records(path, found[:2])
    with pytest.raises(KkaError, match="wanted 1 pictures, got 2"):
        run.files.read_anomalies()


def test_no_controls_are_no_controls(run: Run) -> None:
    write_json(run.files.controls / "captions.json", [])
    assert run.files.read_controls() is None


def test_controls_that_lack_pictures_are_refused(run: Run) -> None:
    store(run, "r1", "controls", 4)
    write_json(run.files.controls / "captions.json", ["a flower"] * 5)
    with pytest.raises(KkaError, match="controls: wanted 5 pictures, got 4"):
        run.files.read_controls()


def test_every_file_of_a_round_lies_in_its_folders() -> None:
    files = Layout(Path("root")).round("r7")
    names = (
        "detector",
        "repeats",
        "adapter",
        "anomalies",
        "controls",
        "descriptions",
        "pool",
        "pairs",
        "scores",
        "mistakes",
    )
    paths = [getattr(files, name) for name in names]
    assert len(set(paths)) == len(names) and all(p.parent == Path("root/data/r7") for p in paths)
    assert files.metrics("assess") == Path("root/metrics/r7/assess.json")
    assert files.plot("roc") == Path("root/plots/r7/roc.csv")
