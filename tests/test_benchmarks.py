"""The tables of the documentation are those that the benchmarks print from the committed results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, cifar100, cifar100_bank, gap, rounds, tuning
from benchmarks import detectors as costs
from kka import detectors

ROOT = Path(__file__).parent.parent


def read(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def folder(name: str) -> dict[str, Any]:
    return {p.stem: read(f"{name}/{p.name}") for p in sorted((ROOT / "benchmarks" / "results" / name).glob("*.json"))}


def fits(data: str) -> list[dict[str, Any]]:
    return ablation.complete(ROOT / "benchmarks" / "results" / "ablation" / data, detectors.names())


def shown(data: str, *titles: str) -> str:
    """Those of the ablation's tables that its page shows; `python -m benchmarks.ablation --print` prints all."""
    tables = ablation.tables(fits(data), detectors.names())
    return "\n\n".join(table for table in tables if table.startswith(titles))


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("README.md", lambda: rounds.gains(folder("rounds"))),
        ("docs/rounds.md", lambda: rounds.table(folder("rounds"))),
        ("docs/explanation.md", lambda: gap.table(read("gap.json"))),
        ("docs/explanation.md", lambda: cifar100_bank.table(read("cifar100_bank.json")).split("\n\n")[0]),
        ("docs/ablation.md", lambda: shown("blossom", "AUROC at distance 1", "bce")),
        ("docs/ablation.md", lambda: shown("cifar100-bank", "AUROC:")),
        ("docs/ablation.md", lambda: cifar100.table(cifar100.complete())),
        ("docs/tuning.md", lambda: tuning.table(read("tuning.json"))),
        ("docs/ablation.md", lambda: "\n\n".join(costs.table(found) for found in read("detectors.json").values())),
    ],
)
def test_a_table_of_the_documentation_is_what_its_script_prints(page: str, table: Any) -> None:
    assert table() in (ROOT / page).read_text(encoding="utf-8")
