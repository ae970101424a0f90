from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kka import datasets, registry
from kka.errors import KkaError
from kka.records import Split, Splits


def test_the_folder_is_the_registry() -> None:
    shipped = {"blossom", "cifar100", "csv", "elpv", "folder", "mvtec", "oxford102", "ucm"}
    assert shipped <= set(datasets.names()) and "shared" not in datasets.names()


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(KkaError, match="^kka/datasets has no 'cifar10'. Did you mean 'cifar100'\\?$"):
        datasets.load("cifar10", 0, 32)
    with pytest.raises(KkaError, match="^kka/datasets has no 'xyz'. It knows: .*blossom, .*ucm.*.$"):
        datasets.load("xyz", 0, 32)


def test_unknown_options_are_one_sentence() -> None:
    with pytest.raises(
        KkaError, match="^the data set 'cifar100' has the unknown option 'sorce'. Did you mean 'source'\\?$"
    ):
        datasets.load("cifar100", 0, 32, sorce="x")
    with pytest.raises(KkaError, match="Did you mean 'archive_seed'"):
        datasets.archive("cifar100", 32, archiv_seed=1)


def test_a_data_set_without_an_archive_says_so() -> None:
    assert not datasets.has_archive("blossom")
    with pytest.raises(KkaError, match="the data set 'blossom' holds no archive. Take one that does \\(.*cifar100"):
        datasets.archive("blossom", 32)


def split(*labels: int) -> Split:
    n = len(labels)
    return Split(np.zeros((n, 8, 8, 3), np.uint8), ("a part",) * n, np.array(labels, dtype=np.int64), ("part",) * n)


def module(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Splits]) -> None:
    monkeypatch.setattr(registry, "find", lambda package, name: SimpleNamespace(load=load))


def test_a_missing_option_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(seed: int, image_size: int, *, folder: str) -> Splits:
        raise AssertionError

    module(monkeypatch, load)
    with pytest.raises(
        KkaError, match="^the data set 'parts' wants the option 'folder', got none. Set prepare.options.folder.$"
    ):
        datasets.load("parts", 0, 8)
    with pytest.raises(KkaError, match="folder wants a valid string, got 5"):
        datasets.load("parts", 0, 8, folder=5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": ()}, "train wants normals only, got 0 normals and 0 anomalies"),
        ({"calibration": (0, 1)}, "calibration wants normals only, got 1 normals and 1 anomalies"),
        ({"validation": ()}, "validation wants normals, got 0 normals and 0 anomalies"),
        ({"test": (1,)}, "test wants normals, got 0 normals and 1 anomalies"),
        ({}, None),
        ({"validation": (0, 0), "test": (0, 0)}, None),  # no real anomalies are known
    ],
)
def test_a_split_without_what_it_is_for_is_named(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], said: str | None
) -> None:
    labels = {"train": (0,), "calibration": (0,), "validation": (0, 1), "test": (0, 1)} | changed
    module(monkeypatch, lambda seed, image_size: Splits(**{part: split(*each) for part, each in labels.items()}))
    if said is None:
        assert len(datasets.load("parts", 0, 8).test) == 2
    else:
        with pytest.raises(KkaError, match=f"^the data set 'parts': {said}.$"):
            datasets.load("parts", 0, 8)


@pytest.mark.parametrize("name", datasets.names())
def test_what_a_data_set_says_of_its_options_is_of_options_that_it_takes(name: str) -> None:
    known = registry.keywords(registry.find("kka.datasets", name).load)
    assert {*datasets.paths(name), *datasets.models(name)} <= set(known)
    assert not datasets.takes_hub_id(name) or "source" in known
