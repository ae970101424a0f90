"""The comparison of rounds: a table, curves, and for each round its pictures, as Markdown and as one page for the browser."""

from kka import detectors
from kka.records import Anomaly, read_records, write_json, write_text
from pipelines._charts import standalone
from pipelines._csv import write_csv
from pipelines._page import read_scores, render, roc_chart, scores_chart
from pipelines._sheets import markdown_report, rows_of, write_sheet
from pipelines._stage import Run, stage
from pipelines._tables import curves, figures_of, rounds_table, summary, warning


def main(run: Run) -> None:
    rounds = run.config.lineage(run.round)
    rows = [figures_of(run, name) for name in ("r0", *rounds)]
    pool = read_records(run.path("data", run.round, "pool.jsonl"), Anomaly)
    detector = detectors.load(run.path("data", run.round, "detector"))
    strips = {name: rows_of(run, name, pool, detector) for name in rounds}
    table = rounds_table(rows, run.config.evaluate.interval)
    with run.whole("report") as folder:
        for name in rounds:
            write_sheet(name, strips[name], folder / f"{name}.png")
        for row in rows:
            scores = read_scores(run.path("data", row["round"], "scores.csv"))
            write_text(folder / f"{row['round']}-scores.svg", standalone(scores_chart(row["round"], scores, row["evaluate"]["threshold"])))
            if roc := roc_chart(run, [row["round"]]):
                write_text(folder / f"{row['round']}-roc.svg", standalone(roc))
        write_text(folder / "report.md", markdown_report(run, rows, table))
        write_text(folder / "table.md", table)
        write_text(folder / "report.html", render(run, rows, strips))
    write_csv(run.path("plots", "rounds.csv"), *curves(rows))
    write_json(run.path("metrics", "summary.json"), summary(rows))
    print(table, warning(rows), sep="\n")


if __name__ == "__main__":
    stage(main)
