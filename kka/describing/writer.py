"""A language model writes descriptions of plausible anomalies, and a guard refuses those that cannot be anomalies.

The text of an item depends on its own seed alone: the random part of sampling is Gumbel noise from one generator per
row (argmax of logits + Gumbel noise is a sample of their softmax), so it does not matter what else is in the batch."""

import importlib.util
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging as transformers_logging

from kka.confusion import Guard
from kka.errors import KkaError
from kka.records import Description, Outcome, seed_of

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


class Describer(Protocol):
    """What writes descriptions."""

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
        ...

    def likelihoods(self, prompts: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """The log-probability (nats, at most 0) of each text's least likely token; zeros where it cannot be known."""
        ...


@dataclass(frozen=True)
class Writer:
    """A causal language model with an adapter. `chat` says whether prompts go through the tokenizer's chat template."""

    model: PeftModel
    tokenizer: Any
    chat: bool

    @classmethod
    def load(cls, model: str, adapter: Path, **weights: Any) -> "Writer":
        """A Hugging Face model by id or path, its `weights` held as `_base` tells, with the LoRA adapter in `adapter`.
        Raises KkaError where either cannot be read."""
        base, tokenizer = _base(model, **weights)
        try:
            wrapped = PeftModel.from_pretrained(base, adapter, is_trainable=True)
        except (ValueError, OSError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise KkaError(
                f"{adapter}: wanted a LoRA adapter, got {reason}. Delete it and run the stage that writes it again."
            ) from None
        return cls(wrapped.eval(), tokenizer, bool(getattr(tokenizer, "chat_template", None)))

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
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, logits_processor=noise, do_sample=False, use_cache=True,
            max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, temperature=None, top_p=None, top_k=None,
            repetition_penalty=1.0, no_repeat_ngram_size=0,  # of a model's own settings: what is sampled is what DPO trains
        )  # fmt: skip
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
        with self.model.disable_adapter():
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
    how: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa" if torch.cuda.is_available() else "eager"}
    if load_in_4bit:
        how["quantization_config"] = _four_bits()
    if device_map:
        how["device_map"] = device_map
    try:
        tokenizer = AutoTokenizer.from_pretrained(expanduser(model), padding_side="left")
        base, info = AutoModelForCausalLM.from_pretrained(expanduser(model), output_loading_info=True, **how)
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


def blank_adapter(
    model: str,
    folder: Path,
    *,
    r: int,
    alpha: int,
    dropout: float,
    target_modules: str | list[str],
    seed: int,
    **weights: Any,
) -> None:
    """Writes an adapter that has learnt nothing: its product B A is zero, so the model writes as without it."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules, task_type="CAUSAL_LM"
    )
    try:
        wrapped = get_peft_model(_base(model, **weights)[0], config)
    except ValueError as error:
        raise KkaError(f"align.lora: wanted an adapter for {model}, got {' '.join(str(error).split())[:200]}") from None
    save_adapter(wrapped, folder)


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


@dataclass(frozen=True)
class Sampling:
    instruction: str
    examples: int
    temperature: float
    max_new_tokens: int
    batch_size: int
    min_p: float = 0.0


def collect(
    writer: Describer,
    guard: Guard,
    sampling: Sampling,
    captions: Sequence[str],
    *,
    count: int,
    attempts: int,
    earlier: Sequence[str],
    seed: int,
    progress: Callable[[int], None] = lambda kept: None,
) -> list[Description]:
    """Attempts in the order of their numbers, until `count` of them are kept or `attempts` are spent.

    Which attempts stand, and what they say, does not depend on the batch size. `earlier` texts count as duplicates.
    """
    seen = {key(t) for t in earlier}
    found: list[Description] = []
    kept = 0
    while kept < count and len(found) < attempts:
        numbers = range(len(found), min(attempts, len(found) + sampling.batch_size))
        for text, similarity, likelihood in _attempts(writer, guard, sampling, captions, numbers, seed):
            outcome = _outcome(guard, text, similarity, likelihood, seen)
            found.append(Description(f"{len(found):05d}", text, outcome, round(similarity, 4), round(likelihood, 3)))
            seen.add(key(text))
            kept += outcome == "kept"
            if kept == count:
                break
        progress(kept)
    return found


def _attempts(
    writer: Describer, guard: Guard, sampling: Sampling, captions: Sequence[str], numbers: Sequence[int], seed: int
) -> list[tuple[str, float, float]]:
    prompts = [instruct(sampling, captions, seed_of(seed, "examples", i)) for i in numbers]
    seeds = [seed_of(seed, "text", i) for i in numbers]
    how = {"temperature": sampling.temperature, "min_p": sampling.min_p}
    raw = writer.describe(prompts, seeds, max_new_tokens=sampling.max_new_tokens, **how)
    texts = [clean(t) for t in raw]
    likelihoods = writer.likelihoods(prompts, texts)
    return [(t, float(s), float(v)) for t, s, v in zip(texts, guard.similarity(texts), likelihoods, strict=True)]


def _outcome(guard: Guard, text: str, similarity: float, likelihood: float, seen: set[str]) -> Outcome:
    if not text or likelihood < guard.least_likelihood:
        return "unreadable"
    if similarity >= guard.least_similarity:
        return "normal"
    return "duplicate" if key(text) in seen else "kept"


def instruct(sampling: Sampling, captions: Sequence[str], seed: int) -> str:
    """The instruction, its {examples} replaced by that many normal captions, a line each."""
    if "{examples}" not in sampling.instruction:
        return sampling.instruction
    chosen = np.random.default_rng(seed).permutation(len(captions))[: sampling.examples]
    return sampling.instruction.replace("{examples}", "\n".join(captions[i] for i in chosen))


def clean(text: str) -> str:
    """The first line that says something, without thoughts, announcements, list marks, quotes, brackets and closing
    stops, so that no such mark can become what the preference pairs differ in."""
    text = re.sub(r"<think>.*?(?:</think>|$)", "", text, flags=re.DOTALL)
    for line in text.splitlines():
        if line.strip(" *_").endswith(":"):  # "Here is a caption:"
            continue
        line = re.sub(r"^\s*(?:[-*•]|\(?\d+[.):])\s*", "", line)
        line = re.sub(r"[\[\](){}<>*_`\"“”]", "", line)
        line = re.sub(r"^\s*(?:caption|description|answer)\s*\d*\s*:", "", line, flags=re.IGNORECASE)
        if line := " ".join(line.split()).strip(" .;:'"):
            return line
    return ""


def key(text: str) -> str:
    """What makes two descriptions duplicates: the same words in the same order."""
    return " ".join(re.findall(r"\w+", text.lower()))
