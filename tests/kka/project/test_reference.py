from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from kka.errors import KkaError
from kka.project import reference
from kka.project.config import Config
from kka.project.presets import text


class Sample(BaseModel):
    whole: int = Field(0, ge=1)
    open: float = Field(0.5, gt=0, lt=1)
    half_open: float = Field(0.5, ge=0, lt=1)
    closed: float = Field(0.5, ge=0, le=1)
    positive: float | None = Field(None, gt=0)
    choice: Literal["a", "b"] | None = None
    switch: bool = True
    several: str | list[str] = "all"
    named: str = Field("kka", pattern="^k")
    anything: dict[str, Any] = {}


def test_the_page_holds_the_present_parameters() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    assert reference.updated(page) == page, "docs/reference.md is old: run `python -m kka.project.reference`"


def test_every_parameter_has_a_row_with_default_values_and_meaning() -> None:
    rows = [line.split(" | ") for line in reference.parameters().splitlines() if line.startswith("`")]
    assert [r for r in rows if not r[2].strip()] == []
    names = {r[0].strip("`"): r[1] for r in rows}
    assert names["health.sample"] == "`200` (≥ 10)"
    assert names["enabled"] == "`true`"  # its type is plain to see
    assert names["endpoint"].startswith("`null` (text matching ")
    assert names["lora.target_modules"] == "`all-linear` (text or list)"
    assert names["hard_proportion"] == ""  # a section in a section: its comment alone
    leaves = [k for k, field in Config.model_fields.items() if not hasattr(field.annotation, "model_fields")]
    assert set(leaves) <= names.keys()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("whole", "int ≥ 1"),
        ("open", "float in (0, 1)"),
        ("half_open", "float in [0, 1)"),
        ("closed", "float in [0, 1]"),
        ("positive", "float > 0 or null"),
        ("choice", "a or b or null"),
        ("switch", "bool"),
        ("several", "text or list"),
        ("named", "text matching `^k`"),
        ("anything", "mapping"),
    ],
)
def test_types_and_bounds_are_told_as_a_user_writes_them(name: str, values: str) -> None:
    assert reference.allowed(Sample.model_fields[name]) == values


def test_a_comment_belongs_to_its_key_even_behind_quotes_and_braces() -> None:
    found = reference.comments_of("a: 'x # no' # one\nb: # two\n  c: {d: 1} # three\n  e: 2\n")
    assert found == {"a": "one", "b": "two", "b.c": "three", "b.c.d": "three", "b.e": ""}


def test_the_preset_has_a_comment_for_every_section() -> None:
    found = reference.comments_of(text("blossom"))
    assert all(found[key] for key in Config.model_fields)


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "reference.md"
    page.write_text("# Reference\n", encoding="utf-8")
    with pytest.raises(KkaError, match="markers"):
        reference.main(page)
    assert page.read_text(encoding="utf-8") == "# Reference\n"


def test_what_stands_around_the_markers_stays(tmp_path: Path) -> None:
    page = tmp_path / "reference.md"
    page.write_text(f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n", encoding="utf-8")
    reference.main(page)
    written = page.read_text(encoding="utf-8")
    assert written == f"before\n{reference.BEGIN}\n\n{reference.parameters()}\n\n{reference.END}\nafter\n"
