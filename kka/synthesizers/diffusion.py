"""Any diffusers text-to-image pipeline, by Hugging Face id or path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray

from kka.errors import KkaError

diffusers_logging.disable_progress_bar()
diffusers_logging.set_verbosity_error()


@dataclass
class Synthesizer:
    """`steps` of the pipeline's own scheduler; `guidance` is the scale of classifier-free guidance (1: none)."""

    model: str = "kka/mini/t2i"
    steps: int = 12
    guidance: float = 3.0
    negative_prompt: str | None = None

    def __post_init__(self) -> None:
        try:
            self.pipe: Any = AutoPipelineForText2Image.from_pretrained(self.model, torch_dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise KkaError(f"synthesize.options.model: wanted a text-to-image pipeline by Hugging Face id or path, got '{self.model}' ({reason})") from None
        self.pipe.set_progress_bar_config(disable=True)

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One image for each text, its noise from a generator with its own seed; uint8 (n, h, w, 3) in the pipeline's size."""
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        negative = [self.negative_prompt] * len(texts) if self.negative_prompt else None
        with torch.inference_mode():
            out = self.pipe(
                list(texts), num_inference_steps=self.steps, guidance_scale=self.guidance, negative_prompt=negative, generator=generators, output_type="np"
            )
        return np.asarray((out.images * 255).round(), dtype=np.uint8)
