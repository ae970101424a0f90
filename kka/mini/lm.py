"""Recipe of the built-in language model: a small Llama that has read a caption corpus and writes more of the like.

Every text follows `PROMPT`, so that the model has a prompt to be asked with, as any other language model has.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

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
    seed: int = 0,
    device: str = "cpu",
    *,
    steps: int = 2500,
    batch: int = 32,
    vocabulary: int = 2000,
) -> None:
    """Trains on `captions` (a caption that stands twice is twice as likely) and saves model and tokenizer to `out`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    texts = [f"{PROMPT} {' '.join(c.split())}" for c in captions]
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
    began, loss = time.time(), torch.zeros(())
    for _ in (bar := trange(steps, desc="language model", mininterval=5)):
        rows = [ids[i] for i in rng.integers(len(ids), size=batch)]
        tokens = pad_sequence(
            [torch.tensor(r) for r in rows], batch_first=True, padding_value=tokenizer.pad_token_id
        ).to(device)
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
        "perplexity": round(math.exp(loss.item()), 3),
        "minutes": round((time.time() - began) / 60, 1),
    }
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
