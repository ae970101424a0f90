"""Presets, in the project's folder presets/: blossom is a whole params.yaml with a comment for every knob, the others
hold what they change of it, or of the preset that their key `base` names (one that begins with an underscore is a base
and nothing else)."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kka.errors import KkaError
from kka.project.config import Config, check_config
from kka.records import write_text
from kka.registry import suggestion

FOLDER = Path(__file__).parents[2] / "presets"
WHOLE = "blossom"


def names() -> list[str]:
    """The presets that there are."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("_"))


def config(name: str) -> Config:
    """A preset, checked. Raises what `text` does."""
    return check_config(yaml.safe_load(text(name)), f"preset {name}")


def text(name: str, changes: Sequence[str] = ()) -> str:
    """A preset's text, comments and all, with changes such as 'align.beta=0.5'.

    Raises KkaError for a name, key or value that does not fit."""
    if not names():
        raise KkaError(
            f"{FOLDER} wants presets, got none. kka runs from its repository: install it there with `pip install -e .`."
        )
    if name not in names():
        raise KkaError(f"there is no preset '{name}'.{suggestion(name, names())}")
    whole = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if changes or name != WHOLE:
        whole = _change(name, changes)
    check_config(yaml.safe_load(whole), f"preset {name}")
    return whole


def write(name: str, path: Path, changes: Sequence[str] = (), *, force: bool = False) -> None:
    """Writes the preset to `path`, whole or not at all. Raises KkaError rather than overwrite a file that somebody has
    changed."""
    whole = text(name, changes)
    if not force and path.exists() and path.read_text(encoding="utf-8") not in (whole, *(text(n) for n in names())):
        raise KkaError(
            f"{path} differs from every preset: it was changed, or written with --set. Say --force to overwrite it,"
            " with every --set again."
        )
    write_text(path, whole)


def edited(text: str, values: Mapping[str, Any]) -> str:
    """The text of a params.yaml with values by path, such as align.beta; comments and order stay."""
    editor, out = _editor(), io.StringIO()
    document = editor.load(text)
    for path, value in values.items():
        *sections, key = path.split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = editor.load(re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))) if isinstance(value, float) else value
    editor.dump(document, out)
    return out.getvalue()


def _change(name: str, changes: Sequence[str]) -> str:
    editor = _editor()
    document = _merged(name)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise KkaError(f"--set wants key=value, such as align.beta=0.5, got '{change}'.")
        _set(document, key.split("."), value, change)
    out = io.StringIO()
    editor.dump(document, out)
    return _spaced(out.getvalue())


def _editor() -> Any:
    from ruamel.yaml import YAML

    editor = YAML()  # keeps comments, quotes and anchors
    editor.width = 4096
    editor.preserve_quotes = True
    editor.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return editor


def _spaced(text: str) -> str:
    """A blank line before each section, which sections of another file have not brought along, and none elsewhere."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join("\n" + line if re.match(r"(?!last)\w+:", line) else line for line in lines) + "\n"


def _merged(name: str) -> Any:
    """The preset as a document, on that of its base."""
    document = _editor().load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    if name == WHOLE:
        return document
    base = _merged(document.pop("base", WHOLE))
    base.ca.comment = document.ca.comment  # the head
    _lay_over(base, document)
    return base


def _lay_over(base: Any, document: Any) -> None:
    """Values and comments of the document over those of the base; a section `options` is replaced as a whole."""
    for key, value in document.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key != "options":
            _lay_over(base[key], value)
        else:
            base[key] = value
        if key in document.ca.items:
            base.ca.items[key] = document.ca.items[key]


def _set(document: Any, keys: Sequence[str], text: str, change: str) -> None:
    if keys[:2] == ["tune", "space"] and len(keys) > 3:  # its own keys are paths
        keys = [*keys[:2], ".".join(keys[2:])]
    for key in keys[:-1]:
        known, document = list(document), document.get(key)
        if not isinstance(document, dict):
            raise KkaError(
                f"--set {change}: the preset has no section '{key}'.{'' if key in known else suggestion(key, known)}"
            )
    document[keys[-1]] = _value(text, change, document.get(keys[-1]))


def _value(text: str, change: str, now: Any) -> Any:
    """What the text says in YAML; where there is a text `now`, the text as it stands, unless it is quoted or null."""
    if isinstance(now, str) and text not in ("null", "~") and text[:1] not in ("'", '"'):
        return _in_one_line(text)
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        raise KkaError(f"--set {change}: the value is not YAML.") from None
    return _in_one_line(parsed) if isinstance(parsed, str) else parsed


def _in_one_line(text: str) -> Any:
    """Quoted, a text of several lines keeps its blank ones."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(text) if "\n" in text else text
