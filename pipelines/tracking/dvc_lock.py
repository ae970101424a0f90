"""What dvc.lock vouches for: which stages ran with the current parameters, and what they wrote."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kka.errors import KkaError
from kka.project.config import lookup


def lock_file(root: Path) -> Path:
    """dvc.lock. Raises KkaError where there is none."""
    path = root / "dvc.lock"
    if not path.exists():
        raise KkaError(f"{path} is missing: nothing has been run yet. Run `dvc repro`.")
    return path


@dataclass(frozen=True)
class Lock:
    """The stages of dvc.lock that are up to date with params.yaml, and the MD5 of each of their outs by path."""

    root: Path
    stages: dict[str, dict[str, str]]

    @classmethod
    def read(cls, root: Path, *, reported: bool = False) -> "Lock":
        """`reported`: the report has just been written, but DVC adds it to dvc.lock only when its stage ends. Raises
        KkaError where there is no dvc.lock."""
        stages = yaml.safe_load(lock_file(root).read_text(encoding="utf-8"))["stages"]
        fresh = _fresh(stages, yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")))
        md5 = _md5(root / "report") if reported else None
        if md5:
            fresh["report"] = {"report": md5}
        return cls(root, fresh)

    def files(self, stage: str, folder: str) -> list[Path]:
        """The files that the stage wrote to `folder` and that are still there, unchanged."""
        outs = self.stages.get(stage, {})
        return [self.root / p for p in outs if p.startswith(f"{folder}/") and _md5(self.root / p) == outs[p]]

    def whole(self, stage: str, path: str) -> Path | None:
        """The file or folder that the stage wrote to `path`, if it is still there, unchanged."""
        md5, place = self.out(stage, path), self.root / path
        return place if md5 is not None and _md5(place) == md5 else None

    def md5(self, path: Path) -> str:
        """The MD5 of a file or folder that is `whole`."""
        name = path.relative_to(self.root).as_posix()
        return next(outs[name] for outs in self.stages.values() if name in outs)

    def out(self, stage: str, path: str) -> str | None:
        """The MD5 of what the stage wrote to `path`, or None."""
        return self.stages.get(stage, {}).get(path)


def _fresh(stages: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The outs of the stages that ran with the current parameters. Each dep is an out of such a stage, or no stage
    writes it.

    A changed parameter makes everything behind it stale, as in `dvc status`. Changed code is not noticed here.
    """
    outs = {name: {o["path"]: o["md5"] for o in stage.get("outs", [])} for name, stage in stages.items()}
    writers = {path: name for name, paths in outs.items() for path in paths}
    known: dict[str, bool] = {}

    def fresh(name: str) -> bool:
        if name not in known:
            stage = stages[name]
            used = stage.get("params", {}).get("params.yaml", {})
            known[name] = (
                all(lookup(params, key) == value for key, value in used.items())
                and _continues(params, name, stage["cmd"])
                and all(
                    dep["path"] not in writers
                    or (fresh(writers[dep["path"]]) and outs[writers[dep["path"]]][dep["path"]] == dep["md5"])
                    for dep in stage.get("deps", [])
                )
            )
        return known[name]

    return {name: paths for name, paths in outs.items() if fresh(name)}


def _continues(params: Mapping[str, Any], name: str, command: str) -> bool:
    """Whether a round's stage ran on the previous round that params.yaml gives it now."""
    _, _, item = name.partition("@")
    return not item or command.split()[-2:] == [item, lookup(params, f"rounds.{item}.prev")]


def _md5(path: Path) -> str | None:
    """The MD5 as DVC computes it. That of a folder is the MD5 of its list of files, and ends in .dir."""
    if path.is_dir():
        files = sorted((p.relative_to(path).as_posix(), _md5(p)) for p in path.rglob("*") if p.is_file())
        listed = json.dumps([{"md5": md5, "relpath": name} for name, md5 in files]).encode()
        return f"{hashlib.md5(listed, usedforsecurity=False).hexdigest()}.dir"
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None
