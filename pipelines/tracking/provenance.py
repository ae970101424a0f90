"""From a run of MLflow to the files that it speaks of, and from a file to its run."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kka.errors import KkaError
from kka.project.config import read_config
from pipelines.tracking.database import connect
from pipelines.tracking.dvc_lock import lock_file
from pipelines.tracking.runs import lineage


def find_run(home: Path, wanted: str) -> tuple[Any, Any, str]:
    """The client, the run, and the tag by which it was found, if any: `wanted` is the id of a run, what a round wrote
    beneath data/ (such as data/r3/detector), or an MD5. Of several runs with one file that with the parameters of now
    comes first. Raises KkaError where there is none."""
    client, experiment = connect(home)
    import mlflow

    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        try:
            return client, client.get_run(wanted), ""
        except mlflow.MlflowException:
            pass  # an MD5 looks alike
    md5, runs = (
        _md5(wanted) if "/" in wanted else wanted,
        client.search_runs([experiment], "tags.`kka.chain` != 'all'", max_results=5000),
    )
    now = lineage(read_config(Path("params.yaml"))) if Path("params.yaml").exists() else ""
    for run in sorted(runs, key=lambda run: run.data.tags.get("kka.lineage") != now):
        for key, value in run.data.tags.items():
            if key.startswith("dvc.") and value == md5:
                return client, run, key
    raise KkaError(
        f"track: there is no run '{wanted}'. Give the id of a run of this project, what a round wrote, such as data/r1/detector, or an MD5."
    )


def _md5(path: str) -> str:
    stages = yaml.safe_load(lock_file(Path()).read_text(encoding="utf-8"))["stages"].values()
    found = [out["md5"] for stage in stages for out in stage.get("outs", []) if out["path"] == path.rstrip("/")]
    if not found:
        raise KkaError(f"track: dvc.lock holds no '{path}'. It holds what stages wrote, such as data/r1/detector.")
    return str(found[0])


def describe(home: Path, wanted: str) -> str:
    """What a run is, where its files come from, and the commands that bring them back."""
    client, run, _ = find_run(home, wanted)
    tags, number = run.data.tags, run.info.run_id
    if tags.get("kka.chain") == "all":
        rounds = client.search_runs(
            [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{number}'", max_results=1000
        )
        lines = [
            f"  {r.info.run_id}  {r.data.tags['kka.chain']}"
            for r in sorted(rounds, key=lambda r: r.data.tags.get("kka.chain", ""))
        ]
        return "\n".join([f"{run.info.run_name} ({number}) stands for a set of parameters. Its rounds:", *lines])
    if "kka.chain" not in tags:
        raise KkaError(f"track: the run {number} is no round of a loop.")
    parent = client.get_run(tags["mlflow.parentRunId"]).info.run_name
    files = {
        key.removeprefix("dvc."): value
        for key, value in tags.items()
        if key.startswith("dvc.") and key != "dvc.revision" and value
    }
    table = [f"  {name:<14}{md5}" for name, md5 in sorted(files.items())]
    return "\n".join([f"round {tags['kka.round']} of {parent} ({number})", *table, "", *_way_back(number, files)])


def _way_back(run: str, files: dict[str, str]) -> Iterator[str]:
    """The commands, from the surest way to the longest."""
    if not files:
        yield "Nothing of it has come to an end: there are no files."
        return
    wanted = set(files.values())
    if _names_all(lock_file(Path()).read_text(encoding="utf-8"), wanted):
        yield "dvc.lock names these files now. What is missing of them comes with:"
        yield "  dvc checkout"
        if _git("status", "--porcelain", "--", "dvc.lock"):
            yield "It is not committed yet. To keep this way back:"
            yield "  git add dvc.lock params.yaml && git commit"
        return
    # one of them may be far older than another; of all commits that brought one, any that names all will do
    commits = dict.fromkeys(
        c for md5 in sorted(wanted) for c in _git("log", "--all", "--format=%H", f"-S{md5}", "--", "dvc.lock")
    )
    commit = next((c for c in commits if _names_all("\n".join(_git("show", f"{c}:./dvc.lock")), wanted)), None)
    if commit:
        yield f"git commit {commit} names these files. To bring all of them back, with their parameters:"
        yield f"  git checkout {commit} -- params.yaml dvc.yaml dvc.lock && dvc checkout"
        yield "and to come back: the same with HEAD."
        return
    yield "No commit's dvc.lock names these files. With the run's parameters DVC restores them from its run cache:"
    yield f"  kka track params {run} > old.yaml && cp old.yaml params.yaml && dvc repro"


def _names_all(lock: str, wanted: set[str]) -> bool:
    return all(md5 in lock for md5 in wanted)


def _git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.splitlines()


def parameters(home: Path, wanted: str) -> str:
    """The params.yaml of a run's lineage; `last` is the round that was asked for."""
    client, run, _ = find_run(home, wanted)
    parent = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
    values: dict[str, Any] = yaml.safe_load(_text(client, parent, "params.yaml"))
    chain: Sequence[str] = run.data.tags.get("kka.chain", "all").split("/")
    if len(chain) > 1:
        values |= {
            "rounds": {name: {"prev": before} for before, name in zip(chain, chain[1:], strict=False)},
            "last": chain[-1],
        }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _text(client: Any, run: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run, name)).read_text(encoding="utf-8")
    except (MlflowException, OSError):
        raise KkaError(f"track: the run {run} has no {name}. Run `kka track` in the project that made it.") from None
