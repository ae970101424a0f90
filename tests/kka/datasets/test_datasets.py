import pytest

from kka import datasets
from kka.errors import KkaError


def test_the_folder_is_the_registry() -> None:
    assert datasets.names() == ["blossom", "cifar100"]


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(KkaError, match="^kka/datasets has no 'cifar10'. Did you mean 'cifar100'\\?$"):
        datasets.load("cifar10", 0, 32)
    with pytest.raises(KkaError, match="^kka/datasets has no 'xyz'. It knows: blossom, cifar100.$"):
        datasets.load("xyz", 0, 32)


def test_unknown_options_are_one_sentence() -> None:
    with pytest.raises(KkaError, match="^the data set 'cifar100' has the unknown option 'sorce'. Did you mean 'source'\\?$"):
        datasets.load("cifar100", 0, 32, sorce="x")
    with pytest.raises(KkaError, match="Did you mean 'archive_seed'"):
        datasets.archive("cifar100", 32, archiv_seed=1)


def test_a_data_set_without_an_archive_says_so() -> None:
    assert not datasets.has_archive("blossom")
    with pytest.raises(KkaError, match="the data set 'blossom' holds no archive. Take one that does \\(cifar100\\)"):
        datasets.archive("blossom", 32)
