"""CIFAR-100 as Hugging Face writes it: a tiny made-up one, and the real one where it lies."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kka import datasets
from kka.records import Split

ROOT = Path(__file__).parents[1]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path: Path, pixels: Sequence[np.ndarray], labels: Sequence[int]) -> None:
    pictures = pa.array(
        [{"bytes": png(p), "path": None} for p in pixels], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"img": pictures, "fine_label": pa.array(labels), "coarse_label": pa.array([0] * len(labels))}), path
    )


def photographs(n: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks of colour, which compress well and never repeat."""
    return rng.integers(0, 256, (n, 4, 4, 3)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="session")
def cifar100_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs a class in each file, ten of the normal ones to train with; the last three training rows stand
    elsewhere too: row 0 of the training file again, row 0 of the test file, and row 1 of the training file under
    another label."""
    folder, rng = tmp_path_factory.mktemp("cifar100"), np.random.default_rng(0)
    labels = [c for c in range(100) for _ in range(10 if c in (5, 20, 25, 84, 94) else 2)]
    pixels, tested = photographs(len(labels), rng), photographs(200, rng)
    train = np.concatenate([pixels, pixels[:1], tested[:1], pixels[1:2]])
    write_parquet(folder / "train.parquet", train, [*labels, labels[0], 0, 5])
    write_parquet(folder / "test.parquet", tested, [c for c in range(100) for _ in range(2)])
    return folder


@pytest.fixture(scope="session")
def cifar100_data() -> Path:
    folder = Path(os.environ.get("KKA_DATA", ROOT.parent / "shared" / "data")) / "cifar100"
    if not folder.is_dir():
        pytest.skip(
            f"the real photographs are not here: {folder} is no folder; KKA_DATA may name the folder that holds"
            " cifar100"
        )
    return folder


@pytest.fixture(scope="session")
def cifar100_archive(cifar100_data: Path) -> Split:
    return datasets.archive("cifar100", 32, source=str(cifar100_data))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a Hugging Face hub that cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(cache: Path, dataset: str, revision: str = "main") -> Path:
    """The folder in the cache that holds the files of a revision of a data set."""
    place = cache / f"datasets--{dataset.replace('/', '--')}"
    commit = revision.replace("/", "").ljust(40, "0")
    (place / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True)
    return place / "snapshots" / commit
