"""Round zero: a detector that has seen normal images only, an adapter that has learnt nothing, an empty pool, no
controls."""

from kka.describing.writer import blank_adapter
from kka.images import read_split
from kka.records import write_json, write_records
from pipelines.fits import fit
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    describe = run.config.describe
    fit(run, read_split(run.path("data", "splits", "train")).images)
    with run.whole("data", run.round, "adapter") as folder:
        if describe.endpoint:  # its weights are elsewhere
            write_json(folder / "endpoint.json", describe.endpoint)
        else:
            lora, weights = run.config.align.lora.model_dump(), describe.weights.model_dump()
            blank_adapter(describe.model, folder, **lora, **weights, seed=run.seed("adapter"))
    with run.whole("data", run.round, "controls") as folder:
        write_json(folder / "captions.json", [])
    write_records(run.path("data", run.round, "pool.jsonl"), [])


if __name__ == "__main__":
    stage(main)
