"""From a run of MLflow to its files and back, and the results of all commits, for a database that lacks them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from tqdm import tqdm

from kka.errors import KkaError
from kka.project.config import read_config
from kka.records import write_text
from pipelines.tracking.database import connect
from pipelines.tracking.dvc_lock import lock_file
from pipelines.tracking.reconcile import reconcile
from pipelines.tracking.runs import params_hash

RECORDED = (  # outs that reconciliation reads
    "metrics/*",
    "plots/*",
    "report",
    "data/*/detector",
    "data/*/scores.csv",
    "data/*/descriptions.jsonl",
    "data/splits/calibration",
)


def find_run(home: Path, wanted: str) -> tuple[Any, Any, str]:
    """The client, the run, and the tag that holds the MD5, if any. `wanted` is the id of a run, the path of a round's
    out under data/ (such as data/r3/detector), or an MD5. Where several runs have the same file, one with the current
    parameters comes first. Raises KkaError where there is none."""
    client, experiment = connect(home)
    import mlflow

    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        try:
            return client, client.get_run(wanted), ""
        except mlflow.MlflowException:
            pass  # an MD5 looks alike
    md5 = _md5(wanted) if "/" in wanted else wanted
    runs = client.search_runs([experiment], "tags.`kka.chain` != 'all'", max_results=5000)
    now = params_hash(read_config(Path("params.yaml"))) if Path("params.yaml").exists() else ""
    for run in sorted(runs, key=lambda run: run.data.tags.get("kka.lineage") != now):
        for key, value in run.data.tags.items():
            if key.startswith("dvc.") and value == md5:
                return client, run, key
    raise KkaError(
        f"track: there is no run '{wanted}'. Give the id of a run of this project, what a round wrote, such as"
        " data/r1/detector, or an MD5."
    )


def _md5(path: str) -> str:
    stages = yaml.safe_load(lock_file(Path()).read_text(encoding="utf-8"))["stages"].values()
    hashes = [out["md5"] for stage in stages for out in stage.get("outs", []) if out["path"] == path.rstrip("/")]
    if not hashes:
        raise KkaError(f"track: dvc.lock holds no '{path}'. It holds what stages wrote, such as data/r1/detector.")
    return str(hashes[0])


def provenance_of(home: Path, wanted: str) -> str:
    """What a run is, where its files come from, and the commands that bring them back. Raises KkaError where there is
    no such run, or git fails."""
    client, run, _ = find_run(home, wanted)
    tags, number = run.data.tags, run.info.run_id
    if tags.get("kka.chain") == "all":
        below = f"tags.`mlflow.parentRunId` = '{number}'"
        rounds = client.search_runs([run.info.experiment_id], below, max_results=1000)
        lines = sorted((r.data.tags.get("kka.chain", ""), r.info.run_id) for r in rounds)
        head = f"{run.info.run_name} ({number}) stands for a set of parameters. Its rounds:"
        return "\n".join([head, *(f"  {child}  {chain}" for chain, child in lines)])
    if "kka.chain" not in tags:
        raise KkaError(f"track: the run {number} is no round of a loop.")
    parent = client.get_run(tags["mlflow.parentRunId"]).info.run_name
    hashes = {key.removeprefix("dvc."): md5 for key, md5 in tags.items() if key.startswith("dvc.") and md5}
    hashes.pop("revision", None)
    table = [f"  {name:<14}{md5}" for name, md5 in sorted(hashes.items())]
    return "\n".join([f"round {tags['kka.round']} of {parent} ({number})", *table, "", *_way_back(number, hashes)])


def _way_back(run: str, hashes: dict[str, str]) -> Iterator[str]:
    """The commands that bring the files back, by the shortest way that works."""
    if not hashes:
        yield "None of its stages has ended: there are no files."
        return
    wanted = set(hashes.values())
    if _names_all(lock_file(Path()).read_text(encoding="utf-8"), wanted):
        yield "dvc.lock names these files now. What is missing of them comes with:"
        yield "  dvc checkout"
        yield from _way_to_keep()
    elif commit := _commit_of(wanted):
        yield f"git commit {commit} names these files. To bring all of them back, with their parameters:"
        yield f"  git checkout {commit} -- params.yaml dvc.yaml dvc.lock && dvc checkout"
        yield "and to come back: the same with HEAD."
    else:
        yield "No commit's dvc.lock names these files. With the run's parameters DVC restores them from its run cache:"
        yield f"  kka track params {run} > old.yaml && cp old.yaml params.yaml && dvc repro"


def _way_to_keep() -> Iterator[str]:
    try:
        changed = _git("status", "--porcelain", "--", "dvc.lock")
    except KkaError as error:
        yield f"Whether a commit keeps this way back is not known. {error}"
        return
    if changed:
        yield "It is not committed yet. To keep this way back:"
        yield "  git add dvc.lock params.yaml && git commit"


def _commit_of(wanted: set[str]) -> str | None:
    """A commit whose dvc.lock names all these MD5s. One file may be far older than another, so every commit that
    introduced one of them is tried."""
    logs = [_git("log", "--all", "--format=%H", f"-S{md5}", "--", "dvc.lock").split() for md5 in sorted(wanted)]
    commits = list(dict.fromkeys(commit for log in logs for commit in log))
    locks = _contents([f"{commit}:./dvc.lock" for commit in commits])
    return next((commit for commit, lock in zip(commits, locks, strict=True) if _names_all(lock or "", wanted)), None)


def _names_all(lock: str, wanted: set[str]) -> bool:
    return all(md5 in lock for md5 in wanted)


def _git(*words: str, stdin: str = "") -> str:
    """The output of git. Raises KkaError with its error message where it fails."""
    try:
        done = subprocess.run(["git", *words], input=stdin.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise KkaError("track: git is not installed, so other commits cannot be read. Install it.") from None
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise KkaError(f"track: other commits cannot be read: git {words[0]} says: {reason or 'nothing'}")
    return done.stdout.decode(errors="surrogateescape")


def _contents(names: Sequence[str]) -> list[str | None]:
    """The files `<commit>:./<path>`, in their order; None for one that the commit does not hold."""
    request = "".join(f"{name}\n" for name in names)
    stream = _git("cat-file", "--batch", stdin=request).encode(errors="surrogateescape") if names else b""
    texts: list[str | None] = []
    while stream:
        head, _, stream = stream.partition(b"\n")
        if head.endswith(b" missing"):
            texts.append(None)
            continue
        size = int(head.split()[-1])
        texts.append(stream[:size].decode(errors="replace"))
        stream = stream[size + 1 :]
    return texts


def parameters(home: Path, wanted: str) -> str:
    """The params.yaml of a run. For a round's run its `last` is that round."""
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


