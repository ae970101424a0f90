"""The detector of a round on the test split, which nothing else reads, and on the validation split, to choose parameters by."""

from kka import detectors, evaluation
from kka.images import read_split
from kka.metrics import separation
from kka.records import write_json
from pipelines._csv import write_csv
from pipelines._pictures import measuring_controls
from pipelines._stage import Run, stage


def main(run: Run) -> None:
    section, detector = run.config.evaluate, detectors.load(run.path("data", run.round, "detector"))
    test, calibration, validation = (read_split(run.path("data", "splits", name)) for name in ("test", "calibration", "validation"))
    scores, boundary = detector.score(test.images), detector.score(calibration.images)
    figures = evaluation.evaluate(
        scores, test.labels, test.groups, boundary, bootstrap=section.bootstrap, level=section.interval, seed=run.seed("evaluate")
    )
    figures |= evaluation.validate(detector.score(validation.images), validation.labels, validation.groups)
    if (controls := measuring_controls(run)) is not None:
        figures["controls_auroc"] = separation(boundary, detector.score(controls))
    write_json(run.path("metrics", run.round, "evaluate.json"), figures)
    write_csv(run.path("plots", run.round, "roc.csv"), ("fpr", "tpr"), evaluation.roc_points(scores, test.labels))


if __name__ == "__main__":
    stage(main)
