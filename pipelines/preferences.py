"""Preference pairs from a round's verdicts, and the adapter that learns from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kka import alignment
from kka.confusion import Guard, preference_pairs, surrogate
from kka.describing.writer import Writer, save_adapter
from kka.errors import Collapse
from kka.records import Anomaly, Description, Pair, texts
from pipelines.stage import Run
from pipelines.texts import ask, figures, prompts

Curves = list[dict[str, float]]


def preferences(
    run: Run, writer: Writer, guard: Guard, pool: Sequence[Anomaly], found: Sequence[Description]
) -> list[Pair]:
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
    return preference_pairs(
        wanted, scores, refused, count=section.pairs, rng=np.random.default_rng(run.seed("pairs")), **shares
    )


def learn(
    run: Run, writer: Writer, guard: Guard, pairs: Sequence[Pair], folder: Path
) -> tuple[dict[str, float], Curves]:
    """Writes the adapter that learnt from the pairs to `folder`. Where it no longer writes as it should, only a half, a
    quarter or an eighth of the way is gone. Raises KkaError where even that is too far."""
    section, start = run.config.align, alignment.weights(writer)
    how = section.model_dump(include={"steps", "batch_size", "learning_rate", "beta", "sft"})
    asked = prompts(run, "pairs", len(pairs))
    numbers, curves = alignment.align(writer, pairs, asked, **how, seed=run.seed("align"), log=run.log)
    end = alignment.weights(writer)
    for share in (1.0, 0.5, 0.25, 0.125):
        alignment.set_between(writer, start, end, share)
        found = figures(ask(run, writer, guard, "health", count=section.health.sample, attempts=section.health.sample))
        ill = [name for name in ("readable", "distinct") if found[name] < getattr(section.health, name)]
        if not ill:
            save_adapter(writer.model, folder)
            health = {
                "readable": found["readable"],
                "distinct": found["distinct"],
                "normal": found["normal"] / found["attempts"],
            }
            return numbers | health | {"share_of_the_way": share}, curves
    least = getattr(section.health, ill[0])
    raise Collapse(
        f"align: the adapter of round {run.round} has fallen apart: {found[ill[0]]:.0%} of {found['attempts']:.0f} descriptions are"
        f" {ill[0]}, wanted at least {least:.0%} (align.health.{ill[0]}). Lower align.learning_rate ({section.learning_rate}) or"
        f" align.steps ({section.steps}), or raise align.beta ({section.beta}) or align.sft ({section.sft})."
    )