def replay(home: Path) -> int:
    """Records the results of all commits, and of DVC's experiments, that DVC's cache holds; nothing is fetched. Returns
    the number of states that had some. Raises KkaError where git fails."""
    count, states = 0, list(_states())
    cache = _cache() if states else None
    for commit, params, lock in tqdm(states, unit="state", disable=None):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            write_text(root / "params.yaml", params)
            write_text(root / "dvc.lock", lock)
            _restore(root, cache)
            if any(root.glob("metrics/*/evaluate.json")):
                count += _replayed(root, home, commit)
    return count


def _replayed(root: Path, home: Path, commit: str) -> bool:
    try:
        read_config(root / "params.yaml")
    except KkaError:
        return False  # of another version, whose parameters are not known any more
    reconcile(root, home, commit=commit)
    return True


def _states() -> Iterator[tuple[str, str, str]]:
    """Commit, params.yaml and dvc.lock of all commits, the oldest first; each pair of files once."""
    commits = _git("log", "--all", "--reverse", "--format=%H", "--", "dvc.lock").split()
    texts = _contents([f"{commit}:./{name}" for commit in commits for name in ("params.yaml", "dvc.lock")])
    known = set()
    for commit, params, lock in zip(commits, texts[::2], texts[1::2], strict=True):
        if params and lock and (params, lock) not in known:
            known.add((params, lock))
            yield commit, params, lock


def _cache() -> Any:
    """DVC's local cache, which its configuration may have moved."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(os.curdir) as repo:
            return repo.cache.local
    except DvcException as error:
        raise KkaError(f"track: DVC's cache cannot be opened: {error}") from None


def _restore(root: Path, cache: Any) -> None:
    """Copies the outs that reconciliation reads from the cache, where it holds all their files."""
    for stage in yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"].values():
        for out in stage.get("outs", []):
            path = Path(out["path"])
            if any(path.match(pattern) or path.parent.match(pattern) for pattern in RECORDED):
                files = _files(cache, root / path, out["md5"])
                if all(cache.exists(md5) for _, md5 in files):
                    for target, md5 in files:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(cache.oid_to_path(md5), target)


def _files(cache: Any, path: Path, md5: str) -> list[tuple[Path, str]]:
    """The files of an out with their MD5; none where the cache lacks the list of a folder."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if not md5.endswith(".dir"):
        return [(path, md5)]
    if not cache.exists(md5):
        return []
    return [(path.joinpath(*parts), info.value) for parts, _, info in Tree.load(cache, HashInfo("md5", md5))]
