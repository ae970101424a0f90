"""The fits of a round's detector on the test split, which nothing else reads, and on the validation split, to choose
parameters by."""

import statistics

from kka import datasets, detectors, evaluation
from kka.controls import measuring_controls
from kka.images import write_images, write_masks
from kka.records import Mistake, Split, whole_folder, write_json, write_records
from pipelines.layout import MASKS, write_csv
from pipelines.stage import Run, stage

MOST = 8  # mistakes of either kind
COLUMNS = ("split", "label", "group", "score")


def main(run: Run) -> None:
    section, controls = run.config.evaluate, run.files.read_controls()
    test, calibration, validation = (run.layout.read_split(part) for part in ("test", "calibration", "validation"))
    fits = [
        evaluation.measure(
            detectors.load(folder),
            test,
            calibration,
            validation,
            measuring_controls(controls),
            bootstrap=section.bootstrap,
            level=section.interval,
            seed=run.seed("evaluate"),
        )
        for folder in run.files.fits()
    ]
    texts = [a.text for a in run.files.read_pool() if a.round == run.round]
    distances = [d for d in datasets.text_distances(run.config.prepare.dataset, texts) if d is not None]
    figures = evaluation.over_fits([fit.figures for fit in fits])
    if distances:  # how far from the normal class the texts are, where the data set can read that off a text
        figures["mean_distance"] = statistics.fmean(distances)
    write_json(run.files.metrics("evaluate"), figures)
    write_scores(run, test, calibration, fits[0])


def write_scores(run: Run, test: Split, calibration: Split, fit: evaluation.Measured) -> None:
    """Every score of a fit, its ROC, and the test pictures that it scored most wrongly."""
    rows = [
        dict(zip(COLUMNS, (name, *row), strict=True))
        for name, split, scores in (("calibration", calibration, fit.calibration), ("test", test, fit.test))
        for row in zip(split.labels.tolist(), split.groups, scores.tolist(), strict=True)
    ]
    write_csv(run.files.scores, COLUMNS, rows)
    write_csv(run.files.plot("roc"), ("fpr", "tpr"), evaluation.roc_points(fit.test, test.labels))
    worst = evaluation.worst(fit.test, test.labels, MOST)
    with whole_folder(run.files.mistakes) as folder:
        write_images(folder, test.images[worst])
        if test.masks is not None:
            write_masks(folder / MASKS, test.masks[worst])
        write_records(
            folder / "mistakes.jsonl",
            [Mistake(i, int(test.labels[i]), test.groups[i], test.captions[i], float(fit.test[i])) for i in worst],
        )


if __name__ == "__main__":
    stage(main)
