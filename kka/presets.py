"""Presets: whole params.yaml files, with a comment for every knob, in the project's folder presets/."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kka.config import check_config
from kka.errors import KkaError
from kka.records import write_text
from kka.registry import suggestion

FOLDER = Path(__file__).parent.parent / "presets"


def names() -> list[str]:
    """The presets that there are."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def text(name: str, changes: Sequence[str] = ()) -> str:
    """A preset's text, comments and all, with changes such as 'align.beta=0.5'.

    Raises KkaError for a name, key or value that does not fit."""
    if not names():
        raise KkaError(f"{FOLDER} wants presets, got none. kka runs from its repository: install it there with `pip install -e .`.")
    if name not in names():
        raise KkaError(f"there is no preset '{name}'.{suggestion(name, names())}")
    whole = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if changes:
        whole = _change(whole, changes)
    check_config(yaml.safe_load(whole), f"preset {name}")
    return whole


def write(name: str, path: Path, changes: Sequence[str] = (), *, force: bool = False) -> None:
    """Writes the preset to `path`, whole or not at all. Raises KkaError rather than overwrite a file that somebody has changed."""
    whole = text(name, changes)
    if not force and path.exists() and path.read_text(encoding="utf-8") not in (whole, *(text(n) for n in names())):
        raise KkaError(
            f"{path} differs from every preset, so somebody has changed it. Keep a copy of it, then say --force to overwrite it."
        )
    write_text(path, whole)


def _change(whole: str, changes: Sequence[str]) -> str:
    from ruamel.yaml import YAML

    editor = YAML()  # keeps comments, quotes and anchors
    editor.width = 4096
    editor.preserve_quotes = True
    document = editor.load(whole)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise KkaError(f"--set wants key=value, such as align.beta=0.5, got '{change}'.")
        _set(document, key.split("."), _value(value, change), change)
    out = io.StringIO()
    editor.dump(document, out)
    return out.getvalue()


def _value(text: str, change: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise KkaError(f"--set {change}: the value is not YAML.") from None


def _set(document: Any, keys: Sequence[str], value: Any, change: str) -> None:
    for key in keys[:-1]:
        document = document.get(key)
        if not isinstance(document, dict):
            raise KkaError(f"--set {change}: the preset has no section '{key}'.")
    document[keys[-1]] = value
