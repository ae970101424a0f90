"""The language model learns from the verdicts which anomalies are wanted; one that fell apart stops the round."""

from pathlib import Path

import numpy as np

from kka.alignment import DPO, Curves, align
from kka.describing.adapters import copy_adapter
from kka.describing.asking import Asker
from kka.describing.writer import Lora, Writer, save_adapter
from kka.preferences import preferences
from kka.records import Pair, seed_of, whole_folder, write_json, write_records
from pipelines.layout import BASELINE, CURVES, write_csv
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    pairs: list[Pair] = []
    figures: dict[str, float] = {}
    curves: Curves = []
    with whole_folder(run.files.adapter) as folder:
        if run.config.align.enabled:
            pairs, figures, curves = learn(run, folder)
        else:
            copy_adapter(run.before.adapter, folder)
    write_records(run.files.pairs, pairs)
    write_json(run.files.metrics("align"), figures)
    write_csv(run.files.plot("align"), CURVES, curves)


def learn(run: Run, folder: Path) -> tuple[list[Pair], dict[str, float], Curves]:
    """The pairs of this round, and the figures and curves of the adapter that learnt from them, which is written to the
    folder."""
    section, health = run.config.align, run.config.align.health
    asker = _asker(run)
    candidates = []
    if section.candidates:
        n = section.candidates
        candidates = asker.ask(n, n, run.seed("candidates"), title=f"candidates {run.round}")
    pairs = preferences(
        run.files.read_pool(),
        run.round,
        run.files.read_descriptions(),
        candidates,
        asker.guard.similarity,
        chosen_share=section.chosen_share,
        rejected_share=section.rejected_share,
        refused_share=section.refused_share,
        count=section.pairs,
        validation_share=section.validation_share,
        rng=np.random.default_rng(run.seed("pairs")),
    )
    figures, curves = align(
        asker.describer,
        pairs,
        asker.prompts(run.seeds("pairs", "examples", n=len(pairs))),
        lambda: asker.ask(health.sample, health.sample, run.seed("health"), title=f"health {run.round}"),
        DPO(
            steps=section.steps,
            batch_size=section.batch_size,
            learning_rate=section.learning_rate,
            beta=section.beta,
            sft=section.sft,
        ),
        readable=health.readable,
        distinct=health.distinct,
        seed=run.seed("align"),
        log=run.log,
    )
    save_adapter(asker.describer.model, folder)
    return pairs, figures, curves


def _asker(run: Run) -> Asker[Writer]:
    """The language model of the round before, with the guard."""
    describe, lora = run.config.describe, run.config.align.lora
    writer = Writer.load(
        describe.model,
        run.before.adapter,
        lora=Lora(r=lora.r, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules),
        seed=seed_of(run.config.seed, "adapter", BASELINE),
        dtype=describe.weights.dtype,
        device_map=describe.weights.device_map,
        load_in_4bit=describe.weights.load_in_4bit,
    )
    captions, calibration = run.layout.read_captions("train"), run.layout.read_captions("calibration")
    seeds = run.seeds("guard", "examples", n=len(calibration))
    return Asker.fit(writer, describe.sampling, captions, calibration, seeds, describe.guard.thresholds)


if __name__ == "__main__":
    stage(main)
