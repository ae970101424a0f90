"""Solar cells: a package of the same layout with a few made-up ones, and the real one where it is installed."""

import importlib.util
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kka import datasets
from kka.errors import KkaError
from kka.project import doctor, presets
from kka.project.config import with_values
from kka.records import PARTS, Splits
from tests.conftest import photographs

SAID = [("0.0", "mono", 30), ("0.0", "poly", 20), ("0.3333333333333333", "mono", 4)]
SAID += [("0.6666666666666666", "poly", 5), ("1.0", "mono", 10)]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package elpv_dataset that fails when it is imported: nothing but its files is wanted."""
    data, rows = tmp_path / "elpv_dataset" / "data", []
    (data / "images").mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise AssertionError")
    pixels = iter(photographs(sum(n for *_, n in SAID), np.random.default_rng(0))[..., 0])
    for probability, kind, n in SAID:
        for _ in range(n):
            name = f"images/cell{len(rows) + 1:04d}.png"
            Image.fromarray(next(pixels)).save(data / name)
            rows.append(f"{name}  {probability:<18}  {kind}\n")
    (data / "labels.csv").write_text("".join(rows))
    monkeypatch.syspath_prepend(str(tmp_path))
    return data


def groups(splits: Splits) -> Counter[tuple[int, str]]:
    found = [getattr(splits, part) for part in PARTS]
    return Counter(pair for s in found for pair in zip(s.labels.tolist(), s.groups, strict=True))


def test_what_experts_are_sure_of_is_normal_or_anomalous(package: Path) -> None:
    splits = datasets.load("elpv", 0, 32)
    assert groups(splits) == {(0, "mono"): 30, (0, "poly"): 20, (1, "poly 2/3"): 5, (1, "mono 1"): 10}
    # of 50 normals 15% are 8 (7.5 is rounded to even), 10% are 5; of each group of anomalies 10 / 25
    assert [len(getattr(splits, part)) for part in PARTS] == [29, 8, 5 + 2 + 4, 8 + 3 + 6]
    assert set(splits.train.captions) == {"an electroluminescence photo of a solar cell"}


def test_a_kind_is_chosen(package: Path) -> None:
    assert groups(datasets.load("elpv", 0, 32, kind="mono")) == {(0, "mono"): 30, (1, "mono 1"): 10}
    with pytest.raises(KkaError, match="^the data set 'elpv': kind wants 'mono', 'poly' or 'all', got 'multi'.$"):
        datasets.load("elpv", 0, 32, kind="multi")


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        KkaError,
        match="^elpv: the pictures come with the package elpv-dataset, which is not installed. Run `pip install -e"
        " '.\\[photos\\]'`.$",
    ):
        datasets.load("elpv", 0, 32)


def test_the_doctor_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = with_values(presets.config("blossom"), {"prepare.dataset": "elpv"})

    def version(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    said = "elpv-dataset: not installed. Install the project again: pip install -e '.[photos]'"
    with pytest.raises(KkaError, match=said.replace("[", "\\[")):
        doctor.preflight(config, tmp_path)
    monkeypatch.setattr(doctor, "version", lambda name: "1.0.0")
    assert doctor.Finding("ok", "elpv-dataset", "1.0.0") in list(doctor._photos(config))
    assert list(doctor._photos(presets.config("blossom"))) == []


def test_the_real_cells_are_all_there() -> None:
    if importlib.util.find_spec("elpv_dataset") is None:
        pytest.skip("the solar cells are not here: pip install -e '.[photos]'")
    found = datasets.load("elpv", 0, 16, kind="mono")
    assert groups(found) == {(0, "mono"): 588, (1, "mono 2/3"): 56, (1, "mono 1"): 313}
