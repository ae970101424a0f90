"""The comparison of rounds: a table, curves, and for each round a grid of its pictures."""

from kka import detectors
from kka.records import Anomaly, read_records, write_text
from pipelines._csv import write_csv
from pipelines._sheets import refused, write_sheet
from pipelines._stage import Run, stage
from pipelines._tables import LEGEND, curves, figures_of, groups_table, rounds_table, warning


def main(run: Run) -> None:
    rounds = run.config.lineage(run.round)
    rows = [figures_of(run, name) for name in ("r0", *rounds)]
    pool = read_records(run.path("data", run.round, "pool.jsonl"), Anomaly)
    table = rounds_table(rows, run.config.evaluate.interval)
    parts = [
        "# The rounds",
        *([said] if (said := warning(rows)) else []),
        table,
        LEGEND,
        "## AUROC by group of anomalies",
        groups_table(rows),
    ]
    detector = detectors.load(run.path("data", run.round, "detector"))
    with run.whole("report") as folder:
        for name in rounds:
            write_sheet(run, name, pool, detector, folder / f"{name}.png")
            parts += [f"## Round {name}", f"![hard, easy and rejected anomalies]({name}.png)", "Refused by the guard:", refused(run, name)]
        write_text(folder / "report.md", "\n\n".join(p.strip() for p in parts) + "\n")
        write_text(folder / "table.md", table)
    write_csv(run.path("plots", "rounds.csv"), *curves(rows))
    print(table, warning(rows), sep="\n")


if __name__ == "__main__":
    stage(main)
