"""A picture of each description that was kept, and controls: pictures of normal captions, made the same way."""

import numpy as np

from kka import synthesizers
from kka.images import read_split
from kka.records import Anomaly, Description, read_records, texts, write_json
from pipelines.matching import match_spectrum, refuse_photographs
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section, prepare = run.config.synthesize, run.config.prepare
    earlier = [a.sha256 for a in read_records(run.path("data", run.previous, "pool.jsonl"), Anomaly)]
    normal = read_split(run.path("data", "splits", "train"))
    drawn = np.random.default_rng(run.seed("controls")).integers(len(normal), size=section.controls)
    wanted = {
        "anomalies": texts(read_records(run.path("data", run.round, "descriptions.jsonl"), Description), "kept"),
        "controls": [lines[k % len(lines)] for k, i in enumerate(drawn) if (lines := normal.captions[i].splitlines())],
    }
    about = {"dataset": prepare.dataset, "dataset_options": prepare.options, "image_size": prepare.image_size}
    synthesizer = synthesizers.create(section.synthesizer, section.options, **about, normals=normal.images)
    if section.match_spectrum:
        refuse_photographs(run, synthesizer)
    for name, lines in wanted.items():
        seeds = [run.seed("synthesize", name, i) for i in range(len(lines))]
        folder = run.path("data", run.round, name)
        synthesizers.synthesize_shards(
            synthesizer, lines, seeds, folder, prepare.image_size, section.micro_batch, earlier=earlier
        )
        write_json(folder / "captions.json", lines)
    if section.match_spectrum:
        match_spectrum(run, normal.images)
    write_json(run.path("metrics", run.round, "synthesize.json"), {name: len(lines) for name, lines in wanted.items()})


if __name__ == "__main__":
    stage(main)
