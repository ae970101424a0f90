"""Direct Preference Optimization (Rafailov et al. 2023) of the language model's adapter, on the grades of the
evaluator.

One LoRA adapter continues from round to round, and the reference policy is the adapter as it came in. The loss is DPO's
plus a supervised one on the chosen texts (`sft`), which keeps the model able to write.
"""

import math
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from kka.describing.writer import Writer
from kka.errors import Collapse
from kka.log import Log, silent
from kka.records import Pair

disable_progress_bars()


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


def align(
    writer: Writer,
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    beta: float,
    sft: float,
    seed: int,
    log: Log = silent,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Trains the writer's adapter on the training pairs (prompt i belongs to pair i), in place.

    Returns the reward accuracy on the validation pairs with the last training loss, and the curves, a row for each step
    that was logged. `learning_rate` falls along a cosine. Raises KkaError where there is no training pair or the loss
    is lost."""
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for pair, prompt in zip(pairs, prompts, strict=True):
        parts[pair.part].append(_row(writer, prompt, pair))
    train, validation = parts["train"], parts["validation"]
    if not train:
        raise Collapse(
            "align: wanted preference pairs, got none. Ask for more descriptions (describe.count) or raise align.chosen_share."
        )
    curves = _Curves(log)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl and accelerate warn about choices that are made on purpose here
        trainer = DPOTrainer(
            model=writer.model, args=_arguments(scratch, steps, batch_size, learning_rate, beta, sft, seed),
            processing_class=writer.tokenizer, train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(validation) if validation else None, callbacks=[curves],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        held_out = trainer.evaluate() if validation else {}
    loss = curves.rows[-1]["loss"]
    if not math.isfinite(loss):
        raise Collapse(
            f"align: the loss became {loss}. Lower align.learning_rate ({learning_rate}) or raise align.beta ({beta})."
        )
    writer.model.eval()
    result = {"pairs": float(len(train)), "loss": loss, "accuracy": curves.rows[-1]["accuracy"]}
    return result | (
        {"validation_accuracy": float(held_out["eval_rewards/accuracies"])} if held_out else {}
    ), curves.rows


def weights(writer: Writer) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights."""
    return {name: p.detach().clone() for name, p in writer.model.named_parameters() if ".default." in name}


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


def _arguments(
    scratch: str, steps: int, batch_size: int, learning_rate: float, beta: float, sft: float, seed: int
) -> DPOConfig:
    return DPOConfig(
        output_dir=scratch, max_steps=steps, per_device_train_batch_size=batch_size, per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate, lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20), beta=beta,
        loss_type=["sigmoid", "sft"] if sft else ["sigmoid"], loss_weights=[1.0, sft] if sft else None,
        use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, max_length=None,
        seed=seed % 2**32, data_seed=seed % 2**32,
        report_to="none", save_strategy="no", eval_strategy="no", logging_nan_inf_filter=False,
        logging_steps=min(5, steps), disable_tqdm=True, log_level="error",
    )  # fmt: skip
