"""The whole loop in one process, without DVC and MLflow: for benchmarks, tuning and tests.

It runs the same stages on the same files as dvc.yaml does, with any Config and in any folder.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from kka.log import Log, silent
from kka.project.config import BASELINE, Config, lookup
from kka.records import read_json, write_json
from pipelines.stage import Run, make_run

GRAPH = Path(__file__).parent.parent / "dvc.yaml"
RESULTS = ("data", "metrics", "plots", "report")  # the folders that stages write to; all other deps are code
ROUND = ("describe", "synthesize", "assess", "detect", "evaluate", "align")


def run_loop(config: Config, root: Path, log: Log = silent, *, report: bool = True) -> None:
    """Runs every stage in order for every round up to `config.last`; without `report` up to the last evaluation.

    A stage that was completed in `root` with the same parameters, code and data is not done again. Raises what the
    stages raise."""
    order = [("prepare", BASELINE), ("baseline", BASELINE), ("evaluate", BASELINE)]
    order += [(stage, name) for name in config.lineage(config.last) for stage in ROUND]
    for stage, name in [*order, ("report", config.last)] if report else order[:-1]:
        step(stage, make_run(config, root, [name], log))


def step(stage: str, run: Run, store: Path | None = None) -> None:
    """Runs one stage, unless it was completed in `run.root` with the same parameters, code and data.

    `store` is a folder that several roots share: what any of them has completed is linked from there, and what is new
    goes in. Of two processes that want the same the second waits for the first. Raises what the stage raises."""
    main = import_module(f"pipelines.{stage}").main
    key, mark = _key(stage, run), run.root.joinpath(".done", f"{stage}@{run.round}.json")
    if mark.exists() and read_json(mark) == key:
        return
    mark.unlink(missing_ok=True)
    if store is None:
        main(run)
    else:
        store.mkdir(parents=True, exist_ok=True)
        stored, outs = store / f"{stage}-{key[:32]}", _outs(stage, run)
        with FileLock(stored.with_suffix(".lock")):
            for path in outs:  # links of another result, which writing must not reach through
                _remove(run.root.joinpath(path))
            if stored.exists():
                _link_all(outs, stored, run.root)
            else:
                main(run)
                part = stored.with_suffix(".part")
                _remove(part)
                _link_all(outs, run.root, part)
                part.rename(stored)
    write_json(mark, key)


def _link_all(paths: Sequence[str], source: Path, target: Path) -> None:
    """Hard links, which take no room: whoever writes a file here writes a new one and renames it."""
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if (source / path).is_dir():
            shutil.copytree(source / path, target / path, copy_function=os.link)
        else:
            os.link(source / path, target / path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@cache
def _graph(path: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def _key(stage: str, run: Run) -> str:
    """The hash of the parameters, the code and the data that a stage depends on, by its entry in dvc.yaml."""
    entry, params = _graph(GRAPH)[stage], run.config.model_dump(mode="json")
    values = [run.round, *(lookup(params, key) for key in entry["params"])]  # seeds go by the name of the round
    for path in _resolved(entry["deps"], run):
        is_code = path.split("/")[0] not in RESULTS
        values.append([path, _code_hashes(GRAPH.parent / path) if is_code else _hashes(run.root.joinpath(path))])
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@cache
def _code_hashes(path: Path) -> list[list[str]]:
    """Those of code, read once: a process keeps to the code that it began with."""
    return _hashes(path)


def _hashes(path: Path) -> list[list[str]]:
    """A file, or all files of a folder, by name and content; of Python's compiled files none, as in .dvcignore."""
    files = [p for p in sorted([path, *path.rglob("*")]) if p.is_file() and "__pycache__" not in p.parts]
    return [[p.relative_to(path).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]


def _outs(stage: str, run: Run) -> list[str]:
    """What a stage writes, by its entry in dvc.yaml."""
    entry = _graph(GRAPH)[stage]
    return _resolved([out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])], run)


def _resolved(entries: Sequence[Any], run: Run) -> list[str]:
    """The paths of deps or outs, with names in the place of templates such as ${key} and ${prepare.dataset}."""
    paths = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
    names = {"key": run.round, "item": {"prev": run.previous}} | run.config.model_dump(mode="json")
    return [re.sub(r"\$\{([\w.]+)\}", lambda template: str(lookup(names, template[1])), path) for path in paths]
