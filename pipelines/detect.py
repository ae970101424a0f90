"""A detector learns from normals and a mixture of all rounds' anomalies, in the hard proportion of this round."""

import numpy as np

from kka.confusion import hard_proportion, mixture
from kka.images import read_split
from kka.records import Anomaly, read_records, write_json
from pipelines.fits import fit
from pipelines.generated import pictures, training_controls
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    pool = read_records(run.path("data", run.round, "pool.jsonl"), Anomaly)
    wanted = hard_proportion(len(run.config.lineage(run.round)), **run.config.detect.hard_proportion.model_dump())
    chosen, reached = mixture(pool, wanted, np.random.default_rng(run.seed("mixture")))
    fit(run, read_split(run.path("data", "splits", "train")).images, pictures(run, chosen), training_controls(run))
    numbers = {"pool": len(pool), "images": len(chosen), "hard_proportion_wanted": wanted, "hard_proportion": reached}
    write_json(run.path("metrics", run.round, "detect.json"), numbers)


if __name__ == "__main__":
    stage(main)
