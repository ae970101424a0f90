"""Tables as CSV, the form that `dvc plots` reads."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kka.errors import KkaError
from kka.records import write_text

DPO = ("step", "loss", "accuracy", "margin")  # the curves of an alignment


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows under their columns; an empty cell where a row lacks one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows that `write_csv` wrote, each by its columns. Raises KkaError where there is no such file."""
    if not path.exists():
        raise KkaError(f"{path} is missing. Run the stage that writes it, or `dvc repro`.")
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))
