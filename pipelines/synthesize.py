"""A picture of each description that was kept, and controls: pictures of normal captions, made the same way."""

from typing import Any

import numpy as np

from kka import synthesizers
from kka.defects.scenes import tally
from kka.images import read_images, write_images
from kka.records import texts, write_json
from kka.spectrum import match_spectrum
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section, prepare, files = run.config.synthesize, run.config.prepare, run.files
    normal = run.layout.read_split("train")
    drawn = np.random.default_rng(run.seed("controls")).integers(len(normal), size=section.controls)
    wanted = {
        files.anomalies: texts(files.read_descriptions(), "kept"),
        files.controls: [_caption(normal.captions[i], k) for k, i in enumerate(drawn) if normal.captions[i].strip()],
    }
    about = {"dataset": prepare.dataset, "dataset_options": prepare.options, "image_size": prepare.image_size}
    synthesizer = synthesizers.create(section.synthesizer, section.options, **about, normals=normal.images)
    if section.match_spectrum:
        synthesizers.check_generates(section.synthesizer, synthesizer)
    earlier = [a.sha256 for a in run.before.read_pool()]
    for folder, lines in wanted.items():
        seeds, size = run.seeds("synthesize", folder.name, n=len(lines)), prepare.image_size
        synthesizers.synthesize_shards(synthesizer, lines, seeds, folder, size, section.micro_batch, earlier=earlier)
        write_json(folder / "captions.json", lines)
    if section.match_spectrum:
        matched = match_spectrum(read_images(files.anomalies), read_images(files.controls), normal.images)
        for folder, pictures in zip(wanted, matched, strict=True):
            write_images(folder, pictures)
    counts: dict[str, Any] = {folder.name: len(lines) for folder, lines in wanted.items()}
    write_json(files.metrics("synthesize"), counts | tally(synthesizers.read_details(files.anomalies)))


def _caption(captions: str, number: int) -> str:
    """One of a picture's captions: control `number` takes the next of them in turn."""
    lines = captions.splitlines()
    return lines[number % len(lines)]


if __name__ == "__main__":
    stage(main)
