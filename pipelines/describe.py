"""The language model describes anomalies, with what the round before has taught it; the guard refuses some."""

from kka.describing.asking import Asker, summary
from kka.describing.endpoint import Endpoint
from kka.describing.writer import Writer
from kka.errors import Collapse
from kka.records import write_json, write_records
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    section, held = run.config.describe, run.config.describe.weights
    captions, calibration = run.layout.read_captions("train"), run.layout.read_captions("calibration")
    describer = Endpoint(section.endpoint, section.model) if section.endpoint else Writer.load(
        section.model, run.before.adapter, dtype=held.dtype, device_map=held.device_map, load_in_4bit=held.load_in_4bit
    )  # fmt: skip
    seeds = run.seeds("guard", "examples", n=len(calibration))
    asker = Asker.fit(describer, section.sampling, captions, calibration, seeds, section.guard.thresholds)
    earlier = [a.text for a in run.before.read_pool()]
    title = f"describe {run.round}"
    descriptions = asker.ask(section.count, section.attempts, run.seed("describe"), earlier, title)
    counts = summary(descriptions)
    outcomes = ", ".join(f"{counts[k]:.0f} {k}" for k in ("attempts", "kept", "normal", "unreadable", "duplicate"))
    if not counts["kept"]:
        raise Collapse(
            f"describe: round {run.round} wanted {section.count} descriptions, got none that the guard keeps"
            f" ({outcomes})."
            " Raise describe.attempts, or loosen describe.guard."
        )
    write_records(run.files.descriptions, descriptions)
    write_json(run.files.metrics("describe"), counts)
    print(f"{title}: {outcomes}: {'enough' if counts['kept'] == section.count else 'describe.attempts are spent'}")


if __name__ == "__main__":
    stage(main)
