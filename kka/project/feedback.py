"""`kka feedback`: what inspectors wrote into a table of scores becomes a part of the data set."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from kka.datasets.shared.captions import text
from kka.datasets.shared.feedback import PICTURES, VERDICTS, Judged, judge, manifest, read_manifest, write_manifest
from kka.errors import KkaError
from kka.images import UnreadablePicture, open_picture
from kka.records import write_bytes
from kka.registry import suggestion


def add(table: Path, column: str, folder: Path) -> str:
    """Adds the pictures of a table that `column` has a verdict on to the folder, and says what was added. What is there
    already stays as it is. Raises KkaError for a row that does not fit; then nothing is written."""
    before = read_manifest(folder)
    said = {record.sha256: (record.verdict, str(manifest(folder))) for record in before}
    fresh: list[tuple[Path, Judged]] = []
    rows = list(_rows(table, column))
    for where, path, verdict in rows:
        record = judge(_content(where, path), verdict, path)
        if record.sha256 not in said:
            fresh.append((path, record))
        other, place = said.setdefault(record.sha256, (verdict, where))
        if other != verdict:
            raise KkaError(
                f"feedback: {where}: {path} is {verdict}, but the same picture is {other} in {place}. Mend the one that"
                " is wrong."
            )
    for path, record in fresh:
        write_bytes(folder / record.file, path.read_bytes())
    if fresh:
        write_manifest(folder, [*before, *(record for _, record in fresh)])  # last: what it names is there
    return _told(folder, [record for _, record in fresh], len(rows) - len(fresh))


def _rows(table: Path, column: str) -> Iterator[tuple[str, Path, str]]:
    """Where it stands, file and verdict of each row that has one."""
    if not table.is_file():
        raise KkaError(f"feedback: wanted a csv file as `kka predict` writes it, got {table}, which is none.")
    reader = csv.DictReader(io.StringIO(text(table), newline=""), restval="")
    for name in ("file", column):
        if name not in (reader.fieldnames or []):
            raise KkaError(
                f"feedback: {table} wants the column {name}, got {', '.join(reader.fieldnames or ['nothing'])}. Write"
                f" {' or '.join(VERDICTS)} for each picture that was looked at; --column names another column."
            )
    found = False
    for row in reader:
        verdict, where = row[column].strip(), f"{table}, line {reader.line_num}"
        if not verdict:
            continue
        found = True
        if verdict.lower() not in VERDICTS:
            hint = suggestion(verdict.lower(), list(VERDICTS))
            raise KkaError(f"feedback: {where}: {column} wants {' or '.join(VERDICTS)}, got '{verdict}'.{hint}")
        yield where, Path(row["file"].strip()), verdict.lower()
    if not found:
        raise KkaError(f"feedback: {table} has nothing in its column {column}. Write {' or '.join(VERDICTS)} there.")


def _content(where: str, path: Path) -> bytes:
    if not path.is_file():
        raise KkaError(f"feedback: {where}: there is no picture {path}. Its path is relative to {Path.cwd()}.")
    try:
        open_picture(path)
    except UnreadablePicture as error:
        raise KkaError(f"feedback: {where}: {error}") from None
    return path.read_bytes()


def _told(folder: Path, fresh: Sequence[Judged], known: int) -> str:
    if not fresh:
        return f"{manifest(folder)}: nothing new, {known} pictures were there already"
    parts = Counter((record.verdict, record.part) for record in fresh)
    added = ", ".join(f"{n} {verdict} to {part}" for (verdict, part), n in sorted(parts.items()))
    return (
        f"wrote {manifest(folder)}: {added}; {known} were there already. Keep them with `dvc add {folder / PICTURES}`"
        f" and `git add {folder}`; `dvc repro` trains with them"
    )
