"""The fits of a round's detector: one that the round goes on with, and repeats from other seeds that only measure its
deviation."""

from kka import detectors, training
from kka.detectors import Images
from kka.log import silent
from pipelines.stage import Run


def fit(run: Run, normals: Images, anomalies: Images | None = None, generated_normals: Images | None = None) -> None:
    """Writes `data/ROUND/detector`, and `data/ROUND/repeats` with a folder for each further seed, an empty one where
    there is none."""
    section = run.config.detect
    with run.whole("data", run.round, "repeats") as folder:
        for i in range(section.seeds):
            items = [i] if i else []
            detector = detectors.create(section.detector, run.seed("detect", *items), **section.options)
            fitted = training.train(detector, normals, anomalies, generated_normals, log=silent if i else run.log)
            fitted.save(folder / str(i) if i else run.path("data", run.round, "detector"))
