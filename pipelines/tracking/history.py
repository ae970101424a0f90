"""What git remembers of results: those of every commit and experiment, for a database that has lost them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from tqdm import tqdm

from kka.errors import KkaError
from kka.project.config import read_config
from kka.records import write_text
from pipelines.tracking.reconcile import reconcile

WANTED = (
    "metrics/*",
    "plots/*",
    "report",
    "data/*/detector",
    "data/*/scores.csv",
    "data/*/descriptions.jsonl",
    "data/splits/calibration",
)


def replay(home: Path) -> int:
    """Reconciles the params.yaml and dvc.lock of all commits, DVC's experiments among them, with what DVC's cache holds
    of their results. Says of how many it holds some."""
    cache, told = Path(_said("dvc", "cache", "dir").strip() or ".dvc/cache"), 0
    for commit, params, lock in tqdm(list(_states()), unit="state", disable=None):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            write_text(root / "params.yaml", params)
            write_text(root / "dvc.lock", lock)
            _restore(root, cache / "files" / "md5")
            if any(root.glob("metrics/*/evaluate.json")):
                told += _told(root, home, commit)
    return told


def _told(root: Path, home: Path, commit: str) -> bool:
    try:
        read_config(root / "params.yaml")
    except KkaError:
        return False  # of another version, whose parameters are not known any more
    reconcile(root, home, commit=commit)
    return True


def _states() -> Iterator[tuple[str, str, str]]:
    """Commit, params.yaml and dvc.lock, each pair of them once, the oldest first."""
    seen = set()
    for commit in _said("git", "log", "--all", "--reverse", "--format=%H", "--", "dvc.lock").split():
        pair = tuple(_said("git", "show", f"{commit}:./{name}") for name in ("params.yaml", "dvc.lock"))
        if all(pair) and pair not in seen:
            seen.add(pair)
            yield commit, pair[0], pair[1]


def _restore(root: Path, cache: Path) -> None:
    """Copies what the records need of the outs in dvc.lock from the cache, where they are in it."""
    for stage in yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"].values():
        for out in stage.get("outs", []):
            if any(Path(out["path"]).match(pattern) or Path(out["path"]).parent.match(pattern) for pattern in WANTED):
                for path, md5 in _files(cache, root / out["path"], out["md5"]):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(_place(cache, md5), path)


def _files(cache: Path, path: Path, md5: str) -> list[tuple[Path, str]]:
    """The files of an out with their MD5; none where one of them is not in the cache."""
    if not _place(cache, md5).exists():
        return []
    listed = json.loads(_place(cache, md5).read_text(encoding="utf-8")) if md5.endswith(".dir") else []
    found = [(path / item["relpath"], item["md5"]) for item in listed] if md5.endswith(".dir") else [(path, md5)]
    return found if all(_place(cache, m).exists() for _, m in found) else []


def _place(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout
