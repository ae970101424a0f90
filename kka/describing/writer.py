"""A causal language model of Hugging Face that writes descriptions, with a LoRA adapter that alignment trains.

The text of an item depends on its own seed alone: the random part of sampling is Gumbel noise from one generator per
row (argmax of logits + Gumbel noise is a sample of their softmax), so it does not matter what else is in the batch."""

import importlib.util
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging as transformers_logging

from kka.describing.adapters import is_blank
from kka.errors import BrokenFile, KkaError

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
# peft asks transformers by an old name
warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)

_MOST_LOGITS = 1 << 27  # numbers in a batch of logits: half a gigabyte


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed for this
    """Turns greedy search into sampling at `temperature`, with one generator a row; tokens less likely than `min_p`
    times the likeliest are never taken (Nguyen et al. 2024)."""

    def __init__(self, seeds: Sequence[int], temperature: float, min_p: float) -> None:
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.temperature = temperature
        self.gap = -math.log(min_p) if min_p else math.inf

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators])
        scores = scores / self.temperature
        unlikely = scores < scores.amax(1, keepdim=True) - self.gap
        return (scores - noise.log().to(scores.device)).masked_fill(unlikely, -math.inf)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The shape of a LoRA adapter (Hu et al. 2021): rank `r`, scale `alpha` relative to it, `dropout` on its input, and
    the layers that get one."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"


@dataclass(frozen=True)
class Writer:
    """A causal language model, with an adapter or without. `chat` says whether prompts go through the tokenizer's chat
    template."""

    model: Any
    tokenizer: Any
    chat: bool

    @classmethod
    def load(
        cls,
        model: str,
        adapter: Path | None = None,
        *,
        lora: Lora | None = None,
        seed: int = 0,
        dtype: str = "float32",
        device_map: str | None = None,
        load_in_4bit: bool = False,
    ) -> "Writer":
        """A Hugging Face model by id or path, with the LoRA adapter in the folder `adapter`.

        Without one, or with a blank one, it gets a fresh adapter of the shape `lora` from the `seed`, which changes
        nothing before it is trained: its product B A is zero. Without `lora` it gets none, and writes as it is.

        `dtype` auto is that of the model's files, `device_map` auto spreads it over GPUs and memory. Raises KkaError
        where the model cannot be read, and BrokenFile where the adapter cannot.
        """
        torch.manual_seed(seed)
        base, tokenizer = _base(model, dtype, device_map, load_in_4bit)
        if adapter is not None and not is_blank(adapter):
            base = _saved(base, adapter)
        elif lora is not None:
            base = _fresh(base, model, lora)
        return cls(base.eval(), tokenizer, bool(getattr(tokenizer, "chat_template", None)))

    def prompt(self, instruction: str) -> str:
        """The instruction as the model wants to be asked."""
        if not self.chat:
            return instruction
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}], tokenize=False, add_generation_prompt=True,
            enable_thinking=False,  # of templates that know it; a description needs none
        )  # fmt: skip
        added = self.tokenizer.convert_ids_to_tokens(
            self.tokenizer("").input_ids
        )  # by the tokenizer itself, before any text
        return str(text).removeprefix("".join(added))

    def answer(self, text: str) -> str:
        """The text as the model would write it behind its prompt: after a space, or at the beginning of its turn in a
        chat."""
        return text if self.chat else f" {text}"

    @torch.inference_mode()
    def describe(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        min_p: float = 0.0,
    ) -> list[str]:
        """One raw text for each prompt, sampled with its seed. Empty where the model says nothing."""
        inputs = self.tokenizer([self.prompt(p) for p in prompts], return_tensors="pt", padding=True).to(
            self.model.device
        )
        noise = LogitsProcessorList([GumbelNoise(seeds, temperature, min_p)])
        out = self.model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            logits_processor=noise,
            do_sample=False,
            use_cache=True,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,  # of a model's own settings: what is sampled is what DPO trains
        )
        return [
            str(t) for t in self.tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        ]

    @torch.inference_mode()
    def likelihoods(self, prompts: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """The log-probability (nats, at most 0) of each text's least likely token, its end included, without the
        adapter.

        A garbled text has at least one token that the base model finds next to impossible; the mean over tokens would
        hide it."""
        if not texts:
            return np.zeros(0)
        heads = [self.tokenizer(self.prompt(p)).input_ids for p in prompts]
        tails = [
            [*self.tokenizer(self.answer(t), add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]
            for t in texts
        ]
        longest = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        # a large vocabulary makes logits of gigabytes out of a batch
        size = max(1, min(64, _MOST_LOGITS // (longest * self.model.config.get_text_config().vocab_size)))
        with self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext():
            return np.concatenate(
                [self._least(heads[i : i + size], tails[i : i + size]) for i in range(0, len(heads), size)]
            )

    def _ends(self) -> list[int]:
        """The tokens that end a text: a chat model may end its turn by another one than its tokenizer names."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        return sorted({self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    def _least(self, heads: Sequence[list[int]], tails: Sequence[list[int]]) -> NDArray[np.float64]:
        rows = [torch.tensor(h + t) for h, t in zip(heads, tails, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id).to(
            self.model.device
        )
        mask = torch.nn.utils.rnn.pad_sequence(
            [torch.ones(len(r), dtype=torch.long) for r in rows], batch_first=True
        ).to(self.model.device)
        logs = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
        chosen = logs.gather(2, ids[:, 1:, None])[..., 0]
        last = torch.tensor([len(r) - 2 for r in rows], device=ids.device)
        row = torch.arange(len(rows), device=ids.device)
        chosen[row, last] = logs[row, last][:, self._ends()].amax(1)
        place = torch.arange(ids.shape[1] - 1, device=ids.device)
        starts = torch.tensor([len(h) - 1 for h in heads], device=ids.device)[:, None]
        inside = (place >= starts) & (place < torch.tensor([len(r) - 1 for r in rows], device=ids.device)[:, None])
        return np.asarray(chosen.masked_fill(~inside, 0).min(1).values.double().cpu())


def _base(
    model: str, dtype: str = "float32", device_map: str | None = None, load_in_4bit: bool = False
) -> tuple[Any, Any]:
    """The model and its tokenizer; `dtype` auto is that of its files, `device_map` auto spreads it over GPUs and
    memory."""
    wanted = "describe.model: wanted a causal language model by Hugging Face id or path"
    # torch's fused attention is slow backwards on a CPU
    loading: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa" if torch.cuda.is_available() else "eager"}
    if load_in_4bit:
        loading["quantization_config"] = _four_bits()
    if device_map:
        loading["device_map"] = device_map
    try:
        tokenizer = AutoTokenizer.from_pretrained(expanduser(model), padding_side="left")
        base, info = AutoModelForCausalLM.from_pretrained(expanduser(model), output_loading_info=True, **loading)
    except (OSError, ValueError, SafetensorError) as error:
        raise KkaError(f"{wanted}, got '{model}' ({str(error).splitlines()[0]})") from None
    if info["missing_keys"]:  # an encoder, say: the head that predicts words would be of random weights
        raise KkaError(
            f"{wanted}, got '{model}', which lacks the weights {min(info['missing_keys'])}. Is it made to write text?"
        )
    if not device_map and not load_in_4bit:
        base.to("cuda" if torch.cuda.is_available() else "cpu")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return base, tokenizer


def _four_bits() -> BitsAndBytesConfig:
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise KkaError(
            "describe.weights.load_in_4bit wants a GPU and bitsandbytes. Set it to false, or install it with"
            " `pip install -e '.[quantization]'`."
        )
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _fresh(base: Any, model: str, lora: Lora) -> PeftModel:
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise KkaError(f"align.lora: wanted an adapter for {model}, got {' '.join(str(error).split())[:200]}") from None


def _saved(base: Any, adapter: Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except (ValueError, OSError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise BrokenFile(f"{adapter}: wanted a LoRA adapter, got {' '.join(str(error).split())[:200]}.") from None


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the adapter `default`, the same bytes each time: no model card, no absolute path of the base model."""
    config = model.peft_config["default"]
    config.inference_mode = True
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(
            config.target_modules
        )  # peft keeps a set, whose order changes from process to process
    # peft would ask the hub whether the vocabulary has grown, which it has not
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
