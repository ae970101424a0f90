"""The comparison of rounds: a page, the same as Markdown, a table, curves, and a sheet of pictures for each round."""

from kka import detectors
from kka.charts import standalone
from kka.records import whole_folder, write_json, write_text
from pipelines.layout import BASELINE, write_csv
from pipelines.reporting.page import as_markdown, page, round_charts
from pipelines.reporting.pictures import strips, write_sheet
from pipelines.reporting.tables import curves, gain, markdown, rounds_table, summary, warning
from pipelines.stage import Run, stage


def main(run: Run) -> None:
    rounds = run.config.lineage(run.round)
    rows = [run.layout.read_figures(name) for name in (BASELINE, *rounds)]
    pool, detector = run.files.read_pool(), detectors.load(run.files.detector)
    pictures = {name: strips(run.layout, name, pool, detector) for name in rounds}
    table = markdown(rounds_table(rows, run.config.evaluate.interval))
    comparison = gain(run.layout, run.config, run.seed("report"))
    with whole_folder(run.layout.report) as folder:
        for name, of_round in pictures.items():
            write_sheet(name, of_round, folder / f"{name}.png")
        for row in rows:
            for name, chart in round_charts(run, row).items():
                write_text(folder / f"{name}.svg", standalone(chart))
        write_text(folder / "report.html", page(run, rows, pictures, detector, comparison))
        write_text(folder / "report.md", as_markdown(run, rows, table, warning(comparison)))
        write_text(folder / "table.md", table)
    write_json(run.layout.summary, summary(rows))
    write_csv(run.layout.curves, *curves(rows))
    print(table, warning(comparison), sep="\n")


if __name__ == "__main__":
    stage(main)
