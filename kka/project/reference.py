"""The parameters of docs/reference.md, made from the config's types and ranges and from the comments of the preset
blossom.

    python -m kka.project.reference     writes them between the two markers of the page"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kka.errors import KkaError
from kka.project import presets
from kka.project.config import Config
from kka.records import write_text

PAGE = presets.FOLDER.parent / "docs" / "reference.md"
BEGIN, END = "<!-- parameters: made by `python -m kka.project.reference` -->", "<!-- /parameters -->"
_LONG = 40  # characters: a longer default is left to params.yaml
_PLAIN = ("bool", "int", "float", "text", "mapping")


def parameters() -> str:
    """Markdown: the parameters of the top level, then one table for each section."""
    text = presets.text(presets.WHOLE)
    comments, values = comments_of(text), yaml.safe_load(text)
    sections = {key: field for key, field in Config.model_fields.items() if _section(field)}
    parts = [_table(_rows(Config, values, comments, "", without=tuple(sections)))]
    for key, field in sections.items():
        parts.append(f"### {key}\n\n{comments[key]}")
        parts.append(_table(_rows(field.annotation, values[key], comments, f"{key}.")))
    return "\n\n".join(parts)


def updated(page: str) -> str:
    """The page with the present parameters between its markers. Raises KkaError where it lacks them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise KkaError(f"{PAGE.name} wants the markers {BEGIN} and {END}, got a page without them. Put them back.")
    return f"{head}{begin}\n\n{parameters()}\n\n{end}{tail}"


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = ["key | default (values) | meaning", "---|---|---"]
    return "\n".join([*lines, *(" | ".join(cells) for cells in rows)])


def _rows(
    model: Any, values: Mapping[str, Any], comments: Mapping[str, str], head: str, without: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Key below its section, default with the values allowed, and comment of each parameter; a section in a section has
    a row for its comment."""
    for key, field in model.model_fields.items():
        path = f"{head}{key}"
        if key in without:
            continue
        short, comment = f"`{path.partition('.')[2] or path}`", comments.get(path, "")
        if _section(field):
            yield short, "", comment
            yield from _rows(field.annotation, values[key], comments, f"{path}.")
        else:
            yield short, " ".join([_default(values[key]), *_values(field, values[key])]), comment


def _section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _default(value: Any) -> str:
    """A default as params.yaml writes it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**4).removesuffix("\n...\n").strip()
    return f"`{text}`" if len(text) <= _LONG else "see `params.yaml`"


def _values(field: FieldInfo, default: Any) -> list[str]:
    """The values allowed, in brackets, without a type that the default shows; none where nothing is left to say."""
    text = allowed(field)
    if default is not None and " or " not in text:
        text = re.sub(rf"^({'|'.join(_PLAIN)})( in)? ?", "", text)
    return [f"({text})"] if text else []


def allowed(field: FieldInfo) -> str:
    """The values that a parameter may have, such as `int ≥ 1` or `float in [0, 1)`."""
    parts = get_args(field.annotation) if get_origin(field.annotation) in (UnionType, Union) else (field.annotation,)
    names = [_name(kind) for kind in parts if kind is not NoneType]
    optional = " or null" if NoneType in parts else ""
    return f"{' or '.join(names)} {_range(field.metadata)}".strip() + optional


def _range(metadata: Sequence[Any]) -> str:
    """The bounds of a number, or the pattern of a text."""
    known = ("ge", "gt", "le", "lt", "pattern")
    bounds = {name: getattr(item, name) for item in metadata for name in known if getattr(item, name, None) is not None}
    if "pattern" in bounds:
        return f"matching `{bounds['pattern']}`"
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if high is not None:
        return f"in {'[' if 'ge' in bounds else '('}{low:g}, {high:g}{']' if 'le' in bounds else ')'}"
    return "" if low is None else f"{'≥' if 'ge' in bounds else '>'} {low:g}"


def _name(kind: Any) -> str:
    """A type in the words of YAML."""
    if get_origin(kind) is Literal:
        return " or ".join(str(value) for value in get_args(kind))
    plain = {bool: "bool", str: "text", dict: "mapping", list: "list"}
    return plain.get(get_origin(kind) or kind, getattr(kind, "__name__", str(kind)))


def comments_of(text: str) -> dict[str, str]:
    """The comment behind each key of a YAML text, by path."""
    lines = text.splitlines()

    def walk(node: Any, head: str) -> Iterator[tuple[str, str]]:
        for key, value in node.value:
            line, one = key.end_mark.line, value.end_mark.line == key.end_mark.line
            behind = lines[line][(value if one else key).end_mark.column :]
            yield f"{head}{key.value}", behind.partition("# ")[2].strip()
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, f"{head}{key.value}.")

    return dict(walk(yaml.compose(text), ""))


def main(page: Path = PAGE) -> None:
    """Writes the present parameters into the page."""
    write_text(page, updated(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
