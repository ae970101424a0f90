"""A trial of a study: the rounds of the loop with its parameters, each round's detector judged without test data.

Trials, the panel and the runs that confirm a winner share their splits and a store of finished stages, so that what
their parameters do not change is done once in a study. A trial may be an experiment of DVC instead: then its results
are versioned, stand in `dvc exp show`, and can be brought back."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kka import detectors
from kka.errors import Collapse, KkaError, tells_of_memory
from kka.evaluation import validate
from kka.images import read_split, write_split
from kka.metrics import separation
from kka.project.config import Config, lookup, with_values
from kka.records import Split, read_json, seed_of, sha256
from pipelines.layout import Layout
from pipelines.loop import step
from pipelines.stage import COLLAPSED, Run, make_run, sentences

_FIGURES = (
    "readable",
    "distinct",
    "attempts",
    "kept",
    "hard_rate_r0",
    "hopeless_rate",
)  # of a round, beside its objective


@dataclass(frozen=True)
class RoundResult:
    """The objective of a round's detector, and figures beside it."""

    auroc: float
    figures: dict[str, float]


class Trials:
    """The folder of a study: `store` with finished stages, `base` with the splits, `panel`, and a folder for each
    trial."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = with_values(config, {"detect.seeds": config.tune.fits}), folder

    def prepare(self) -> str:
        """The splits and the panel, once; gives the hash of the pictures that all trials are judged by. Raises KkaError
        where the objective wants what the data set does not have."""
        step("prepare", make_run(self.config, self.folder / "base", []), self.folder / "store")
        validation = self._validation
        if self.config.tune.objective == "validation" and not validation.labels.any():
            raise KkaError(
                "tune.objective: the validation split holds no real anomalies to choose by. Set it to panel."
            )
        if self.config.tune.objective == "panel" and not (self.folder / "panel" / "rows.jsonl").exists():
            self._make_panel()
        judges = [validation, *([self._panel] if self.config.tune.objective == "panel" else [])]
        return sha256(np.array([sha256(split.images) for split in judges]))

    @cached_property
    def _validation(self) -> Split:
        return Layout(self.folder / "base").read_split("validation")

    @cached_property
    def _panel(self) -> Split:
        return read_split(self.folder / "panel")

    def _make_panel(self) -> None:
        """Anomalies of every round of the loop as params.yaml has it, from a seed of its own: several writers, the
        later the nearer to the normal class. No trial trains on them."""
        config, root = with_values(self.config, {"seed": self.seed("panel")}), self.folder / "panel-run"
        for _ in self.rounds(config, root):
            pass
        pool = Layout(root).round(config.last).read_pool()
        images, texts = Layout(root).read_pictures(pool), tuple(anomaly.text for anomaly in pool)
        rounds = tuple(anomaly.round for anomaly in pool)
        write_split(self.folder / "panel", Split(images, texts, np.ones(len(pool), np.int64), rounds))

    def seed(self, *items: object) -> int:
        """A seed that is no trial's."""
        return seed_of(self.config.seed, "tune", *items)

    def rounds(self, config: Config, root: Path) -> Iterator[Run]:
        """Plays the loop in `root` without its reports and the test split; gives each round once its detector is
        there."""
        store, splits = self.folder / "store", Layout(root).split("train").parent
        if not splits.exists():
            splits.parent.mkdir(parents=True, exist_ok=True)
            splits.symlink_to(Layout(self.folder / "base").split("train").parent.resolve())
        step("baseline", make_run(config, root, []), store)
        for name in config.lineage(config.last):
            run = make_run(config, root, [name])
            for stage in ("describe", "synthesize", "assess", "detect"):
                step(stage, run, store)
            yield run
            if name != config.last:
                step("align", run, store)

    def judge(self, run: Run) -> RoundResult:
        """The objective of a round's detector: the mean over its fits. Raises Collapse for scores that are not
        finite."""
        fits = [self._objective(run, detectors.load(folder)) for folder in run.files.fits()]
        means = {key: statistics.fmean(fit[key] for fit in fits) for key in fits[0]}
        figures = read_json(run.files.metrics("describe")) | read_json(run.files.metrics("assess"))
        own = {key: float(figures[key]) for key in _FIGURES if key in figures}
        return RoundResult(means.pop("auroc"), means | own)

    def _objective(self, run: Run, detector: detectors.Detector) -> dict[str, float]:
        validation = self._validation
        if self.config.tune.objective == "validation":
            figures = validate(detector.score(validation.images), validation.labels, validation.groups)
            return {"auroc": figures["validation_auroc"]}
        panel = self._panel
        # a bank hands the panel's photographs out to trials as well
        trained = {anomaly.sha256 for anomaly in run.files.read_pool()}
        kept = [i for i, picture in enumerate(panel.images) if sha256(picture) not in trained]
        if not kept:
            raise Collapse(
                "tune: the trial has trained on every picture of the panel, so nothing is left to judge it by."
            )
        normals = detector.score(validation.images[validation.labels == 0])
        scores, groups = detector.score(panel.images[kept]), np.array(panel.groups)[kept]
        by_round = {f"auroc {g}": separation(normals, scores[groups == g]) for g in dict.fromkeys(groups.tolist())}
        return {"auroc": statistics.fmean(by_round.values()), **by_round}


def experiment_name(config: Config, number: int) -> str:
    """The name of a trial's experiment."""
    return f"{config.tune.study}-{number}"


def experiment(config: Config, values: Mapping[str, Any], number: int, root: Path) -> Iterator[Run]:
    """Runs a trial as an experiment in a folder of DVC's own, so that the workspace is not touched, and gives its
    rounds once it has ended, their results in `root`. Raises what `dvc` does."""
    name, params = experiment_name(config, number), config.model_dump()
    changes = [f"{'' if lookup(params, path) is not None else '+'}{path}={json.dumps(v)}" for path, v in values.items()]
    with suppress(KkaError):
        dvc(["exp", "remove", name])  # of a trial whose process was killed
    dvc(["exp", "run", "--temp", "--name", name, *(word for change in changes for word in ("-S", change))])
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(".", rev=name)
    for folder in ("data", "metrics"):
        shutil.rmtree(root / folder, ignore_errors=True)
        files.get(folder, str(root / folder), recursive=True)
    trial = with_values(config, values)
    yield from (make_run(trial, root, [name]) for name in trial.lineage(trial.last))


def dvc(arguments: Sequence[str]) -> None:
    """Runs a command of DVC. Raises KkaError with the sentence of a stage that failed, or with DVC's own: Collapse
    where the stage's parameters made nothing of use, MemoryError where it ran out of memory."""
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}  # stages say `python`
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], env=os.environ | path, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    if done.returncode:
        raise _failure(f"dvc {' '.join(arguments[:2])}", done.stdout + done.stderr)


def _failure(command: str, output: str) -> Exception:
    """What a command's output says of its failure."""
    lines, own = [line for line in output.splitlines() if line.strip()], sentences(output)
    errors = [line for line in lines if re.match(r"[\w.]+Error\b", line)]  # the last line of a stage's traceback
    if errors and (tells_of_memory(errors[-1]) or re.match(r"[\w.]*MemoryError\b", errors[-1])):
        return MemoryError(errors[-1])
    kind = Collapse if f"exited with {COLLAPSED}" in output else KkaError
    return kind(own[-1] if own else f"{command}: {lines[-1] if lines else 'it failed without a word'}")
