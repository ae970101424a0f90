"""What the detectors share: checked input, scoring in batches of one size, and a folder of safetensors and json."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kka.errors import BrokenFile, KkaError
from kka.records import Changes, Images, read_json, whole_folder, write_json

_FEW, _MANY = 8, 64  # pictures that are computed together, where they have at most ...
_SMALL = 64 * 64  # ... so many pixels; of larger ones fewer, ...
_PIXELS, _LEAST = 8 * 128 * 128, 4  # ... for activations that leave the processor's cache cost several times as much
_FACTS, _WEIGHTS = "detector.json", "weights.safetensors"


def check_fit(
    who: str,
    normals: Images,
    anomalies: Images | None,
    generated_normals: Images | None,
    changes: Changes | None = None,
) -> None:
    """Raises KkaError unless all are non-empty uint8 (n, h, w, 3) of one size, h and w at least 16, and changes belong
    to the anomalies."""
    check_images(f"{who}.fit: normals", normals)
    if min(normals.shape[1:3]) < 16:
        raise KkaError(
            f"{who}.fit wants pictures of at least 16x16 pixels, got {_size(normals)}. Raise prepare.image_size."
        )
    for name, images in (("anomalies", anomalies), ("generated_normals", generated_normals)):
        if images is not None:
            check_images(f"{who}.fit: {name}", images)
            if images.shape[1:] != normals.shape[1:]:
                raise KkaError(
                    f"{who}.fit: {name} want the normals' size {_size(normals)}, got {_size(images)}. Prepare both"
                    " alike."
                )
    if changes is not None and (anomalies is None or changes.sources.shape != anomalies.shape):
        shape = None if anomalies is None else anomalies.shape
        raise KkaError(f"{who}.fit wants changes of its anomalies {shape}, got sources {changes.sources.shape}.")


def check_score(who: str, images: Images, size: tuple[int, int] | None) -> None:
    """Raises KkaError unless the detector is fitted, and on pictures of this kind and size."""
    if size is None:
        raise KkaError(f"{who}.score wants a fitted detector, got one that is not. Call fit or load first.")
    check_images(f"{who}.score: images", images)
    if tuple(images.shape[1:3]) != size:
        raise KkaError(
            f"{who}.score wants pictures as large as in its fit, {size[1]}x{size[0]}, got {_size(images)}. Prepare"
            " both alike."
        )


def check_images(what: str, images: Images) -> None:
    """Raises KkaError unless these are uint8 (n, h, w, 3), at least one."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        kind = f"{images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
        holes = " with NaN" if kind.startswith("float") and np.isnan(images).any() else ""
        raise KkaError(f"{what} want a uint8 array, got {kind}{holes}. Bring them through kka.images.prepare.")
    if images.ndim != 4 or images.shape[3] != 3:
        raise KkaError(
            f"{what} want the shape (n, h, w, 3), got {images.shape}. Bring them through kka.images.prepare."
        )
    if not images.size:
        raise KkaError(f"{what} want at least one picture, got none. Leave out what there is none of.")


def channels_first(images: Images) -> Tensor:
    """uint8 (n, h, w, 3) as (n, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def floats(images: Tensor) -> Tensor:
    """uint8 pictures (n, 3, h, w) as floats in 0 to 1."""
    return images.float().div_(255).contiguous()


def batch_size(n: int, height: int, width: int) -> int:
    """How many of n pictures are computed together: a few do not wait for as many as would be fastest. Between the
    sizes rounding differs, by some millionths of a score."""
    pixels = height * width
    most = _MANY if pixels <= _SMALL else max(_LEAST, min(_MANY, _PIXELS // pixels))
    return 1 if n == 1 else min(_FEW, most) if n <= _FEW else most


def batched(images: Images | Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of float pictures, (b, 3, h, w) -> (b, ...), over all, uint8 (n, h, w, 3) or (n, 3, h, w), as
    `batched_all` does."""
    return batched_all(images, lambda batch: (function(batch),))[0]


@torch.no_grad()
def batched_all(images: Images | Tensor, function: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
    """What `function` makes of float pictures, (b, 3, h, w) -> several of (b, ...), over all, uint8 (n, h, w, 3) or
    (n, 3, h, w).

    Every batch is filled up to one size (`batch_size`), for with the size of a batch the last bits of its rows can
    change. So no row depends on which others are there."""
    every = images if isinstance(images, Tensor) else channels_first(images)
    size = batch_size(len(every), every.shape[2], every.shape[3])
    made: list[Tensor] = []  # once for all: parts that are put together at the end would need the memory twice
    for start, part in zip(range(0, len(every), size), every.split(size), strict=True):
        outputs = function(floats(torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])))
        made = made or [output.new_empty(len(every), *output.shape[1:]) for output in outputs]
        for whole, output in zip(made, outputs, strict=True):
            whole[start : start + len(part)] = output[: len(part)]
    return made


def save(folder: Path, name: str, detector: Any, size: tuple[int, int] | None, tensors: Mapping[str, Tensor]) -> None:
    """Writes a folder of hyperparameters and weights, whole or not at all."""
    from safetensors.torch import save_file

    if size is None:
        raise KkaError(f"{name}.save wants a fitted detector, got one that is not. Call fit first.")
    with whole_folder(folder) as part:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, part / _WEIGHTS)
        write_json(part / _FACTS, {"detector": name, "size": list(size), "options": dataclasses.asdict(detector)})


def facts(folder: Path) -> dict[str, Any]:
    """What detector.json says: detector, size, options. Raises BrokenFile where it is missing or broken."""
    content = read_json(folder / _FACTS)
    if not isinstance(content, dict) or set(content) != {"detector", "size", "options"} or len(content["size"]) != 2:
        raise BrokenFile(
            f"{folder / _FACTS} wants the keys detector, size and options, got {json.dumps(content)[:60]}."
        )
    return content


def weights(folder: Path) -> dict[str, Tensor]:
    """The saved tensors by name. Raises BrokenFile where the file is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _WEIGHTS
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise BrokenFile(f"{path}: wanted a detector's weights, got a broken file ({_reason(error)}).") from None


def restore(folder: Path, module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fills a module in evaluation mode. Raises BrokenFile where the tensors are not its own."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise BrokenFile(f"{folder / _WEIGHTS}: the weights are another network's ({_reason(error)}).") from None
    module.eval()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _size(images: Images) -> str:
    return f"{images.shape[2]}x{images.shape[1]}"
