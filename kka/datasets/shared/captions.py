"""Captions of pictures on disk, and the tables and texts that they stand in."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kka.datasets.shared.files import File, some
from kka.errors import KkaError
from kka.registry import suggestion


def captioned(who: str, files: Sequence[File], source: str | None, roots: Sequence[Path], default: str) -> list[File]:
    """The files with their captions from `source`, or all with the `default` where it is None.

    `source` is a csv (columns file and caption, several rows a picture make several captions), a json ({file: caption
    or captions}, or a list of {file, caption} or {file, captions}), or a folder with a .txt for each picture. A picture
    is named by its path below one of the `roots` or what holds it, or by its name where no other picture has it. An
    anomaly without a caption has the `default`. Raises KkaError for a normal picture without one, a caption without a
    picture, or one that could be of several."""
    if source is None:
        return [replace(f, caption=default) for f in files]
    captions = _captions(who, Path(source).expanduser())
    bare = Counter(file.path.name for file in files)
    names = [list(dict.fromkeys(_names(file.path, roots, bare[file.path.name] == 1))) for file in files]
    claims = Counter(name for own in names for name in own)
    with_captions, used = [], set()
    for file, own in zip(files, names, strict=True):
        name = next((n for n in own if n in captions), None)
        if name is None and not file.label:
            lacking = sum(not f.label and captions.keys().isdisjoint(n) for f, n in zip(files, names, strict=True))
            raise KkaError(
                f"{who}: captions {source} has none for {file.path}, by its path below"
                f" {' or '.join(str(r) for r in roots)}, or by its name where no other picture has it; {lacking} of"
                f" {sum(not f.label for f in files)} normal pictures lack one, and it has {len(captions)}, such as"
                f" '{next(iter(captions), '')}'. Every normal picture wants one, or leave the option captions out."
            )
        if name is not None and claims[name] > 1:
            raise KkaError(
                f"{who}: captions {source} has '{name}', which is {file.path} and another one. Write '{own[0]}'."
            )
        used.add(name)
        with_captions.append(replace(file, caption=default if name is None else captions[name]))
    if spare := sorted(captions.keys() - used):
        raise KkaError(f"{who}: captions {source} has {len(spare)} for pictures that are not there: {some(spare)}.")
    return with_captions


def _names(path: Path, roots: Sequence[Path], bare: bool) -> Iterator[str]:
    """What captions may call a picture, the fullest name first, with and without its ending; by its `bare` name where
    no other has it."""
    places = [place for root in roots for place in (root.parent, root)]
    below = sorted((path.relative_to(p) for p in places if path.is_relative_to(p)), key=lambda p: -len(p.parts))
    for name in [*below, *([Path(path.name)] if bare else [])]:
        yield name.as_posix()
        yield name.with_suffix("").as_posix()


def _captions(who: str, source: Path) -> dict[str, str]:
    if source.is_dir():
        texts = {p.relative_to(source).with_suffix("").as_posix(): text(p) for p in sorted(source.rglob("*.txt"))}
    elif source.suffix == ".json" and source.is_file():
        texts = _from_json(who, source)
    elif source.suffix == ".csv" and source.is_file():
        texts = {}
        for row in table(who, source, ["file", "caption"]):
            texts[row["file"]] = f"{texts[row['file']]}\n{row['caption']}" if row["file"] in texts else row["caption"]
    else:
        raise KkaError(
            f"{who}: captions wants a .csv, a .json or a folder of .txt files, got {source}, which is none of them."
        )
    captions = {name: lines(caption) for name, caption in texts.items()}
    if empty := [name for name, caption in captions.items() if not caption]:
        raise KkaError(f"{who}: captions {source} has empty ones: {some(empty)}.")
    return captions


def _from_json(who: str, source: Path) -> dict[str, str]:
    wanted = f"{who}: captions {source} wants {{file: caption}} or a list of {{file, caption}}"
    try:
        content: Any = json.loads(text(source))
    except json.JSONDecodeError as error:
        raise KkaError(f"{wanted}, got no JSON ({error}).") from None
    if isinstance(content, list) and all(
        isinstance(item, dict) and isinstance(item.get("file"), str) for item in content
    ):
        merged: dict[str, list[Any]] = {}
        for item in content:
            captions = item.get("captions", item.get("caption"))
            merged.setdefault(item["file"], []).extend(captions if isinstance(captions, list) else [captions])
        content = merged
    items = content.items() if isinstance(content, dict) else []
    listed = {name: value if isinstance(value, list) else [value] for name, value in items}
    if not listed or not all(isinstance(caption, str) for captions in listed.values() for caption in captions):
        raise KkaError(f"{wanted}, each caption a string or a list of strings, got others.")
    return {name: "\n".join(captions) for name, captions in listed.items()}


def lines(caption: str) -> str:
    """Captions a line each, without blank ones, and without a blank before a closing stop, as UCM-Captions have it."""
    cut = (" ".join(line.split()).replace(" .", ".") for line in caption.splitlines())
    return "\n".join(line for line in cut if line)


def text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a mark at its head. Raises KkaError for other bytes."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise KkaError(f"{path}: wanted UTF-8 text, got other bytes. Save it as UTF-8.") from None


def table(who: str, path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a csv whose head has the columns, and may have the `optional` ones. Raises KkaError for a
    missing or another column, or a row of another length."""
    if not path.is_file():
        raise KkaError(f"{who}: wanted a csv file, got {path}, which is none. Its path is relative to {Path.cwd()}.")
    reader = csv.DictReader(io.StringIO(text(path), newline=""), skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    lacking = [c for c in columns if c not in (reader.fieldnames or [])]
    if lacking:
        raise KkaError(
            f"{who}: {path} wants the column {lacking[0]}, got {', '.join(reader.fieldnames or ['nothing'])}."
        )
    known = [*columns, *optional]
    for name in reader.fieldnames:  # a label by another name would make all normal without a word
        if name not in known:
            raise KkaError(
                f"{who}: {path} has the unknown column '{name}'.{suggestion(name, known)} Rename it or leave it out."
            )
    rows: list[Mapping[Any, Any]] = list(reader)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise KkaError(
                f"{who}: {path}, line {number}: wanted {len(reader.fieldnames or [])} cells, got more or fewer."
            )
    return [{k: v.strip() for k, v in row.items()} for row in rows]
