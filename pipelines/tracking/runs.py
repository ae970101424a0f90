"""The runs of MLflow, identified by their tags: the first process that needs a run creates it, all others find it."""

import hashlib
import json
import math
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from kka.project import presets
from kka.project.config import BASELINE, Config, flatten
from pipelines.layout import CURVES
from pipelines.tracking.database import connect

Point = tuple[str, float, int]  # name, value, step
COMMIT = "mlflow.source.git.commit"
NOT_RESULTS = {"rounds", "last", "tune"}  # sections of params.yaml that results do not depend on
# The figures that rounds and runs are compared by, with their names in MLflow: <stage>/<key> of
# metrics/<round>/<stage>.json, and derived/<key>, which `reconcile.headline` computes. All other figures keep their
# names.
HEADLINE = {
    "evaluate/auroc": "auroc",
    "derived/auroc_hardest": "auroc_hardest",
    "evaluate/fpr95": "fpr95",
    "evaluate/recall": "recall",
    "evaluate/aupro": "aupro",
    "evaluate/pixel_auroc": "pixel_auroc",
    "evaluate/false_positive_rate": "false_alarms",
    "evaluate/controls_auroc": "gap",
    "assess/hard_rate": "hard_rate",
    "assess/hard_rate_r0": "hard_rate_r0",
    "assess/hopeless_rate": "hopeless_rate",
    "describe/readable": "readable",
    "describe/distinct": "distinct",
    "derived/refused": "refused",
    "derived/images": "images",
    "derived/seconds": "seconds",
    "derived/images_per_point": "images_per_point",
    "derived/seconds_per_point": "seconds_per_point",
}


def figures(stage: str, values: Mapping[str, Any]) -> list[Point]:
    """The figures of metrics/<round>/<stage>.json, named <stage>/<key>. The last values of curves are left to the
    curves."""
    ends = {f"align/{name}" for name in CURVES}
    return [
        (key, float(value), 0)
        for key, value in flatten(values, f"{stage}/", "/")
        if isinstance(value, int | float) and key not in ends
    ]


def headline_points(values: Mapping[str, float], number: int) -> list[Point]:
    """Those of the `values` that are in HEADLINE, in its order and by its names, rounded to six digits. Their step is
    the round's `number`."""
    return [(name, float(f"{values[key]:.6g}"), number) for key, name in HEADLINE.items() if key in values]


