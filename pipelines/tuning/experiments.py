"""A trial as an experiment of DVC: its results are versioned, stand in `dvc exp show`, and can be brought back."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kka.errors import Collapse, KkaError
from kka.project.config import Config
from pipelines.stage import COLLAPSED, Run, make_run, sentences
from pipelines.tuning.space import changed, value


def name_of(config: Config, number: int) -> str:
    """The name of a trial's experiment."""
    return f"{config.tune.study}-{number}"


def experiment(config: Config, values: Mapping[str, Any], number: int, root: Path) -> Iterator[Run]:
    """Runs the experiment in a folder of DVC's own, so that the workspace is not touched, and gives its rounds once it
    is over, their results in `root`. Raises KkaError with the sentence of the stage that failed."""
    name = name_of(config, number)
    sets = [
        part
        for path, v in values.items()
        for part in ("-S", f"{'' if value(config, path) is not None else '+'}{path}={json.dumps(v)}")
    ]
    with suppress(KkaError):
        dvc(["exp", "remove", name])  # of a trial whose process was killed
    dvc(["exp", "run", "--temp", "--name", name, *sets])
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(".", rev=name)
    for folder in ("data", "metrics"):
        shutil.rmtree(root / folder, ignore_errors=True)
        files.get(folder, str(root / folder), recursive=True)
    found = changed(config, values)
    yield from (make_run(found, root, [round_]) for round_ in found.lineage(found.last))


def dvc(arguments: list[str]) -> None:
    """Runs a command of DVC. Raises KkaError with the sentence of a stage that failed, or with DVC's own."""
    beside = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}  # stages say `python`
    told = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], env=os.environ | beside, capture_output=True, text=True, check=False
    )
    print(told.stdout, told.stderr)
    if told.returncode:
        output = told.stdout + told.stderr
        lines, own = [line for line in output.splitlines() if line.strip()], sentences(output)
        kind = Collapse if f"exited with {COLLAPSED}" in output else KkaError
        raise kind(own[-1] if own else f"dvc {' '.join(arguments[:2])}: {lines[-1] if lines else told.returncode}")
