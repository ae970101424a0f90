"""Round zero: a detector that has seen normal images only, an adapter that has learnt nothing, an empty pool, no controls."""

from kka import detectors, training
from kka.descriptions import blank_adapter
from kka.images import read_split
from kka.records import write_json, write_records
from pipelines._stage import Run, stage


def main(run: Run) -> None:
    detect, lora = run.config.detect, run.config.align.lora
    normals = read_split(run.path("data", "splits", "train")).images
    detector = detectors.create(detect.detector, run.seed("detect"), **detect.options)
    fitted = training.train(detector, normals, log=run.log)
    fitted.save(run.path("data", run.round, "detector"))
    with run.whole("data", run.round, "adapter") as folder:
        blank_adapter(run.config.describe.model, folder, **lora.model_dump(), seed=run.seed("adapter"))
    with run.whole("data", run.round, "controls") as folder:
        write_json(folder / "captions.json", [])
    write_records(run.path("data", run.round, "pool.jsonl"), [])


if __name__ == "__main__":
    stage(main)
