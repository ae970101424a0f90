"""Vectors of texts, by a text model of transformers: its last hidden states averaged over each text's tokens, of length
1."""

from collections.abc import Sequence
from os.path import expanduser

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from kka.errors import KkaError

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


class Embedder:
    """A text model by Hugging Face id or path. Raises KkaError where it cannot be read."""

    def __init__(self, model: str) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(expanduser(model))
            network = AutoModel.from_pretrained(expanduser(model), dtype=torch.float32)
        except (OSError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:160]
            raise KkaError(
                f"embedder: wanted a text model by Hugging Face id or path, got '{model}' ({reason})"
            ) from None
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._network = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Shape (n, d)."""
        parts = []
        hidden = len(texts) <= batch_size or None  # None: shown where somebody looks
        for start in tqdm(range(0, len(texts), batch_size), desc="embeddings", disable=hidden, leave=False):
            some = list(texts[start : start + batch_size])
            given = self._tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=128)
            given = given.to(self._network.device)
            states = self._network(input_ids=given.input_ids, attention_mask=given.attention_mask).last_hidden_state
            mask = given.attention_mask[:, :, None]
            parts.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).cpu())
        return torch.cat(parts).numpy()
