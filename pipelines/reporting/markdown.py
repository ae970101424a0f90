"""The report as Markdown, for who reads it in a terminal or beside its picture grids."""

from collections.abc import Sequence
from html import escape

from pipelines.reporting.pictures import EXAMPLES, refused
from pipelines.reporting.tables import LEGEND, UNKNOWN, Row, groups_table, markdown, warning
from pipelines.stage import Run


def as_markdown(run: Run, rows: Sequence[Row], table: str) -> str:
    """The whole report; `table` is that of the rounds."""
    groups = groups_table(rows)
    parts = [
        "# The rounds",
        warning(rows),
        table,
        "\n".join(f"- {name}: {meaning}" for name, meaning in LEGEND.items()),
    ]
    parts += ["## AUROC by group of anomalies", markdown(groups) if groups else UNKNOWN]
    for name in (row["round"] for row in rows[1:]):
        parts += [
            f"## Round {name}",
            f"![hard, easy and rejected anomalies]({name}.png)",
            "Refused by the guard:",
            _refused(run, name),
        ]
    return "\n\n".join(p.strip() for p in parts if p) + "\n"


def _refused(run: Run, name: str) -> str:
    lines = [
        f"- {outcome}: {escape(text) or '(nothing)'}"
        for outcome, found in refused(run, name).items()
        for text in found[:EXAMPLES]
    ]
    return "\n".join(lines) or "- nothing"
