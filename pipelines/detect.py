"""A detector learns from normals and a mixture of all rounds' anomalies, in the hard proportion of this round."""

import numpy as np

from kka.confusion import hard_proportion, mixture
from kka.controls import training_controls
from kka.records import write_json
from kka.training import fit_over_seeds
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section, schedule = run.config.detect, run.config.detect.hard_proportion
    rounds, pool = run.config.lineage(run.round), run.files.read_pool()
    wanted = hard_proportion(len(rounds), start=schedule.start, end=schedule.end, rounds=schedule.rounds)
    chosen, reached = mixture(pool, wanted, np.random.default_rng(run.seed("mixture")))
    normals, anomalies = run.layout.read_split("train").images, run.layout.read_pictures(chosen)
    controls = [run.layout.round(name).read_controls() for name in rounds]
    generated = training_controls(controls)
    seeds = run.fit_seeds(section.seeds)
    changes = run.layout.read_changes(chosen)
    fits = fit_over_seeds(
        section.detector, seeds, section.options, normals, anomalies, generated, changes=changes, log=run.log
    )
    run.files.write_fits(fits)
    figures = {"pool": len(pool), "images": len(chosen), "hard_proportion_wanted": wanted, "hard_proportion": reached}
    write_json(run.files.metrics("detect"), figures)


if __name__ == "__main__":
    stage(main)
