"""Captions by small models of two real architectures, one that is asked and one that is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kka import datasets
from kka.datasets.shared.captioner import write_captions
from kka.errors import KkaError
from tests import standins
from tests.conftest import photographs


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "good").mkdir()
    paths = [tmp_path / "good" / f"{i}.png" for i in range(20)]
    for path, pixels in zip(paths, photographs(20, np.random.default_rng(0)), strict=True):
        Image.fromarray(pixels).convert("RGBA").save(path)
    return paths


@pytest.mark.parametrize("make", [standins.blip, standins.llava])
def test_every_picture_gets_its_caption(make: Callable[[Path], str], files: list[Path], tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    found = write_captions(model, files)
    assert len(found) == 20 and all(found) and found == write_captions(model, files)
    assert not any("Describe" in text or "<" in text for text in found)  # what it was asked is no part of it


def test_normal_pictures_without_captions_are_captioned(files: list[Path], tmp_path: Path) -> None:
    model = standins.blip(tmp_path / "model")
    splits = datasets.load("folder", 0, 32, normal=str(files[0].parent), captioner=model)
    assert set(splits.train.captions) <= set(write_captions(model, files))
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{p.name},my own\n" for p in files))
    own = datasets.load(
        "folder", 0, 32, normal=str(files[0].parent), captioner=model, captions=str(tmp_path / "captions.csv")
    )
    assert set(own.train.captions) == {"my own"}


def test_another_kind_of_model_is_named(files: list[Path], tmp_path: Path) -> None:
    text = standins.language_model(tmp_path / "text", "qwen2", ["a part"])
    for model in (text, str(tmp_path / "nowhere")):
        with pytest.raises(
            KkaError, match=f"^prepare.options.captioner: wanted an image-to-text model .*, got '{model}'"
        ):
            write_captions(model, files)
