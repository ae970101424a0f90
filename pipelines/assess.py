"""The confusion evaluator: which new anomalies does the detector of the round before, which never saw them, take for
normal?"""

import sys
from collections import Counter

from kka import detectors
from kka.confusion import check_contrast, judge, rated
from kka.controls import measuring_controls
from kka.records import write_json, write_records
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
    pool = [*run.before.read_pool(), *rated(run.round, descriptions, images, now, zero)]
    check_contrast(pool)
    if not any(a.grade == "hard" for a in pool):
        print(
            f"assess {run.round}: no hard anomaly among {len(pool)}: the detector takes none of them for normal. Where"
            " controls_auroc in metrics/*/assess.json is near 1, it may only know generated pictures; else"
            " assess.quantile may be raised.",
            file=sys.stderr,
        )
    write_records(run.files.pool, pool)
    counts = Counter({"hard": 0, "between": 0, "easy": 0})
    counts.update(now.grades)
    write_json(run.files.metrics("assess"), dict(counts) | now.figures() | zero.figures("_r0"))


if __name__ == "__main__":
    stage(main)
