"""Frozen feature extractors: a Hugging Face vision model by id or path, EfficientNet-Lite0 from the package registry,
or what a factory of the user's own makes.

A factory is named `package.module:function` or `path/to/file.py:function`; called without arguments it gives a module
from float RGB pictures (b, 3, h, w) in 0 to 1 to a list of feature maps (b, c, h', w'), shallow to deep. To name one
is to run its code."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import cached_property
from os.path import expanduser
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kka.detectors.shared import efficientnet
from kka.errors import KkaError

BUILT_IN = "kka/mini/features"
_PROBE = 224  # side of the pictures with which a backbone is tried out


class Backbone(nn.Module):
    """Float RGB pictures (b, 3, h, w) in 0 to 1 -> feature maps, shallow to deep, and a vector (b, c) for the whole
    picture: the means of all maps, or a transformer's class token. In evaluation mode, and never trained. `fingerprint`
    (16,), uint8, tells its weights and its normalisation from others."""

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps.requires_grad_(False)
        self.fingerprint = _fingerprint(maps)
        self.eval()

    @cached_property
    def depth(self) -> int:
        """How many maps there are, found by trying, when it is first asked for."""
        with torch.inference_mode():
            return len(self(torch.zeros(2, 3, _PROBE, _PROBE))[0])

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps, token = self.maps(x)
        return maps, torch.cat([m.mean((2, 3)) for m in maps], 1) if token is None else token


class _Pretrained(nn.Module):
    """A transformers vision model behind its own normalisation -> the stages of a convolution network, or a
    transformer's blocks at a quarter, a half, three quarters and the end of it; then its class token, or None where it
    has none."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, processor: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.side = model, _side(processor)
        self.register_buffer("mean", torch.tensor(processor["image_mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(processor["image_std"]).view(3, 1, 1))
        self.register_buffer("resized", torch.tensor(self.side or 0))  # so that the fingerprint knows it too
        self.arguments = {"interpolate_pos_encoding": True} if model.config.model_type in ("vit", "deit") else {}

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        if self.side:
            x = F.interpolate(x, size=self.side, mode="bilinear", align_corners=False)
        output = self.model((x - self.mean) / self.std, output_hidden_states=True, **self.arguments)
        states = list(getattr(output, "reshaped_hidden_states", None) or output.hidden_states)[1:]
        if states[0].ndim == 4:
            return states, None
        last, depth = output.last_hidden_state, len(states)
        grid = [x.shape[2] // self.model.config.patch_size, x.shape[3] // self.model.config.patch_size]
        special = last.shape[1] - grid[0] * grid[1]
        blocks = [states[max(0, -(-depth * k // 4) - 1)] for k in (1, 2, 3, 4)]
        maps = [b[:, special:].transpose(1, 2).unflatten(2, grid) for b in blocks]
        return maps, last[:, 0] if special else None


def load(reference: str) -> Backbone:
    """The backbone that `reference` names; the built-in one wherever one stands. Raises KkaError where it cannot be
    had."""
    where = str(Path(__file__).parents[2] / "mini" / "features") if reference == BUILT_IN else reference
    with torch.random.fork_rng(devices=[]):  # whatever a factory draws, a detector's own numbers stay as they are
        if where == efficientnet.NAME:
            return Backbone(efficientnet.load())
        return Backbone(_made(*where.rsplit(":", 1)) if is_factory(where) else _pretrained(where))


def is_factory(reference: str) -> bool:
    """Whether this names a function of the user's own."""
    return ":" in reference[2:]  # not the colon of a Windows drive


def _made(module: str, function: str) -> nn.Module:
    where = f"the backbone '{module}:{function}'"
    make: Any = getattr(_module(module, where), function, None)
    if not callable(make):
        raise KkaError(
            f"{where} wants a function '{function}' in {module}, which has none. Name one that gives a torch module."
        )
    try:
        made = make()
        with torch.inference_mode():
            maps = made.eval()(torch.zeros(2, 3, _PROBE, _PROBE)) if isinstance(made, nn.Module) else None
    except Exception as error:  # it is the user's code: whatever it raises is theirs to see, in a sentence
        raise KkaError(
            f"{where} wants a function without arguments that gives a torch module, got {_reason(error)}"
        ) from error
    if not isinstance(made, nn.Module):
        raise KkaError(f"{where} wants a torch module from its factory, got {type(made).__name__}.")
    if (
        not isinstance(maps, Sequence)
        or not maps
        or any(not isinstance(m, Tensor) or m.ndim != 4 or len(m) != 2 for m in maps)
    ):
        raise KkaError(f"{where} wants a module that gives a list of feature maps (b, c, h, w), got {_shapes(maps)}.")
    return _Listed(made)


class _Listed(nn.Module):
    """The user's module, which has no class token."""

    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> tuple[list[Tensor], None]:
        return list(self.made(x)), None


def _shapes(maps: Any) -> str:
    if isinstance(maps, Tensor):
        return f"a tensor {tuple(maps.shape)}"
    return (
        str([tuple(m.shape) if isinstance(m, Tensor) else type(m).__name__ for m in maps])
        if isinstance(maps, Sequence)
        else type(maps).__name__
    )


def _module(name: str, where: str) -> Any:
    path = Path(name).expanduser()
    if path.suffix != ".py":
        try:
            return importlib.import_module(name)
        except Exception as error:
            raise KkaError(
                f"{where}: {_reason(error)}. Install it, or name a file as path/to/file.py:function."
            ) from error
    if not path.is_file():
        raise KkaError(f"{where}: there is no file {path}. Its path is relative to {Path.cwd()}.")
    spec = importlib.util.spec_from_file_location(f"kka_backbone_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise KkaError(f"{where}: {path} cannot be imported: {_reason(error)}") from error
    return module


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _pretrained(reference: str) -> nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.utils import logging

    logging.set_verbosity_error()  # the classifier that a checkpoint may carry is left out on purpose
    logging.disable_progress_bar()
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(reference)
        model, info = AutoModel.from_pretrained(expanduser(reference), dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise KkaError(
            f"the backbone '{reference}' wants a vision model of transformers with its preprocessor_config.json, got"
            f" {_reason(error)}"
        ) from None
    if "image_mean" not in processor or not hasattr(model.config, "num_channels"):
        raise KkaError(
            f"the backbone '{reference}' is no vision model: name one for pictures alone, such as a ResNet, ConvNeXt"
            " or DINOv2."
        )
    if any(key.startswith("pooler.") for key in info["missing_keys"]):
        model.pooler = None  # a classifier's checkpoint has none: it would be of random weights, and is not used
    if lacking := [key for key in info["missing_keys"] if not key.startswith("pooler.")]:
        raise KkaError(f"the backbone '{reference}' lacks weights, such as {lacking[0]}. Is the file whole?")
    return _Pretrained(model, processor)


def _side(processor: dict[str, Any]) -> int | None:
    """The side to which pictures are resized, as the model was trained; None where it was not."""
    size = (processor.get("do_center_crop") and processor.get("crop_size")) or processor.get("size") or {}
    side = (
        size.get("height") or size.get("shortest_edge")
        if isinstance(size, dict)
        else size
        if isinstance(size, int)
        else size[0]
    )
    return int(side) if side and processor.get("do_resize", True) else None


def _fingerprint(module: nn.Module) -> Tensor:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if value.ndim
            else bytes(str(value.item()), "ascii")
        )
    return torch.frombuffer(bytearray(digest.digest()[:16]), dtype=torch.uint8)