class Tracker:
    """The runs of one set of parameters, in the MLflow that `connect` finds."""

    def __init__(self, home: Path, config: Config) -> None:
        self.config, self.home = config, home
        self.params_hash = params_hash(config)
        self.client, self.experiment = connect(home)
        # two stages, or two experiments, may look for the same run at the same time
        self.lock = FileLock(home / "runs.lock")
        self.ids: dict[str, str] = {}  # of the runs, by chain

    @property
    def parent(self) -> str:
        """The id of the run that stands for the parameters."""
        return self._run("all", None, {})

    def round(self, name: str) -> str:
        """The id of a round's run. A round is identified by its chain, for its name may be used for another one
        later."""
        tags = {"mlflow.parentRunId": self.parent, "kka.round": name}
        if name != BASELINE:
            tags["kka.previous"] = self.round(self.config.rounds[name].prev)
        return self._run(self.chain(name), name, tags)

    def chain(self, name: str) -> str:
        """The names of the rounds up to this one."""
        return "/".join([BASELINE, *(self.config.lineage(name) if name != BASELINE else [])])

    def number(self, name: str) -> int:
        """How many rounds come before this one."""
        return self.chain(name).count("/")

    def known(self, name: str) -> str | None:
        """The id of a round's run, if there is one."""
        run = self._find(self.chain(name))
        return str(run.info.run_id) if run else None

    def leads(self, name: str) -> bool:
        """Whether the round is on the curve of the parent, which is its first chain and what continues it. Branches are
        on their own runs alone."""
        chain, curve = self.chain(name), self.client.get_run(self.parent).data.tags.get("kka.curve", BASELINE)
        if chain.startswith(f"{curve}/"):
            self.client.set_tag(self.parent, "kka.curve", chain)
        return f"{chain}/".startswith(f"{curve}/") or f"{curve}/".startswith(f"{chain}/")

    @property
    def uri(self) -> str:
        """Where MLflow is."""
        return str(self.client.tracking_uri)

    def record(self, run: str, points: Iterable[Point], model: str | None = None) -> None:
        """Logs the figures that the run does not hold yet, in batches. Where `model` names a LoggedModel, they are
        logged as its figures too."""
        from mlflow.entities import Metric

        latest, now = self.client.get_run(run).data.metrics, int(time.time() * 1000)
        histories: dict[str, dict[int, float]] = {}
        names: set[tuple[str, int]] = set()
        new = []
        for name, value, step in points:
            key = "/".join(re.sub(r"[^\w. -]", "_", part) if part.strip(".") else "_" for part in name.split("/"))
            if key not in histories:
                history = self.client.get_metric_history(run, key) if key in latest else []
                histories[key] = {m.step: m.value for m in history}
            if (key, step) in names:
                continue  # two names that MLflow cannot tell apart: the first has it
            names.add((key, step))
            if not math.isclose(histories[key].get(step, math.nan), value, rel_tol=1e-9):
                histories[key][step] = value
                new.append(Metric(key, value, now, step, model_id=model))
        for i in range(0, len(new), 500):
            self.client.log_batch(run, metrics=new[i : i + 500])

    def lacks(self, run: str, shown: str) -> bool:
        """Whether the run lacks some of these artifacts; `shown` are their hashes."""
        return bool(self.client.get_run(run).data.tags.get("kka.shown") != shown)

    def table(self, run: str, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Logs records as a table that MLflow shows. Its own `log_table` would append to what a killed process
        left."""
        columns = list(records[0]) if records else []
        data = [[record[column] for column in columns] for record in records]
        self.client.log_dict(run, {"columns": columns, "data": data}, name)
        self.tag(run, {"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"}])})

    def parameters(self) -> str:
        """params.yaml as it was, with all rounds that this run may hold."""
        return yaml.safe_dump(self.config.model_dump(mode="json", exclude={"tune"}), sort_keys=False)

    def tag(self, run: str, tags: Mapping[str, str]) -> bool:
        """Sets the tags that differ. Returns whether there were any."""
        from mlflow.entities import RunTag

        known = self.client.get_run(run).data.tags
        new = [RunTag(k, v[:8000]) for k, v in tags.items() if known.get(k) != v[:8000]]
        if new:
            self.client.log_batch(run, tags=new)
        return bool(new)

    def inputs(self, run: str, data: Iterable[tuple[str, str, str, str]]) -> None:
        """Names data as the run's inputs, each once: (name, MD5 of DVC, path, what it is used for)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = {i.dataset.digest for i in self.client.get_run(run).inputs.dataset_inputs}
        new = [
            DatasetInput(
                Dataset(name, digest, "local", json.dumps({"uri": path})), [InputTag("mlflow.data.context", use)]
            )
            for name, digest, path, use in data
            if digest not in known
        ]
        if new:
            self.client.log_inputs(run, datasets=new)

    def status(self, run: str, status: str) -> None:
        """RUNNING, FINISHED or FAILED; the end time is that of the first FINISHED after something ran."""
        if self.client.get_run(run).info.status != status:
            self.client.update_run(run, status) if status == "RUNNING" else self.client.set_terminated(run, status)

    def _run(self, chain: str, name: str | None, tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        if chain in self.ids:
            return self.ids[chain]
        with self.lock:
            run = self._find(chain) or self._create(chain, {"mlflow.runName": name or title(self.config), **tags})
            for key, value in tags.items():
                if run.data.tags.get(key) != value:  # the run above was deleted, and made again
                    self.client.set_tag(run.info.run_id, key, value)
            params = {k: str(v)[:6000] for k, v in flatten(results(self.config))}
            new = [Param(k, v) for k, v in params.items() if k not in run.data.params]
            for i in range(0, len(new), 100):
                self.client.log_batch(run.info.run_id, params=new[i : i + 100])
        self.ids[chain] = str(run.info.run_id)
        return self.ids[chain]

    def _find(self, chain: str) -> Any:
        """The run with this chain, or None. Only writers on several machines can create more than one: the oldest
        counts."""
        query = f"tags.`kka.lineage` = '{self.params_hash}' and tags.`kka.chain` = '{chain}'"
        runs = self.client.search_runs([self.experiment], query, max_results=100)
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _create(self, chain: str, tags: Mapping[str, str]) -> Any:
        about = {"kka.lineage": self.params_hash, "kka.chain": chain, COMMIT: revision().removesuffix("-dirty")}
        about |= {
            "mlflow.source.name": "dvc.yaml",
            "mlflow.source.type": "PROJECT",
            "kka.dataset": self.config.prepare.dataset,
            "kka.detector": self.config.detect.detector,
        }
        run = self.client.create_run(self.experiment, tags={**about, **tags})
        first = self._find(chain)
        if first.info.run_id != run.info.run_id:  # another machine was faster
            self.client.delete_run(run.info.run_id)
        return first


def results(config: Config) -> dict[str, Any]:
    """All parameters that results depend on."""
    return config.model_dump(mode="json", exclude=NOT_RESULTS)


def params_hash(config: Config) -> str:
    """The hash of all parameters that results depend on."""
    return hashlib.sha256(json.dumps(results(config), sort_keys=True).encode()).hexdigest()[:16]


def title(config: Config) -> str:
    """The nearest preset, and what differs from it: `blossom, beta=0.5`; keys without their section where that is
    clear."""
    mine = dict(flatten(results(config)))
    differences = {
        name: {key: mine.get(key, "-") for key in sorted(mine.keys() | theirs) if mine.get(key) != theirs.get(key)}
        for name, theirs in _presets().items()
    }
    preset = min(differences, key=lambda name: (len(differences[name]), name != presets.WHOLE, name))
    ends = [key.partition(".")[2] for key in mine]
    changes = []
    for key, value in differences[preset].items():
        end = key.partition(".")[2]
        changes.append(f"{end if end and ends.count(end) == 1 else key}={str(value)[:24]}")
    if len(changes) > 5:
        changes[4:] = [f"and {len(changes) - 4} more ({params_hash(config)[:6]})"]
    return ", ".join([preset, *changes])


@cache
def _presets() -> dict[str, dict[str, Any]]:
    return {name: dict(flatten(results(presets.config(name)))) for name in presets.names()}


def revision(root: Path = Path()) -> str:
    """The commit that is checked out, with -dirty where dvc.lock or what it comes from differs from it; none without
    git."""
    command = ["git", "status", "--porcelain=v2", "--branch", "--", "dvc.lock", "dvc.yaml", "params.yaml"]
    lines = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.splitlines()
    head = next((line.split()[2] for line in lines if line.startswith("# branch.oid")), "none")
    return head + "-dirty" * any(not line.startswith("#") for line in lines)
