"""Direct preference optimization on the built-in language model, in small: it moves, it continues, it repeats
itself."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from kka.alignment import DPO, align, train
from kka.datasets import blossom
from kka.describing.writer import Writer, save_adapter
from kka.errors import Collapse, KkaError
from kka.mini.lm import PROMPT
from kka.records import Description, Pair

MODEL = "kka/mini/lm"
LONG = DPO(steps=40, batch_size=16, learning_rate=4e-3, beta=0.1, sft=1.0)
SHORT = replace(LONG, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    near, far = (blossom.captions(blossom.flowers(60, d, rng), rng) for d in (1, 4))
    return [Pair(c, r, "validation" if i >= 50 else "train") for i, (c, r) in enumerate(zip(near, far, strict=True))]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r0")
    save_adapter(Writer.load(MODEL).model, folder)
    return folder


@pytest.fixture(scope="module")
def aligned(start, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("r1") / "adapter"
    return folder, *aligned_in(folder, start, pairs, LONG)


def aligned_in(folder, start, pairs, dpo):
    writer = Writer.load(MODEL, start)
    trained = train(writer, pairs, [PROMPT] * len(pairs), dpo, seed=1)
    save_adapter(writer.model, folder)
    return trained


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
    aligned_in(tmp_path / "r2", aligned[0], pairs, replace(SHORT, learning_rate=1e-12))
    before, after = (load_file(f / "adapter_model.safetensors") for f in (aligned[0], tmp_path / "r2"))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6)


def test_no_pairs_is_a_mistake_with_a_remedy(start):
    with pytest.raises(KkaError, match="wanted preference pairs, got none"):
        train(Writer.load(MODEL, start), [], [], LONG, seed=1)


def descriptions(readable: int, distinct: int, normal: int = 0, n: int = 20):
    """`n` attempts of which so many are readable, so many of those distinct, and so many of them normal."""
    texts = [f"text {min(i, distinct - 1)}" for i in range(readable)]
    outcomes = ["normal"] * normal + ["kept"] * (readable - normal)
    made = [
        Description(str(i), text, outcome, 0.0, 0.0)
        for i, (text, outcome) in enumerate(zip(texts, outcomes, strict=True))
    ]
    return made + [Description(str(i), "", "unreadable", 0.0, 0.0) for i in range(readable, n)]


def aligned_with(start, pairs, samples, readable=0.5, distinct=0.5):
    """The figures of an alignment whose adapter writes the samples in turn, and the weights it ends with."""
    writer, answers = Writer.load(MODEL, start), iter(samples)
    figures, _ = align(
        writer, pairs, [PROMPT] * len(pairs), lambda: next(answers), SHORT, readable=readable, distinct=distinct, seed=1
    )
    return figures, {n: p.detach().numpy().copy() for n, p in writer.model.named_parameters() if ".default." in n}


def test_a_healthy_adapter_goes_all_of_the_way(start, pairs):
    figures, _ = aligned_with(start, pairs, [descriptions(16, 12, normal=4)])
    assert (figures["readable"], figures["distinct"]) == (16 / 20, 12 / 16)
    assert (figures["normal"], figures["share_of_the_way"]) == (4 / 20, 1.0)
    assert {"pairs", "loss", "accuracy", "validation_accuracy"} <= figures.keys()


@pytest.mark.parametrize("ill", [descriptions(9, 9), descriptions(20, 9)], ids=["unreadable", "repeats itself"])
def test_an_ill_adapter_goes_back_until_it_is_well(start, pairs, ill):
    _, end = aligned_with(start, pairs, [descriptions(20, 20)])
    figures, reached = aligned_with(start, pairs, [ill, ill, descriptions(10, 5)])
    assert figures["share_of_the_way"] == 0.25
    before = {n: p.detach().numpy() for n, p in Writer.load(MODEL, start).model.named_parameters() if n in end}
    for name, value in reached.items():
        np.testing.assert_allclose(value, before[name] + 0.25 * (end[name] - before[name]), atol=1e-6)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (descriptions(9, 9), "45% of 20 descriptions are readable, wanted at least 50% .align.health.readable"),
        (descriptions(20, 9), "45% of 20 descriptions are distinct, wanted at least 50% .align.health.distinct"),
    ],
)
def test_an_adapter_that_is_ill_at_an_eighth_has_fallen_apart(start, pairs, last, message):
    with pytest.raises(Collapse, match=f"the adapter has fallen apart: {message}.*align.learning_rate .0.004"):
        aligned_with(start, pairs, [descriptions(9, 9)] * 3 + [last])
