"""Pipelines of six families in small, from noise and from normal pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kka.errors import Collapse, KkaError
from kka.synthesizers.diffusion import Synthesizer
from tests import standins
from tests.conftest import photographs

TEXTS = ["a red gear", "a blue gear", "a worn gear"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers' DPM-Solver with numpy 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in standins.PIPELINES.items()}


@pytest.mark.parametrize("family", standins.PIPELINES)
def test_every_family_draws_by_text_and_seed(family: str, models: dict[str, str]) -> None:
    made = Synthesizer(model=models[family], steps=2)
    found = made.synthesize(TEXTS, [1, 2, 3])
    assert found.dtype == np.uint8 and found.shape[0] == 3 and found.shape[1] == found.shape[2] and found.shape[3] == 3
    assert np.array_equal(found, made.synthesize(TEXTS, [1, 2, 3]))
    assert not np.array_equal(found, made.synthesize(TEXTS, [1, 2, 4]))
    assert not np.array_equal(found[0], made.synthesize(["a blue gear"], [1])[0])


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_strength_begins_from_a_normal_picture(family: str, models: dict[str, str]) -> None:
    normals = photographs(3, np.random.default_rng(0))
    seeds = [int(np.flatnonzero([np.random.default_rng(s).integers(3) == i for s in range(50)])[0]) for i in range(3)]
    near, far = (Synthesizer(model=models[family], steps=10, strength=s, normals=normals) for s in (0.1, 1.0))
    one, other = near.synthesize(TEXTS, seeds), far.synthesize(TEXTS, seeds)
    same = near.synthesize(TEXTS[::-1], seeds)
    assert one.shape[0] == 3 and np.abs(one.astype(int) - same).mean() < np.abs(one.astype(int) - other).mean()
    with pytest.raises(KkaError, match="^synthesize.options.strength: wanted normal pictures to begin with, got none"):
        Synthesizer(model=models[family], steps=2, strength=0.5).synthesize(TEXTS, [1, 2, 3])


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_pictures_that_begin_as_normal_ones_have_the_side_that_is_asked_for(
    family: str, models: dict[str, str]
) -> None:
    normals = photographs(3, np.random.default_rng(0))
    made = Synthesizer(model=models[family], steps=2, strength=0.5, side=48, normals=normals)
    assert made.synthesize(TEXTS, [1, 2, 3]).shape == (3, 48, 48, 3)


def test_options_reach_the_pipeline(models: dict[str, str]) -> None:
    half = Synthesizer(model=models["sd"], steps=2, dtype="bfloat16", side=64, negative_prompt="blurred")
    assert half._pipe.unet.dtype == torch.bfloat16
    assert half.synthesize(TEXTS, [1, 2, 3]).shape == (3, 64, 64, 3)
    plain = Synthesizer(model=models["sd"], steps=2, side=64, dtype="bfloat16")
    assert not np.array_equal(half.synthesize(TEXTS, [1, 2, 3]), plain.synthesize(TEXTS, [1, 2, 3]))


def test_mistakes_are_one_sentence(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = standins.language_model(tmp_path / "text", "qwen2", TEXTS)
    for model in (text, str(tmp_path / "nowhere")):
        with pytest.raises(
            KkaError, match=f"^synthesize.options.model: wanted a text-to-image pipeline .*, got '{model}' \\(.*\\)$"
        ):
            Synthesizer(model=model)
    with pytest.raises(KkaError, match="^synthesize.options.model: .*"):
        Synthesizer(model=models["pixart"], strength=0.5)  # there is none of that family that begins from pictures
    with pytest.raises(KkaError, match="^synthesize.options.offload: wanted a GPU to keep weights out of, got none"):
        Synthesizer(model=models["sd"], offload="model")
    with pytest.raises(KkaError, match="^synthesize.options: steps 8 times strength 0.1 leaves no step. Raise either."):
        Synthesizer(model=models["sd"], strength=0.1)
    made = Synthesizer(model=models["sd"], steps=2)
    with torch.no_grad():
        made._pipe.vae.decoder.conv_out.weight.fill_(float("nan"))
    with pytest.raises(
        Collapse, match="^synthesize.options.dtype: .* lost itself in float32. Set it to bfloat16 or float32"
    ):
        made.synthesize(TEXTS, [1, 2, 3])
