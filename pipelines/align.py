"""The language model learns from the verdicts which anomalies are wanted; an adapter that has fallen apart stops the
round."""

import shutil

from kka.records import Anomaly, Description, read_records, write_json, write_records
from pipelines.layout import DPO, write_csv
from pipelines.preferences import learn, preferences
from pipelines.stage import Run, stage
from pipelines.texts import fit_guard, load_writer


def main(run: Run) -> None:
    pool = read_records(run.path("data", run.round, "pool.jsonl"), Anomaly)
    found = read_records(run.path("data", run.round, "descriptions.jsonl"), Description)
    with run.whole("data", run.round, "adapter") as folder:
        if run.config.align.enabled:
            writer = load_writer(run)
            guard = fit_guard(run, writer)
            pairs = preferences(run, writer, guard, pool, found)
            numbers, curves = learn(run, writer, guard, pairs, folder)
        else:
            pairs, numbers, curves = [], {}, []
            shutil.copytree(run.path("data", run.previous, "adapter"), folder, dirs_exist_ok=True)
    write_records(run.path("data", run.round, "pairs.jsonl"), pairs)
    write_json(run.path("metrics", run.round, "align.json"), numbers)
    write_csv(run.path("plots", run.round, "align.csv"), DPO, curves)


if __name__ == "__main__":
    stage(main)
