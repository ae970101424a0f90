"""A trial of a study: the rounds of the loop with its parameters, each round's detector looked at without test data.

Trials, the panel and the runs that confirm a winner share their splits and a store of finished stages, so that what
their parameters do not change is done once in a study."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kka import detectors
from kka.errors import KkaError
from kka.evaluation import validate
from kka.images import read_split, write_split
from kka.metrics import separation
from kka.project.config import Config
from kka.records import Anomaly, Split, read_json, read_records, seed_of, sha256
from pipelines.loop import step
from pipelines.stage import Run, make_run
from pipelines.tuning.space import changed

SPLITS = ("data", "splits")


@dataclass(frozen=True)
class Round:
    """What a round of a trial has come to: its objective, and figures beside it."""

    auroc: float
    figures: dict[str, float]


class Trials:
    """The folder of a study: `store` with finished stages, `base` with the splits, `panel`, and a folder for each
    trial."""

    def __init__(self, config: Config, folder: Path) -> None:
        raw = config.model_dump()
        raw["detect"]["seeds"] = config.tune.fits
        self.config, self.folder = Config.model_validate(raw), folder

    def prepare(self) -> str:
        """The splits and the panel, once; gives the hash of the pictures that all trials are judged by. Raises KkaError
        where the objective wants what the data set does not have."""
        run = make_run(self.config, self.folder / "base", [])
        step("prepare", run, self.folder / "store")
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
        return read_split(self.folder.joinpath("base", *SPLITS, "validation"))

    @cached_property
    def _panel(self) -> Split:
        return read_split(self.folder / "panel")

    def _make_panel(self) -> None:
        """Anomalies of every round of the loop as params.yaml has it, from a seed of its own: several writers, the
        later the nearer to the normal class. No trial trains on them."""
        config = changed(self.config, {}, seed=self.seed("panel"))
        root = self.folder / "panel-run"
        for _ in self.rounds(config, root):
            pass
        run = make_run(config, root, [config.last])
        pool = read_records(run.path("data", config.last, "pool.jsonl"), Anomaly)
        made = run.layout.read_pictures(pool)
        groups = tuple(a.round for a in pool)
        write_split(
            self.folder / "panel", Split(made, tuple(a.text for a in pool), np.ones(len(pool), np.int64), groups)
        )

    def seed(self, *items: object) -> int:
        """A seed that is no trial's."""
        return seed_of(self.config.seed, "tune", *items)

    def rounds(self, config: Config, root: Path) -> Iterator[Run]:
        """Plays the loop in `root` without its reports and the test split; gives each round once its detector is
        there."""
        store = self.folder / "store"
        if not root.joinpath(*SPLITS).exists():
            root.joinpath("data").mkdir(parents=True, exist_ok=True)
            root.joinpath(*SPLITS).symlink_to(self.folder.joinpath("base", *SPLITS).resolve())
        step("baseline", make_run(config, root, []), store)
        for name in config.lineage(config.last):
            run = make_run(config, root, [name])
            for stage in ("describe", "synthesize", "assess", "detect"):
                step(stage, run, store)
            yield run
            if name != config.last:
                step("align", run, store)

    def look(self, run: Run) -> Round:
        """The objective of a round's detector: the mean over its fits."""
        folders = [run.path("data", run.round, "detector"), *sorted(run.path("data", run.round, "repeats").iterdir())]
        found = [self._objective(run, detectors.load(folder)) for folder in folders]
        averaged = {key: statistics.fmean(f[key] for f in found) for key in found[0]}
        told = read_json(run.path("metrics", run.round, "describe.json")) | read_json(
            run.path("metrics", run.round, "assess.json")
        )
        beside = {
            key: float(told[key]) for key in ("readable", "distinct", "attempts", "kept", "hard_rate_r0") if key in told
        }
        return Round(averaged.pop("auroc"), averaged | beside)

    def _objective(self, run: Run, detector: detectors.Detector) -> dict[str, float]:
        validation = self._validation
        if self.config.tune.objective == "validation":
            found = validate(detector.score(validation.images), validation.labels, validation.groups)
            return {"auroc": found["validation_auroc"]}
        panel = self._panel
        # a bank hands the panel's photographs out to trials as well
        trained = {a.sha256 for a in read_records(run.path("data", run.round, "pool.jsonl"), Anomaly)}
        kept = [i for i, picture in enumerate(panel.images) if sha256(picture) not in trained]
        normals = detector.score(validation.images[validation.labels == 0])
        scores, groups = detector.score(panel.images[kept]), np.array(panel.groups)[kept]
        by_round = {f"auroc {g}": separation(normals, scores[groups == g]) for g in dict.fromkeys(groups.tolist())}
        return {"auroc": statistics.fmean(by_round.values()), **by_round}
