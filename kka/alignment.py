"""Direct Preference Optimization (Rafailov et al. 2023) of the language model's adapter, on the grades of the
evaluator.

One LoRA adapter continues from round to round, and the reference policy is the adapter as it came in. The loss is DPO's
plus a supervised one on the chosen texts (`sft`), which keeps the model able to write.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from kka.describing.asking import summary
from kka.describing.writer import Writer
from kka.errors import Collapse, KkaError
from kka.log import Log, silent
from kka.records import Description, Pair

disable_progress_bars()

SHARES = (1.0, 0.5, 0.25, 0.125)  # of the way from the old adapter to the new one, tried in this order
Curves = list[dict[str, float]]
_NAMES = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}


class _Curves(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for this
    """Passes the trainer's figures on, and keeps them."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        row = {name: float(logs[key]) for key, name in _NAMES.items() if key in logs} if logs else {}
        if "loss" not in row:  # the end of training logs leftovers without one
            return
        self.rows.append({"step": float(state.global_step), **row})
        for name, value in row.items():
            self.log(f"align/{name}", value, state.global_step)


@dataclass(frozen=True, kw_only=True)
class DPO:
    """`steps` of `batch_size` pairs, the learning rate falling along a cosine. `beta` holds the model to the one before
    (higher moves less); `sft` weighs the supervised loss on the chosen texts."""

    steps: int
    batch_size: int
    learning_rate: float
    beta: float
    sft: float


def align(
    writer: Writer,
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    sample: Callable[[], Sequence[Description]],
    dpo: DPO,
    *,
    readable: float,
    distinct: float,
    seed: int,
    log: Log = silent,
) -> tuple[dict[str, float], Curves]:
    """Trains the writer's adapter in place, as `train` does, and takes it back as far as its health asks for.

    `sample` asks the writer for descriptions. Where fewer than the fraction `readable` of them are readable, or fewer
    than the fraction `distinct` of those distinct, the adapter goes only a half, a quarter or an eighth of the way from
    where it began. The figures are those of `train`, and `readable`, `distinct`, `normal` (the fraction that says the
    normal class) and `share_of_the_way` of the adapter that is kept. Raises Collapse where even an eighth is too far.
    """
    start = weights(writer)
    figures, curves = train(writer, pairs, prompts, dpo, seed=seed, log=log)
    end = weights(writer)
    for share in SHARES:
        set_between(writer, start, end, share)
        counts = summary(sample())
        if counts["readable"] >= readable and counts["distinct"] >= distinct:
            health = {name: counts[name] for name in ("readable", "distinct")}
            return figures | health | {
                "normal": counts["normal"] / counts["attempts"],
                "share_of_the_way": share,
            }, curves
    name, least = ("readable", readable) if counts["readable"] < readable else ("distinct", distinct)
    raise Collapse(
        f"align: the adapter has fallen apart: {counts[name]:.0%} of {counts['attempts']:.0f} descriptions are {name},"
        f" wanted at least {least:.0%} (align.health.{name}). Lower align.learning_rate ({dpo.learning_rate}) or"
        f" align.steps ({dpo.steps}), or raise align.beta ({dpo.beta}) or align.sft ({dpo.sft})."
    )


def train(
    writer: Writer, pairs: Sequence[Pair], prompts: Sequence[str], dpo: DPO, *, seed: int, log: Log = silent
) -> tuple[dict[str, float], Curves]:
    """Trains the writer's adapter by DPO on the training pairs (prompt i belongs to pair i), in place.

    Returns the reward accuracy on the validation pairs with the last training loss, and the curves, a row for each step
    that was logged. Raises Collapse where there is no training pair or the loss is lost.
    """
    if not any(_is_adapters(name) for name, _ in writer.model.named_parameters()):
        raise KkaError("align: wanted a writer with an adapter, got one without. Load it with `lora`.")
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for pair, prompt in zip(pairs, prompts, strict=True):
        parts[pair.part].append(_row(writer, prompt, pair))
    examples, validation = parts["train"], parts["validation"]
    if not examples:
        raise Collapse(
            "align: wanted preference pairs, got none. Ask for more descriptions (describe.count) or raise"
            " align.chosen_share."
        )
    curves = _Curves(log)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl and accelerate warn about choices that are made on purpose here
        trainer = DPOTrainer(
            model=writer.model,
            args=_arguments(scratch, dpo, seed),
            processing_class=writer.tokenizer,
            train_dataset=Dataset.from_list(examples),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            callbacks=[curves],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        held_out = trainer.evaluate() if validation else {}
    last = curves.rows[-1]
    if not math.isfinite(last["loss"]):
        raise Collapse(
            f"align: the loss became {last['loss']}. Lower align.learning_rate ({dpo.learning_rate}) or raise"
            " align.beta"
            f" ({dpo.beta})."
        )
    writer.model.eval()
    figures = {"pairs": float(len(examples)), "loss": last["loss"], "accuracy": last["accuracy"]}
    if held_out:
        figures["validation_accuracy"] = float(held_out["eval_rewards/accuracies"])
    return figures, curves.rows


def weights(writer: Writer) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights."""
    return {name: p.detach().clone() for name, p in writer.model.named_parameters() if _is_adapters(name)}


def _is_adapters(name: str) -> bool:
    """Whether a parameter belongs to the adapter, which PEFT calls `default`."""
    return ".default." in name


@torch.no_grad()
def set_between(writer: Writer, start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], share: float) -> None:
    """Sets the adapter to the place that lies `share` of the way from `start` to `end`."""
    for name, p in writer.model.named_parameters():
        if name in start:
            p.copy_(torch.lerp(start[name], end[name], share))


def _row(writer: Writer, prompt: str, pair: Pair) -> dict[str, str]:
    return {
        "prompt": writer.prompt(prompt),
        "chosen": writer.answer(pair.chosen),
        "rejected": writer.answer(pair.rejected),
    }


def _arguments(scratch: str, dpo: DPO, seed: int) -> DPOConfig:
    """The loss itself is TRL's; its terms and their weights are chosen here."""
    return DPOConfig(
        output_dir=scratch,
        max_steps=dpo.steps,
        per_device_train_batch_size=dpo.batch_size,
        per_device_eval_batch_size=dpo.batch_size,
        learning_rate=dpo.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, dpo.steps // 20),
        beta=dpo.beta,
        loss_type=["sigmoid", "sft"] if dpo.sft else ["sigmoid"],
        loss_weights=[1.0, dpo.sft] if dpo.sft else None,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        logging_nan_inf_filter=False,
        logging_steps=min(5, dpo.steps),
        disable_tqdm=True,
        log_level="error",
    )
