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
from pipelines._stage import Run, make_run

GRAPH = Path(__file__).parent.parent / "dvc.yaml"
ROUND = ("describe", "synthesize", "assess", "detect", "evaluate", "align")


def run_loop(config: Config, root: Path, log: Log = silent, *, report: bool = True) -> None:
    """Runs every stage in order for every round up to `config.last`; without `report` up to the last evaluation.

    A stage that was completed in `root` with the same parameters and the same data is not done again; changed code is not
    noticed: take a fresh folder. Raises what the stages raise.
    """
    graph = yaml.safe_load(GRAPH.read_text(encoding="utf-8"))["stages"]
    order = [("prepare", "r0"), ("baseline", "r0"), ("evaluate", "r0")]
    order += [(stage, name) for name in config.lineage(config.last) for stage in ROUND]
    for stage, name in [*order, ("report", config.last)] if report else order[:-1]:
        run = make_run(config, root, [name], log)
        key, mark = _key(graph[stage].get("do", graph[stage]), run), root / ".done" / f"{stage}@{name}.json"
        if not mark.exists() or read_json(mark) != key:
            mark.unlink(missing_ok=True)
            import_module(f"pipelines.{stage}").main(run)
            write_json(mark, key)


def _key(definition: Any, run: Run) -> str:
    """The hash of the parameters and the data that a stage depends on, by its entry in dvc.yaml."""
    names = {"${key}": run.round, "${item.prev}": run.previous, "${last}": run.config.last}
    values: list[Any] = [_value(run.config, key) for key in definition["params"]]
    for path in definition["deps"]:
        for mark, name in names.items():
            path = path.replace(mark, name)
        if path.startswith(("data", "metrics")):
            files = [p for p in sorted([run.path(path), *run.path(path).rglob("*")]) if p.is_file()]
            values.append([path, [[p.name, hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]])
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _value(config: Config, key: str) -> Any:
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found
