"""The fits of a round's detector on the test split, which nothing else reads, and on the validation split, to choose
parameters by."""

from typing import Any

from kka import detectors, evaluation
from kka.detectors import Detector, Images
from kka.images import read_split
from kka.metrics import separation
from kka.records import Split, write_json
from pipelines.generated import measuring_controls
from pipelines.scored import write_scored
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    splits = [read_split(run.path("data", "splits", name)) for name in ("test", "calibration", "validation")]
    fits = [run.path("data", run.round, "detector"), *sorted(run.path("data", run.round, "repeats").iterdir())]
    controls = measuring_controls(run)
    figures = [_figures(run, detectors.load(folder), i, controls, *splits) for i, folder in enumerate(fits)]
    write_json(run.path("metrics", run.round, "evaluate.json"), evaluation.over_fits(figures))


def _figures(
    run: Run,
    detector: Detector,
    place: int,
    controls: Images | None,
    test: Split,
    calibration: Split,
    validation: Split,
) -> dict[str, Any]:
    section, scores, boundary = run.config.evaluate, detector.score(test.images), detector.score(calibration.images)
    figures = evaluation.evaluate(
        scores,
        test.labels,
        test.groups,
        boundary,
        bootstrap=section.bootstrap,
        level=section.interval,
        seed=run.seed("evaluate"),
    )
    figures |= evaluation.validate(detector.score(validation.images), validation.labels, validation.groups)
    if controls is not None:
        figures["controls_auroc"] = separation(boundary, detector.score(controls))
    if place == 0:
        write_scored(run, {"calibration": (calibration, boundary), "test": (test, scores)})
    return figures


if __name__ == "__main__":
    stage(main)
