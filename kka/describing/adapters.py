"""Folders of adapters: blank ones, which have learnt nothing, and copies."""

import shutil
from pathlib import Path

from kka.records import write_json

BLANK = "blank.json"


def write_blank(folder: Path) -> None:
    """Marks the folder as the place of an adapter that has learnt nothing, whatever its shape will be."""
    write_json(folder / BLANK, "The model writes as without an adapter.")


def is_blank(folder: Path) -> bool:
    """Whether `write_blank` wrote the folder."""
    return (folder / BLANK).exists()


def copy_adapter(source: Path, folder: Path) -> None:
    """The adapter of one round as that of the next."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
