"""Recipe of the built-in language model: a small Llama that has read a caption corpus and writes more of the like.

Every text follows `PROMPT`, so that the model has a prompt to be asked with, as any other language model has.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM

from kka.mini.precision import autocast
from kka.mini.tokens import writer_tokenizer

PROMPT = "caption:"


def train(
    out: Path,
    captions: Sequence[str],
    held_out: Sequence[str],
    seed: int = 0,
    device: str = "cpu",
    *,
    steps: int = 2500,
    batch: int = 32,
    vocabulary: int = 2000,
) -> None:
    """Trains on `captions` (a caption that stands twice is twice as likely) and saves model and tokenizer to `out`,
    with the perplexity that the model has on captions `held_out` of the training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    texts = [_prompted(c) for c in captions]
    tokenizer = writer_tokenizer(texts, vocabulary)
    ids = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts).input_ids]
    shape = {"hidden_size": 160, "intermediate_size": 432, "num_hidden_layers": 4, "num_attention_heads": 4}
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    # embeddings as large as what the layers add to them: with Llama's usual 0.02 the hidden states of so narrow a model
    # grow to hundreds of times their size, and no adapter of its layers moves it any more
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "initializer_range": 0.08}
    config = LlamaConfig(**size, tie_word_embeddings=True, **shape, **marks)
    model = LlamaForCausalLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    began = time.time()
    for _ in (bar := trange(steps, desc="language model", mininterval=5)):
        tokens = _padded([ids[i] for i in rng.integers(len(ids), size=batch)], tokenizer).to(device)
        # padding stands to the right and attention is causal, so a mask would change nothing but the time
        labels = tokens.masked_fill(tokens == tokenizer.pad_token_id, -100)
        with autocast(device):
            loss = model(input_ids=tokens, labels=labels, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    measured = {
        "captions": len(texts),
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "parameters": model.num_parameters(),
        "held_out": len(held_out),
        "perplexity": round(perplexity(model, tokenizer, held_out), 3),
        "minutes": round((time.time() - began) / 60, 1),
    }
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any, captions: Sequence[str], batch: int = 64) -> float:
    """The exponential of the mean negative log-likelihood (nats) of the captions' tokens behind the prompt, their ends
    included."""
    prompt = len(tokenizer(PROMPT).input_ids)
    nats, count = 0.0, 0
    for start in range(0, len(captions), batch):
        texts = tokenizer([_prompted(c) for c in captions[start : start + batch]]).input_ids
        tokens = _padded([[*row, tokenizer.eos_token_id] for row in texts], tokenizer).to(model.device)
        logs = model(input_ids=tokens).logits[:, :-1].float().log_softmax(-1)
        chosen = logs.gather(2, tokens[:, 1:, None])[..., 0][:, prompt - 1 :]
        counted = _lengths(texts, tokens.shape[1])[:, prompt - 1 :].to(model.device)
        nats -= float(chosen.masked_fill(~counted, 0).sum())
        count += int(counted.sum())
    return math.exp(nats / count)


def _lengths(texts: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """Which of the predicted tokens (n, width - 1) belong to each text or end it."""
    return torch.arange(width - 1) < torch.tensor([[len(row)] for row in texts])


def _prompted(caption: str) -> str:
    return f"{PROMPT} {' '.join(caption.split())}"


def _padded(rows: Sequence[Sequence[int]], tokenizer: Any) -> torch.Tensor:
    return pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=tokenizer.pad_token_id)
