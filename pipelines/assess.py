"""The confusion evaluator: which new anomalies does the detector of the round before, which never saw them, take for
normal?"""

from collections import Counter

from kka.records import Anomaly, read_records, sha256, write_json, write_records
from pipelines.generated import new_pictures
from pipelines.stage import Run, stage
from pipelines.verdicts import check_contrast, judge


def main(run: Run) -> None:
    descriptions, images = new_pictures(run)
    now, zero = judge(run, run.previous, images), judge(run, "r0", images)
    pool = read_records(run.path("data", run.previous, "pool.jsonl"), Anomaly)
    for row, (text, score, score_r0, grade) in enumerate(
        zip(descriptions, now.scores, zero.scores, now.grades, strict=True)
    ):
        name = f"{run.round}-{text.id}"
        pool.append(Anomaly(name, run.round, row, text.text, float(score), float(score_r0), grade, sha256(images[row])))
    check_contrast(run, pool)
    write_records(run.path("data", run.round, "pool.jsonl"), pool)
    counts = Counter({"hard": 0, "between": 0, "easy": 0})
    counts.update(now.grades)
    write_json(run.path("metrics", run.round, "assess.json"), dict(counts) | now.figures("") | zero.figures("_r0"))


if __name__ == "__main__":
    stage(main)
