"""The comparison of rounds: a page, the same as Markdown, a table, curves, and for each round a grid of its
pictures."""

from kka import detectors
from kka.charts import standalone
from kka.records import Anomaly, read_records, write_json, write_text
from pipelines.layout import write_csv
from pipelines.reporting.markdown import as_markdown
from pipelines.reporting.page import page, round_charts
from pipelines.reporting.pictures import rows_of, write_sheet
from pipelines.reporting.tables import curves, figures_of, markdown, rounds_table, summary, warning
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    rows = [figures_of(run, name) for name in ("r0", *run.config.lineage(run.round))]
    pool = read_records(run.path("data", run.round, "pool.jsonl"), Anomaly)
    detector = detectors.load(run.path("data", run.round, "detector"))
    shown = {row["round"]: rows_of(run, row["round"], pool, detector) for row in rows[1:]}
    table = markdown(rounds_table(rows, run.config.evaluate.interval))
    with run.whole("report") as folder:
        for name, pictures in shown.items():
            write_sheet(name, pictures, folder / f"{name}.png")
        for name, chart in (drawn for row in rows for drawn in round_charts(run, row).items()):
            write_text(folder / f"{name}.svg", standalone(chart))
        write_text(folder / "report.html", page(run, rows, shown, detector))
        write_text(folder / "report.md", as_markdown(run, rows, table))
        write_text(folder / "table.md", table)
    write_json(run.path("metrics", "summary.json"), summary(rows))
    write_csv(run.path("plots", "rounds.csv"), *curves(rows))
    print(table, warning(rows), sep="\n")


if __name__ == "__main__":
    stage(main)
