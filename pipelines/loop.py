"""The whole loop in one process, without DVC and MLflow: for benchmarks, tuning and tests.

It runs the same stages on the same files as dvc.yaml does, with any Config and in any folder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from kka.log import Log, silent
from kka.project.config import Config
from kka.records import read_json, write_json
from pipelines.stage import Run, make_run

GRAPH = Path(__file__).parent.parent / "dvc.yaml"
ROUND = ("describe", "synthesize", "assess", "detect", "evaluate", "align")


def run_loop(config: Config, root: Path, log: Log = silent, *, report: bool = True) -> None:
    """Runs every stage in order for every round up to `config.last`; without `report` up to the last evaluation.

    A stage that was completed in `root` with the same parameters and the same data is not done again; changed code is
    not noticed: take a fresh folder. Raises what the stages raise."""
    order = [("prepare", "r0"), ("baseline", "r0"), ("evaluate", "r0")]
    order += [(stage, name) for name in config.lineage(config.last) for stage in ROUND]
    for stage, name in [*order, ("report", config.last)] if report else order[:-1]:
        step(stage, make_run(config, root, [name], log))


def step(stage: str, run: Run, store: Path | None = None) -> None:
    """Runs one stage, unless it was completed in `run.root` with the same parameters and the same data.

    `store` is a folder that several roots share: what any of them has completed is linked from there, and what is new
    goes in. Of two processes that want the same the second waits for the first. Raises what the stage raises."""
    key, mark = _key(stage, run), run.path(".done", f"{stage}@{run.round}.json")
    if mark.exists() and read_json(mark) == key:
        return
    mark.unlink(missing_ok=True)
    main = import_module(f"pipelines.{stage}").main
    if store is None:
        main(run)
    else:
        kept = store / f"{stage}-{key[:32]}"
        store.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            for path in _outs(stage, run):  # links of another result, which writing must not reach through
                _remove(run.path(path))
            if not kept.exists():
                main(run)
                part = kept.with_suffix(".part")
                _remove(part)
                for path in _outs(stage, run):
                    _link(run.path(path), part / path)
                part.rename(kept)
            else:
                for path in _outs(stage, run):
                    _link(kept / path, run.path(path))
    write_json(mark, key)


def _link(source: Path, target: Path) -> None:
    """Hard links, which take no room: whoever writes a file here writes a new one and renames it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@cache
def _graph() -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load(GRAPH.read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def _key(stage: str, run: Run) -> str:
    """The hash of the parameters and the data that a stage depends on, by its entry in dvc.yaml."""
    values: list[Any] = [_value(run.config, key) for key in _graph()[stage]["params"]]
    for path in _named(_graph()[stage]["deps"], run):
        if path.startswith(("data", "metrics")):
            files = [p for p in sorted([run.path(path), *run.path(path).rglob("*")]) if p.is_file()]
            values.append([path, [[p.name, hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]])
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _outs(stage: str, run: Run) -> list[str]:
    """What a stage writes, by its entry in dvc.yaml."""
    entry = _graph()[stage]
    found = [o for kind in ("outs", "metrics", "plots") for o in entry.get(kind, [])]
    return list(_named([next(iter(o)) if isinstance(o, dict) else o for o in found], run))


def _named(paths: list[str], run: Run) -> Iterator[str]:
    for path in paths:
        for mark, name in {"${key}": run.round, "${item.prev}": run.previous, "${last}": run.config.last}.items():
            path = path.replace(mark, name)
        yield path


def _value(config: Config, key: str) -> Any:
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found
