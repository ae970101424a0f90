"""Any diffusers text-to-image pipeline, by Hugging Face id or path; from noise, or from a normal picture."""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from pydantic import Field
from transformers.utils import logging as transformers_logging

from kka.errors import Collapse, KkaError
from kka.images import prepare
from kka.records import sha256

diffusers_logging.disable_progress_bar()
diffusers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


@dataclass
class Synthesizer:
    """`steps` of the pipeline's own scheduler; `guidance` is the scale of classifier-free guidance (1: none); `side` in
    pixels is what the pipeline draws, by default what it was made for. `dtype` holds its weights; `offload` keeps them
    out of the GPU while they rest, model by model or layer by layer (sequential: least memory, slowest); `compile` pays
    off over many pictures.

    With a `strength` (0 to 1) a picture begins as one of the `normals`, uint8 (n, h, w, 3), drowned in that share of
    the noise: the smaller, the nearer it stays to a real picture. Without one it begins as noise."""

    model: str = "kka/mini/t2i"
    steps: Annotated[int, Field(ge=1)] = 8
    guidance: Annotated[float, Field(ge=0)] = 3.0
    negative_prompt: str | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    side: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    offload: Literal["model", "sequential"] | None = None
    compile: bool = False
    normals: NDArray[np.uint8] | None = field(default=None, repr=False)
    # pictures depend on the normals and on the weights, so both are part of the repr, which names unfinished work
    starts_from: str | None = field(default=None, init=False)
    files: str = field(default="", init=False)

    def __post_init__(self) -> None:
        model_files = [
            (str(p), p.stat().st_size, p.stat().st_mtime_ns)
            for p in sorted(Path(self.model).expanduser().rglob("*"))
            if p.is_file()
        ]
        self.files = hashlib.sha256(repr(model_files).encode()).hexdigest()
        if self.strength is not None and self.normals is not None:
            self.starts_from = sha256(self.normals)
        if self.strength is not None and self.steps * self.strength < 1:
            raise KkaError(
                f"synthesize.options: steps {self.steps} times strength {self.strength} leaves no step. Raise either."
            )
        self._pipe: Any = self._open()

    def _open(self) -> Any:
        # not before transformers has been told to be quiet: it speaks of torchvision as this is imported
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image

        door = AutoPipelineForText2Image if self.strength is None else AutoPipelineForImage2Image
        try:
            pipe = door.from_pretrained(expanduser(self.model), dtype=getattr(torch, self.dtype))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            wanted = "synthesize.options.model: wanted a text-to-image pipeline by Hugging Face id or path"
            raise KkaError(f"{wanted}, got '{self.model}' ({reason})") from None
        pipe.set_progress_bar_config(disable=True)
        if getattr(pipe, "safety_checker", None) is not None:
            pipe.safety_checker = (
                None  # its false alarms come back black, and a detector would learn that black is anomalous
            )
        if self.offload and not torch.cuda.is_available():
            raise KkaError(
                "synthesize.options.offload: wanted a GPU to keep weights out of, got none. Leave offload out."
            )
        if self.offload == "model":
            pipe.enable_model_cpu_offload()
        elif self.offload == "sequential":
            pipe.enable_sequential_cpu_offload()
        else:
            pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        if self.negative_prompt and not self._takes("negative_prompt", pipe):
            raise KkaError(f"synthesize.options.negative_prompt: {self.model} takes none. Leave it out.")
        if self.compile:
            _network(pipe).compile()
        return pipe

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One image for each text, its noise (and its normal picture) from its own seed; uint8 (n, h, w, 3)."""
        arguments: dict[str, Any] = (
            {} if self.strength is None else {"image": self._starts(seeds), "strength": self.strength}
        )
        if self.side and self._takes("height"):  # else pictures are drawn in the size of those that they begin as
            arguments |= {"height": self.side, "width": self.side}
        if self.negative_prompt:
            arguments["negative_prompt"] = [self.negative_prompt] * len(texts)
        with torch.inference_mode():
            out = self._pipe(
                list(texts), num_inference_steps=self.steps, guidance_scale=self.guidance, output_type="np",
                **arguments,
                generator=[torch.Generator().manual_seed(s) for s in seeds],
            )  # fmt: skip
        if not np.isfinite(out.images).all():
            raise Collapse(
                f"synthesize.options.dtype: {self.model} lost itself in {self.dtype}. Set it to bfloat16 or float32."
            )
        return np.asarray((out.images * 255).round(), dtype=np.uint8)

    def _takes(self, name: str, pipe: Any = None) -> bool:
        return name in inspect.signature((pipe or self._pipe).__call__).parameters

    def _starts(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """The normal pictures that the seeds choose, in the size that the pipeline draws, float (n, h, w, 3) in 0 to
        1."""
        if self.normals is None or not len(self.normals):
            raise KkaError(
                "synthesize.options.strength: wanted normal pictures to begin with, got none. Leave strength out."
            )
        chosen = [np.random.default_rng(s).integers(len(self.normals)) for s in seeds]
        size = getattr(self._pipe, "default_sample_size", None) or _network(self._pipe).config.sample_size
        side = self.side or size * self._pipe.vae_scale_factor
        return (prepare(list(self.normals[chosen]), side) / 255).astype(np.float32)


def _network(pipe: Any) -> Any:
    """What takes the noise away."""
    return getattr(pipe, "unet", None) or pipe.transformer
