"""The recipes of the built-in models run from beginning to end, a few steps each."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kka.datasets import blossom
from kka.mini import lm, t2i, train
from kka.synthesizers.diffusion import Synthesizer

LM = str(Path(lm.__file__).parent / "lm")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what diffusers asks of numpy while it saves
def test_the_text_to_image_recipe_gives_a_pipeline_that_draws(tmp_path: Path) -> None:
    t2i.train(tmp_path, scale=0.002)
    assert Synthesizer(str(tmp_path)).synthesize(["a flower"], [0]).shape == (1, 32, 32, 3)
    assert json.loads((tmp_path / "measured.json").read_text())["diffusion, more"]["steps"] == 5


def test_the_perplexity_is_that_of_whole_captions_the_model_has_not_trained_on() -> None:
    tokenizer = AutoTokenizer.from_pretrained(LM)
    model = AutoModelForCausalLM.from_pretrained(LM, dtype=torch.float32).eval()
    rng = np.random.default_rng(1)
    captions = blossom.captions(blossom.flowers(5, None, rng), rng)
    nats, count = 0.0, 0
    for caption in captions:  # one at a time, token by token
        ids = [*tokenizer(f"{lm.PROMPT} {caption}").input_ids, tokenizer.eos_token_id]
        with torch.inference_mode():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(tokenizer(lm.PROMPT).input_ids)
        nats -= sum(float(logs[i - 1, ids[i]]) for i in range(first, len(ids)))
        count += len(ids) - first
    assert lm.perplexity(model, tokenizer, captions, batch=2) == pytest.approx(math.exp(nats / count), rel=1e-4)


def test_captions_are_held_out_of_a_corpus() -> None:
    captions = [f"caption {i}" for i in range(101)]
    trained, held_out = train.divided(captions)
    assert held_out == ["caption 0", "caption 50", "caption 100"] and sorted(trained + held_out) == sorted(captions)
    assert train.divided(["one"]) == (["one"], ["one"])
