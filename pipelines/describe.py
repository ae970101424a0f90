"""The language model describes anomalies, with what the round before has taught it; the guard sorts out what cannot be
one."""

from kka import registry
from kka.errors import Collapse
from kka.records import Anomaly, read_records, texts, write_json, write_records
from pipelines.stage import Run, stage
from pipelines.texts import ask, figures, fit_guard, load_describer


def main(run: Run) -> None:
    section = run.config.describe
    earlier = [a.text for a in read_records(run.path("data", run.previous, "pool.jsonl"), Anomaly)]
    writer = load_describer(run)
    found = ask(
        run, writer, fit_guard(run, writer), "describe", count=section.count, attempts=section.attempts, earlier=earlier
    )
    kept = texts(found, "kept")
    if not kept:
        raise Collapse(
            f"describe: round {run.round} wanted {section.count} descriptions, got none that the guard keeps"
            f" ({_counts(figures(found))}). Raise describe.attempts, or loosen describe.guard."
        )
    write_records(run.path("data", run.round, "descriptions.jsonl"), found)
    write_json(
        run.path("metrics", run.round, "describe.json"),
        figures(found) | _mean_distance(run.config.prepare.dataset, kept),
    )
    ended = "enough" if len(kept) == section.count else "describe.attempts are spent"
    print(f"describe {run.round}: {_counts(figures(found))}: {ended}")


def _mean_distance(dataset: str, kept: list[str]) -> dict[str, float]:
    """How far from the normal class the texts are, where the data set can read that off a text."""
    read = getattr(registry.find("kka.datasets", dataset), "text_distances", None)
    found = [d for d in read(kept) if d is not None] if read else []
    return {"mean_distance": sum(found) / len(found)} if found else {}


def _counts(numbers: dict[str, float]) -> str:
    return ", ".join(
        f"{numbers[name]:.0f} {name}" for name in ("attempts", "kept", "normal", "unreadable", "duplicate")
    )


if __name__ == "__main__":
    stage(main)
