"""Direct preference optimization on the built-in language model, in small: it moves, it continues, it repeats
itself."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from kka import alignment
from kka.alignment import DPO, align, train
from kka.datasets import blossom
from kka.describing.writer import Lora, Writer, save_adapter
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
    save_adapter(Writer.load(MODEL, lora=Lora()).model, folder)
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


# What the trainer is asked for, and what becomes of its answers: a model of two weights, a trainer that learns nothing.


class Weights(torch.nn.Module):
    """A weight of the adapter, and one of the model below it, both 0."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = torch.nn.ParameterDict({"default": torch.nn.ParameterDict({"weight": torch.zeros(1)})})
        self.base = torch.nn.Parameter(torch.zeros(1))

    @property
    def places(self) -> tuple[float, float]:
        return self.adapter["default"]["weight"].item(), self.base.item()


def small() -> Any:
    return SimpleNamespace(
        model=Weights(), tokenizer="the tokenizer", prompt=lambda text: f"<{text}>", answer=lambda text: f" {text}"
    )


THREE = [Pair("bent", "dull", "train"), Pair("torn", "plain", "validation"), Pair("cut", "whole", "train")]
ASKED = ["one", "two", "three"]
QUICK = DPO(steps=50, batch_size=4, learning_rate=4e-3, beta=0.2, sft=0.5)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a trainer was given; its last `loss` may be set."""
    given = SimpleNamespace(loss=0.25, removed=[], trained=0)

    class Trainer:
        def __init__(self, **arguments: Any) -> None:
            vars(given).update(arguments)

        def remove_callback(self, callback: Any) -> None:
            given.removed.append(callback)

        def train(self) -> None:
            given.model.train()
            given.trained += 1
            for step, loss in ((5, 0.75), (10, 0.5), (15, given.loss)):
                logs = {"loss": loss, "rewards/accuracies": step / 15, "rewards/margins": 2.0, "epoch": 1.0}
                given.callbacks[0].on_log(None, SimpleNamespace(global_step=step), None, logs)
            given.callbacks[0].on_log(None, SimpleNamespace(global_step=10), None, {"train_runtime": 1.0})
            given.callbacks[0].on_log(None, SimpleNamespace(global_step=10), None, None)

        def evaluate(self) -> dict[str, float]:
            return {"eval_rewards/accuracies": 0.75}

    monkeypatch.setattr(alignment, "DPOTrainer", Trainer)
    return given


def test_prompts_go_with_their_pairs_and_figures_come_back(trainer: SimpleNamespace) -> None:
    writer, heard = small(), list[tuple[Any, ...]]()
    figures, curves = train(writer, THREE, ASKED, QUICK, seed=1, log=lambda *what: heard.append(what))
    assert list(trainer.train_dataset) == [
        {"prompt": "<one>", "chosen": " bent", "rejected": " dull"},
        {"prompt": "<three>", "chosen": " cut", "rejected": " whole"},
    ]
    assert list(trainer.eval_dataset) == [{"prompt": "<two>", "chosen": " torn", "rejected": " plain"}]
    assert trainer.processing_class == "the tokenizer" and trainer.model is writer.model and trainer.trained == 1
    assert trainer.removed == [alignment.PrinterCallback] and not writer.model.training
    assert figures == {"pairs": 2.0, "loss": 0.25, "accuracy": 1.0, "validation_accuracy": 0.75}
    steps = (5, 0.75, 5 / 15), (10, 0.5, 10 / 15), (15, 0.25, 1.0)
    assert curves == [{"step": float(s), "loss": loss, "accuracy": right, "margin": 2.0} for s, loss, right in steps]
    assert heard == [(f"align/{n}", row[n], row["step"]) for row in curves for n in ("loss", "accuracy", "margin")]


def test_without_validation_pairs_nothing_is_evaluated(trainer: SimpleNamespace) -> None:
    figures, _ = train(small(), THREE[:1], ASKED[:1], QUICK, seed=1)
    assert trainer.eval_dataset is None and figures.keys() == {"pairs", "loss", "accuracy"}


def test_a_lost_loss_is_a_collapse(trainer: SimpleNamespace) -> None:
    trainer.loss = math.nan
    message = r"^align: the loss became nan. Lower align.learning_rate \(0.004\) or raise align.beta \(0.2\)\.$"
    with pytest.raises(Collapse, match=message):
        train(small(), THREE, ASKED, QUICK, seed=1)


def test_pairs_want_a_training_pair_and_a_prompt_each() -> None:
    with pytest.raises(
        Collapse, match="^align: wanted preference pairs, got none. Ask for more descriptions .*share.$"
    ):
        train(small(), THREE[1:2], ASKED[:1], QUICK, seed=1)
    with pytest.raises(ValueError, match="zip"):
        train(small(), THREE, ASKED[:2], QUICK, seed=1)


def test_the_trainer_is_asked_for_what_dpo_says(trainer: SimpleNamespace) -> None:
    train(small(), THREE, ASKED, QUICK, seed=2**32 + 5)
    asked = trainer.args
    assert (asked.max_steps, asked.learning_rate, asked.beta) == (50, 4e-3, 0.2)
    assert Path(asked.output_dir).parent == Path(tempfile.gettempdir()) and not Path(asked.output_dir).exists()
    assert asked.per_device_train_batch_size == asked.per_device_eval_batch_size == 4
    assert (asked.loss_type, asked.loss_weights) == (["sigmoid", "sft"], [1.0, 0.5])
    assert (asked.seed, asked.data_seed) == (5, 5)
    # a twentieth of 50 steps warms up, in whole ones, then the rate falls along a cosine; every fifth step is logged
    assert (asked.warmup_steps, asked.lr_scheduler_type, asked.logging_steps) == (2, "cosine", 5)
    assert (asked.bf16, asked.gradient_checkpointing, asked.max_length) == (False, False, None)
    assert asked.use_cpu == (not torch.cuda.is_available())
    assert (asked.report_to, asked.save_strategy, asked.eval_strategy) == ([], "no", "no")
    assert (asked.logging_nan_inf_filter, asked.disable_tqdm, asked.log_level) == (False, True, "error")
    train(small(), THREE, ASKED, replace(QUICK, steps=3, sft=0.0), seed=1)
    assert (trainer.args.loss_type, trainer.args.loss_weights) == (["sigmoid"], None)
    assert (trainer.args.warmup_steps, trainer.args.logging_steps) == (1, 3)
    train(small(), THREE, ASKED, replace(QUICK, steps=60), seed=1)
    assert trainer.args.warmup_steps == 3


@pytest.mark.parametrize(("ill", "share"), [(0, 1.0), (1, 0.5), (3, 0.125)])
def test_an_adapter_goes_as_far_as_it_is_well(monkeypatch: pytest.MonkeyPatch, ill: int, share: float) -> None:
    def learn(writer: Any, *given: Any, **options: Any) -> Any:
        assert given == (THREE, ASKED, QUICK) and options == {"seed": 7, "log": print}
        for p in writer.model.parameters():
            p.data.fill_(1.0)
        return {"pairs": 2.0}, [{"step": 5.0}]

    monkeypatch.setattr(alignment, "train", learn)
    writer, answers = small(), iter([descriptions(9, 9)] * ill + [descriptions(10, 5, normal=2)])
    health = {"readable": 0.5, "distinct": 0.5}  # 10 of 20 are readable, and 5 of those distinct: just well
    figures, curves = align(writer, THREE, ASKED, lambda: next(answers), QUICK, **health, seed=7, log=print)
    assert writer.model.places == (share, 1.0)  # the model below the adapter stays as it was left
    expected = {"pairs": 2.0, "readable": 0.5, "distinct": 0.5, "normal": 0.1, "share_of_the_way": share}
    assert figures == expected and curves == [{"step": 5.0}]


@pytest.mark.parametrize(
    ("last", "name", "share", "least"),
    [(descriptions(9, 9), "readable", "45%", "50%"), (descriptions(10, 4), "distinct", "40%", "60%")],
)
def test_an_adapter_that_falls_apart_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, last: list[Description], name: str, share: str, least: str
) -> None:
    monkeypatch.setattr(alignment, "train", lambda *_, **__: ({}, []))
    message = (
        f"align: the adapter has fallen apart: {share} of 20 descriptions are {name}, wanted at least {least}"
        f" (align.health.{name}). Lower align.learning_rate (0.004) or align.steps (50), or raise align.beta (0.2) or"
        " align.sft (0.5)."
    )
    with pytest.raises(Collapse) as caught:
        align(small(), THREE, ASKED, lambda: last, QUICK, readable=0.5, distinct=0.6, seed=7)
    assert str(caught.value) == message


def test_a_writer_without_an_adapter_cannot_learn(pairs):
    with pytest.raises(KkaError, match="align: wanted a writer with an adapter, got one without. Load it with `lora`"):
        train(Writer.load(MODEL), pairs, [PROMPT] * len(pairs), SHORT, seed=1)
