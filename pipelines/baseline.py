"""Round zero: a detector that has seen normal images only, a blank adapter, an empty pool, no controls."""

from kka.describing.adapters import write_blank
from kka.records import whole_folder, write_json, write_records
from kka.training import fit_over_seeds
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section = run.config.detect
    seeds = run.fit_seeds(section.seeds)
    normals = run.layout.read_split("train").images
    run.files.write_fits(fit_over_seeds(section.detector, seeds, section.options, normals, log=run.log))
    with whole_folder(run.files.adapter) as folder:
        write_blank(folder)
    with whole_folder(run.files.controls) as folder:
        write_json(folder / "captions.json", [])
    write_records(run.files.pool, [])


if __name__ == "__main__":
    stage(main)
