"""Preference pairs from a round's verdicts, and the adapter that learns from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kka import alignment
from kka.confusion import Guard, preference_pairs, surrogate
from kka.descriptions import Writer
from kka.errors import KkaError
from kka.records import Anomaly, Description, Pair, texts
from pipelines._stage import Run
from pipelines._texts import ask, figures, prompts

Curves = list[dict[str, float]]


def preferences(run: Run, writer: Writer, guard: Guard, pool: Sequence[Anomaly], found: Sequence[Description]) -> list[Pair]:
    """Pairs from this round's anomalies and fresh candidates; what the guard refused of either is rejected."""
    section = run.config.align
    rated = [a for a in pool if a.round == run.round]
    wanted, scores = [a.text for a in rated], np.array([a.score for a in rated])
    if section.candidates:
        fresh = ask(run, writer, guard, "candidates", count=section.candidates, attempts=section.candidates)
        found = [*found, *fresh]
        wanted += texts(fresh, "kept")
        scores = surrogate(pool, wanted, guard.similarity)
    shares = section.model_dump(include={"chosen_share", "rejected_share", "refused_share", "validation_share"})
    refused = [*texts(found, "unreadable"), *texts(found, "normal")]
    return preference_pairs(wanted, scores, refused, count=section.pairs, rng=np.random.default_rng(run.seed("pairs")), **shares)


def learn(run: Run, writer: Writer, guard: Guard, pairs: Sequence[Pair], folder: Path) -> tuple[dict[str, float], Curves]:
    """Writes the adapter that learnt from the pairs to `folder`. Raises KkaError where it no longer writes as it should."""
    section = run.config.align
    how = section.model_dump(include={"steps", "batch_size", "learning_rate", "beta", "sft"})
    asked = prompts(run, "pairs", len(pairs))
    numbers, curves = alignment.align(writer, pairs, asked, folder, **how, seed=run.seed("align"), log=run.log)
    found = figures(ask(run, writer, guard, "health", count=section.health.sample, attempts=section.health.sample))
    health = {"readable": found["readable"], "distinct": found["distinct"], "normal": found["normal"] / found["attempts"]}
    for name in ("readable", "distinct"):
        if health[name] < (least := getattr(section.health, name)):
            raise KkaError(
                f"align: the adapter of round {run.round} has fallen apart: {health[name]:.0%} of {found['attempts']:.0f} descriptions are"
                f" {name}, wanted at least {least:.0%} (align.health.{name}). Lower align.learning_rate ({section.learning_rate}) or"
                f" align.steps ({section.steps}), or raise align.beta ({section.beta}) or align.sft ({section.sft})."
            )
    return numbers | health, curves
