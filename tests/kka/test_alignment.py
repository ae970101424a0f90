"""Direct preference optimization on the built-in language model, in small: it moves, it continues, it repeats
itself."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from kka.alignment import align
from kka.datasets import blossom
from kka.describing.writer import Writer, blank_adapter, save_adapter
from kka.errors import KkaError
from kka.mini.lm import PROMPT
from kka.records import Pair

MODEL = "kka/mini/lm"
HOW = {"steps": 40, "batch_size": 16, "learning_rate": 4e-3, "beta": 0.1, "sft": 1.0, "seed": 1}
SHORT = {**HOW, "steps": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    near, far = (blossom.captions(blossom.flowers(60, d, rng), rng) for d in (1, 4))
    return [Pair(c, r, "validation" if i >= 50 else "train") for i, (c, r) in enumerate(zip(near, far, strict=True))]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r0")
    blank_adapter(MODEL, folder, r=8, alpha=16, dropout=0.0, target_modules="all-linear", seed=0)
    return folder


@pytest.fixture(scope="module")
def aligned(start, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("r1") / "adapter"
    return folder, *aligned_in(folder, start, pairs, HOW)


def aligned_in(folder, start, pairs, how):
    writer = Writer.load(MODEL, start)
    found = align(writer, pairs, [PROMPT] * len(pairs), **how)
    save_adapter(writer.model, folder)
    return found


def preference(folder, pairs) -> float:
    """How much likelier, in nats, chosen texts are than rejected ones, summed over their tokens."""
    import torch

    writer = Writer.load(MODEL, folder)

    def log_probability(text: str) -> float:
        ids = torch.tensor([[*writer.tokenizer(f"{PROMPT} {text}").input_ids, writer.tokenizer.eos_token_id]])
        with torch.inference_mode():
            logs = writer.model(ids).logits[0, :-1].log_softmax(-1)
        return float(logs.gather(1, ids[0, 1:, None]).sum())

    held_out = [p for p in pairs if p.part == "validation"]
    return float(np.mean([log_probability(p.chosen) - log_probability(p.rejected) for p in held_out]))


def test_it_prefers_the_chosen_of_pairs_it_has_not_seen(aligned, start, pairs):
    folder, figures, _ = aligned
    assert preference(folder, pairs) > preference(start, pairs) + 1
    assert figures["validation_accuracy"] > 0.6 and figures["pairs"] == 50


def test_the_curves_are_returned_by_step(aligned):
    _, _, curves = aligned
    assert [row["step"] for row in curves] == list(range(5, 41, 5)) and {"loss", "accuracy", "margin"} <= set(curves[0])


def test_the_adapter_moved_and_is_three_files_without_pickle(aligned, start):
    folder = aligned[0]
    assert {f.name for f in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    before, after = (load_file(f / "adapter_model.safetensors") for f in (start, folder))
    assert before.keys() == after.keys() and all((before[k] != after[k]).any() for k in before if "lora_B" in k)


def test_the_same_seed_gives_the_same_bytes(start, pairs, tmp_path):
    for name in ("once", "again"):
        aligned_in(tmp_path / name, start, pairs, SHORT)
    for file in (tmp_path / "once").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_the_next_round_continues_the_adapter(aligned, pairs, tmp_path):
    aligned_in(tmp_path / "r2", aligned[0], pairs, {**SHORT, "learning_rate": 1e-12})
    before, after = (load_file(f / "adapter_model.safetensors") for f in (aligned[0], tmp_path / "r2"))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6)


def test_no_pairs_is_a_mistake_with_a_remedy(start):
    with pytest.raises(KkaError, match="wanted preference pairs, got none"):
        align(Writer.load(MODEL, start), [], [], **HOW)
