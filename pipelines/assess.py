"""The confusion evaluator: which new anomalies does the detector of the round before, which never saw them, take for
normal, and which of those are hopeless?"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kka import detectors
from kka.confusion import Verdict, check_contrast, judge, rated
from kka.controls import measuring_controls, training_controls
from kka.hopeless import Flags, Taught, contrasts, judge_by_siblings, with_hopeless
from kka.images import read_changes
from kka.records import Anomaly, Changes, Images, write_json, write_records
from pipelines.layout import BASELINE
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section = run.config.assess
    descriptions, images = run.files.read_anomalies()
    calibration, controls = run.layout.read_split("calibration").images, run.files.read_controls()
    verdicts = {
        name: judge(
            detectors.load(run.layout.round(name).detector),
            images,
            calibration,
            measuring_controls(controls),
            quantile=section.quantile,
            easy_share=section.easy_share,
        )
        for name in dict.fromkeys((run.previous, BASELINE))
    }
    now, zero = verdicts[run.previous], verdicts[BASELINE]
    graded, found = tell_hopeless(run, now, images, calibration)
    pool = [*run.before.read_pool(), *rated(run.round, descriptions, images, graded, zero)]
    check_contrast(pool)
    warn(run.round, pool)
    write_records(run.files.pool, pool)
    counts = Counter({"hard": 0, "between": 0, "easy": 0})
    counts.update(graded.grades)
    write_json(run.files.metrics("assess"), dict(counts) | found | now.figures() | zero.figures("_r0"))


def tell_hopeless(run: Run, verdict: Verdict, images: Images, calibration: Images) -> tuple[Verdict, dict[str, float]]:
    """The verdict with its hopeless anomalies, and figures of them; as it was, and none, where nobody asks."""
    section = run.config.assess
    if not (section.asks_siblings or section.least_effect):
        return verdict, {}
    changes, unseen = read_changes(run.files.anomalies), np.zeros(len(images), bool)
    hidden, figures = np.zeros(len(images), bool), {}
    if section.least_effect and changes is not None:
        unseen = contrasts(images, changes) < section.least_effect
        figures["without_effect"] = int(unseen.sum())
    if section.asks_siblings:
        taught = ask_siblings(run, images, calibration, changes, unseen)
        hidden = taught.hidden(section.hopeless_effect if section.hopeless_by == "source" else None)
        verdict = replace(verdict, effects=taught.effects)
    graded = with_hopeless(verdict, hidden, unseen)
    count = graded.grades.count("hopeless")
    return graded, {"hopeless": count, **figures, "hopeless_rate": count / len(images)}


def ask_siblings(run: Run, images: Images, calibration: Images, changes: Changes | None, unseen: Flags) -> Taught:
    """What detectors of the round's kind make of each anomaly that have learnt from the others."""
    detect, rounds = run.config.detect, run.config.lineage(run.round)
    return judge_by_siblings(
        detect.detector,
        run.seed("siblings"),
        detect.options,
        run.layout.read_split("train").images,
        images,
        calibration,
        training_controls([run.layout.round(name).read_controls() for name in rounds]),
        quantile=run.config.assess.hopeless_quantile,
        changes=changes,
        without_effect=unseen,
    )


def warn(name: str, pool: Sequence[Anomaly]) -> None:
    """Says on stderr where no anomaly of the pool is hard, and what may be done about it."""
    counts = Counter(anomaly.grade for anomaly in pool)
    if counts["hard"]:
        return
    why = (
        "the detector takes none of them for normal. Where controls_auroc in metrics/*/assess.json is near 1, it may"
        " only know generated pictures; else assess.quantile may be raised."
    )
    if counts["hopeless"]:
        why = f"{counts['hopeless']} are hopeless. Look at them; assess.hopeless_quantile may be lowered."
    print(f"assess {name}: no hard anomaly among {len(pool)}: {why}", file=sys.stderr)


if __name__ == "__main__":
    stage(main)
