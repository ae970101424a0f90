"""Backbones: real architectures of transformers in small, a factory of one's own, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from kka.detectors.shared import backbones
from kka.errors import KkaError

PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 64, "width": 64}, "do_resize": True}
SMALL = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {  # the model, the sides and channels of its maps, and the width of the whole picture's vector
    "resnet": (
        lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")),
        [(8, 16), (12, 8)],
        20,
    ),
    "convnext": (
        lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1] * 4)),
        [(4, 16), (8, 8), (12, 4), (16, 2)],
        40,
    ),
    "swin": (
        lambda: SwinModel(SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)),
        [(16, 8), (16, 8)],
        32,
    ),
    "vit": (
        lambda: ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=16), add_pooling_layer=False),
        [(16, 4)] * 4,
        16,
    ),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**SMALL, image_size=32, patch_size=16)), [(16, 4)] * 4, 16),
}


def saved(make, folder, **processor):
    torch.manual_seed(0)
    make().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return str(folder)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers_give_maps_from_shallow_to_deep_and_a_vector(name, tmp_path):
    make, shapes, width = MODELS[name]
    backbone = backbones.load(saved(make, tmp_path))
    with torch.inference_mode():
        maps, whole = backbone(torch.rand(3, 3, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(3, c, side, side) for c, side in shapes]
    assert whole.shape == (3, width)
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())


def test_a_classifiers_checkpoint_lacks_the_pooler_that_its_model_would_draw_anew(tmp_path):
    from transformers import ViTForImageClassification

    reference = saved(lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=16)), tmp_path)
    one, other = backbones.load(reference), backbones.load(reference)
    assert torch.equal(one.fingerprint, other.fingerprint)
    assert not any("pooler" in key for key in one.state_dict())


def test_another_normalisation_is_another_backbone(tmp_path):
    before = backbones.load(saved(MODELS["resnet"][0], tmp_path)).fingerprint
    for change in ({"image_mean": [0.4] * 3}, {"size": 48}):
        assert not torch.equal(before, backbones.load(saved(MODELS["resnet"][0], tmp_path, **change)).fingerprint)


def test_the_fingerprint_is_of_the_weights_and_not_of_their_layout_in_memory():
    torch.manual_seed(0)
    maps = torch.nn.Conv2d(3, 4, 1)  # contiguous in both layouts, with strides of either
    before = backbones.Backbone(maps).fingerprint
    assert torch.equal(before, backbones.Backbone(maps.to(memory_format=torch.channels_last)).fingerprint)


def test_loading_draws_nothing_from_the_callers_numbers(factory):
    torch.manual_seed(5)
    backbones.load(f"{factory}:two")
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_pictures_are_resized_and_normalised_as_the_model_was_trained(tmp_path):
    backbone = backbones.load(saved(MODELS["resnet"][0], tmp_path))
    seen = []
    backbone.maps.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    backbone(torch.full((1, 3, 16, 16), 0.75))
    assert seen[0].shape == (1, 3, 64, 64) and torch.allclose(seen[0], torch.ones(1))  # (0.75 - 0.5) / 0.25


@pytest.mark.parametrize(
    ("processor", "side"),
    [
        ({"size": {"shortest_edge": 48}}, 48),
        ({"size": 40}, 40),
        ({"size": [40, 40]}, 40),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}, 224),
        ({"do_resize": False}, None),
    ],
)
def test_the_side_is_that_of_the_preprocessor(processor, side, tmp_path):
    assert backbones.load(saved(MODELS["resnet"][0], tmp_path, **processor)).maps.side == side


def test_a_blocks_maps_lie_where_the_picture_has_them(tmp_path):
    """A change in one corner of the picture changes the first block's map most there, for a transformer's tokens
    too."""
    backbone = backbones.load(saved(MODELS["vit"][0], tmp_path))
    plain = torch.full((1, 3, 64, 64), 0.5)
    marked = plain.clone()
    marked[:, :, :16, 48:] = 1.0  # the patch in the first row, at the end
    with torch.inference_mode():
        change = (backbone(marked)[0][0] - backbone(plain)[0][0]).norm(dim=1)[0]
    assert change.argmax().item() == 3


def test_the_built_in_one_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maps, whole = backbones.load(backbones.BUILT_IN)(torch.rand(2, 3, 32, 32))
    assert [m.shape[1:] for m in maps] == [(32, 16, 16), (64, 8, 8), (128, 4, 4)] and whole.shape == (2, 224)


FACTORY = """
import torch
from torch import nn
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]
def two():
    torch.manual_seed(0)
    return Two()
def other():
    torch.manual_seed(1)
    return Two()
def flat():
    return nn.Flatten()
def number():
    return 3
def asks(side):
    return Two()
def breaks():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "broken.py").write_text("import nothere")
    return f"{tmp_path / 'mine.py'}"


def test_a_factory_in_a_file_or_a_package(factory, monkeypatch):
    maps, whole = backbones.load(f"{factory}:two")(torch.rand(2, 3, 16, 16))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 8, 8), (2, 6, 4, 4)]
    assert backbones.load(f"{factory}:two").depth == 2
    torch.testing.assert_close(whole, torch.cat([m.mean((2, 3)) for m in maps], 1))
    monkeypatch.syspath_prepend(str(Path(factory).parent))
    assert torch.equal(backbones.load("mine:two").fingerprint, backbones.load(f"{factory}:two").fingerprint)


def test_the_fingerprint_tells_weights_apart(factory):
    one, same, other = (backbones.load(f"{factory}:{name}").fingerprint for name in ("two", "two", "other"))
    assert torch.equal(one, same) and not torch.equal(one, other) and one.shape == (16,)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("{file}:three", "wants a function 'three' in"),
        ("{file}:number", "wants a torch module from its factory, got int"),
        ("{file}:flat", r"wants a module that gives a list of feature maps \(b, c, h, w\), got a tensor \(2, 150528\)"),
        (
            "{file}:asks",
            "wants a function without arguments that gives a torch module, got TypeError: asks.. missing 1 required",
        ),
        ("{file}:breaks", "got RuntimeError: no weights here"),
        ("{folder}/none.py:two", "there is no file"),
        ("{folder}/broken.py:two", "broken.py cannot be imported: ModuleNotFoundError: No module named 'nothere'"),
        ("kka_has_none.such:two", "No module named 'kka_has_none'"),
        (
            "{folder}",
            "wants a vision model of transformers with its preprocessor_config.json, got OSError: Can.t load image"
            " processor",
        ),
        ("kka/mini/lm", "wants a vision model of transformers"),
    ],
)
def test_what_is_no_backbone_is_refused_in_one_sentence(reference, sentence, factory):
    with pytest.raises(KkaError, match=sentence):
        backbones.load(reference.format(file=factory, folder=Path(factory).parent))


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    reference = saved(MODELS["resnet"][0], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "embedder.embedder" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(KkaError, match="lacks weights, such as embedder.embedder"):
        backbones.load(reference)
    (tmp_path / "model.safetensors").write_bytes(b"0" * 20)
    with pytest.raises(KkaError, match="wants a vision model of transformers"):
        backbones.load(reference)


def test_a_language_model_with_a_preprocessor_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaModel

    text = LlamaModel(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(KkaError, match="is no vision model"):
        backbones.load(saved(lambda: text, tmp_path))
