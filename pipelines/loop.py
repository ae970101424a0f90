"""The whole loop in one process, without DVC and MLflow: for benchmarks, tuning and tests.

It runs the same stages on the same files as dvc.yaml does, with any Config and in any folder.
"""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from kka.config import Config
from kka.log import Log, silent
from kka.records import read_json, write_json
from pipelines._stage import make_run

GRAPH = Path(__file__).parent.parent / "dvc.yaml"
ROUND = ("describe", "synthesize", "assess", "detect", "align", "evaluate")


def run_loop(config: Config, root: Path, log: Log = silent, *, report: bool = True) -> None:
    """Runs every stage in order for every round up to `config.last`.

    A stage that was completed in `root` with the same parameters, behind stages that were too, is not done again; changed
    code is not noticed: take a fresh folder. Raises what the stages raise.
    """
    graph = yaml.safe_load(GRAPH.read_text(encoding="utf-8"))["stages"]
    order = [("prepare", "r0"), ("baseline", "r0"), ("evaluate", "r0")]
    order += [(stage, name) for name in config.lineage(config.last) for stage in ROUND]
    before = ""
    for stage, name in [*order, ("report", config.last)][: None if report else -1]:
        values = [_value(config, key) for key in _definition(graph, stage)["params"]]
        key = hashlib.sha256(json.dumps([before, stage, name, values]).encode()).hexdigest()
        mark = root / ".done" / f"{stage}@{name}.json"
        if not mark.exists() or read_json(mark) != key:
            mark.unlink(missing_ok=True)
            import_module(f"pipelines.{stage}").main(make_run(config, root, [name], log))
            write_json(mark, key)
        before = before if stage == "evaluate" else key  # nothing is built on an evaluation


def _definition(graph: Any, stage: str) -> Any:
    return graph[stage].get("do", graph[stage])


def _value(config: Config, key: str) -> Any:
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found
