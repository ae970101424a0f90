"""The data set, with what inspectors said, as four splits of pictures and captions. Everything after reads
these, never the data set itself."""

from pathlib import Path

from kka import datasets
from kka.datasets.shared import feedback
from kka.images import write_split
from kka.records import PARTS, whole_folder
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section = run.config.prepare
    splits = datasets.load(section.dataset, run.seed("prepare"), section.image_size, **section.options)
    splits = feedback.joined(splits, Path(section.feedback), squeeze=section.squeeze)
    for part in PARTS:
        with whole_folder(run.layout.split(part)) as folder:
            write_split(folder, getattr(splits, part))


if __name__ == "__main__":
    stage(main, torch=False)
