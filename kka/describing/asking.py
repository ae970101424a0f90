"""How a language model is asked for descriptions: prompts, seeds, and attempts that the guard judges one by one.

What an attempt says depends on its own number and seed alone, never on what else is in its batch.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kka.describing.guard import USUAL, Guard, Thresholds
from kka.records import Description, seed_of, texts


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


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model is asked. `instruction` may hold {examples}: that many normal captions, drawn anew for each prompt.
    `temperature` is above 0; tokens less likely than `min_p` times the likeliest are never taken."""

    instruction: str
    examples: int = 0
    temperature: float = 1.0
    max_new_tokens: int = 40
    batch_size: int = 64
    min_p: float = 0.05

    def prompts(self, captions: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """The instruction for each seed, which draws its examples from the captions, a line each."""
        if "{examples}" not in self.instruction:
            return [self.instruction] * len(seeds)
        return [self.instruction.replace("{examples}", "\n".join(self._examples(captions, seed))) for seed in seeds]

    def _examples(self, captions: Sequence[str], seed: int) -> list[str]:
        order = np.random.default_rng(seed).permutation(len(captions))
        return [captions[i] for i in order[: self.examples]]


D_co = TypeVar("D_co", bound=Describer, covariant=True)


@dataclass(frozen=True)
class Asker(Generic[D_co]):
    """A describer and all that it takes to ask it: how it is sampled, normal captions for examples, and the guard that
    judges its answers."""

    describer: D_co
    guard: Guard
    sampling: Sampling
    captions: Sequence[str]

    @classmethod
    def fit(
        cls,
        describer: D_co,  # type: ignore[misc]  # a constructor: covariance is safe
        sampling: Sampling,
        captions: Sequence[str],
        calibration: Sequence[str],
        seeds: Sequence[int],
        thresholds: Thresholds = USUAL,
    ) -> "Asker[D_co]":
        """With a guard whose thresholds come from the `calibration` captions, each scored behind a prompt of its own
        seed. Raises what `Guard.fit` does."""
        likelihoods = describer.likelihoods(sampling.prompts(captions, seeds), calibration)
        guard = Guard.fit(captions, calibration, likelihoods, thresholds)
        return cls(describer, guard, sampling, captions)

    def prompts(self, seeds: Sequence[int]) -> list[str]:
        """A prompt for each seed."""
        return self.sampling.prompts(self.captions, seeds)

    def ask(
        self, count: int, attempts: int, seed: int, earlier: Sequence[str] = (), title: str = "descriptions"
    ) -> list[Description]:
        """Attempts in the order of their numbers, until `count` of them are kept or `attempts` are spent.

        `earlier` texts count as duplicates. Which attempts there are, and what they say, does not depend on the batch
        size. A progress bar shows `title`.
        """
        keys = {key(text) for text in earlier}
        descriptions: list[Description] = []
        missing = count
        with tqdm(total=count, desc=title, disable=None) as bar:
            while missing and len(descriptions) < attempts:
                numbers = range(len(descriptions), min(attempts, len(descriptions) + self.sampling.batch_size))
                judged = _judged(self._attempts(numbers, seed), keys, missing)
                descriptions += judged
                kept = len(texts(judged, "kept"))
                missing -= kept
                bar.update(kept)
        return descriptions

    def _attempts(self, numbers: Sequence[int], seed: int) -> list[Description]:
        """The attempts of these numbers, each judged by itself: duplicates are not known yet."""
        prompts = self.prompts([seed_of(seed, "examples", i) for i in numbers])
        raw = self.describer.describe(
            prompts,
            [seed_of(seed, "text", i) for i in numbers],
            temperature=self.sampling.temperature,
            max_new_tokens=self.sampling.max_new_tokens,
            min_p=self.sampling.min_p,
        )
        cleaned = [clean(text) for text in raw]
        likelihoods = self.describer.likelihoods(prompts, cleaned).tolist()
        similarities = self.guard.similarity(cleaned).tolist()
        return [
            Description(f"{i:05d}", text, self.guard.outcome(text, near, likely), round(near, 4), round(likely, 3))
            for i, text, near, likely in zip(numbers, cleaned, similarities, likelihoods, strict=True)
        ]


def _judged(batch: Sequence[Description], keys: set[str], wanted: int) -> list[Description]:
    """The attempts up to the one with which enough are kept. What `keys` names was written before: a duplicate."""
    descriptions: list[Description] = []
    for attempt in batch:
        if wanted == 0:
            break
        if attempt.outcome == "kept" and key(attempt.text) in keys:
            attempt = Description(attempt.id, attempt.text, "duplicate", attempt.similarity, attempt.likelihood)
        keys.add(key(attempt.text))
        descriptions.append(attempt)
        wanted -= attempt.outcome == "kept"
    return descriptions


def summary(descriptions: Sequence[Description]) -> dict[str, float]:
    """The number of attempts and of each outcome, the readable fraction of all, and the distinct fraction of the
    readable ones."""
    outcomes = Counter(d.outcome for d in descriptions)
    readable = [d.text for d in descriptions if d.outcome != "unreadable"]
    return {
        "attempts": len(descriptions),
        **{name: outcomes[name] for name in ("kept", "normal", "unreadable", "duplicate")},
        "readable": len(readable) / max(1, len(descriptions)),
        "distinct": len({key(text) for text in readable}) / max(1, len(readable)),
    }


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
        line = " ".join(line.split()).strip(" .;:'")
        if line:
            return line
    return ""


def key(text: str) -> str:
    """What makes two descriptions duplicates: the same words in the same order."""
    return " ".join(re.findall(r"\w+", text.lower()))
