"""Round zero: a detector that has seen normal images only, an adapter that has learnt nothing, an empty pool, no controls."""

from kka.descriptions import blank_adapter
from kka.images import read_split
from kka.records import write_json, write_records
from pipelines._fits import fit
from pipelines._stage import Run, stage


def main(run: Run) -> None:
    fit(run, read_split(run.path("data", "splits", "train")).images)
    with run.whole("data", run.round, "adapter") as folder:
        blank_adapter(run.config.describe.model, folder, **run.config.align.lora.model_dump(), seed=run.seed("adapter"))
    with run.whole("data", run.round, "controls") as folder:
        write_json(folder / "captions.json", [])
    write_records(run.path("data", run.round, "pool.jsonl"), [])


if __name__ == "__main__":
    stage(main)
