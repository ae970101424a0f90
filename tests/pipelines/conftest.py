"""A small project on which the stages run: the default preset with tiny numbers, and a synthesizer that draws what it
is told."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from kka import synthesizers
from kka.datasets import blossom
from kka.project.config import Config, check_config
from kka.records import Anomaly
from pipelines.loop import run_loop
from pipelines.stage import Run, make_run

if TYPE_CHECKING:
    from tests.pipelines.stubs import Project

ROOT = Path(__file__).parents[2]


class Drawn:
    """Draws flowers as their captions say; a text that cannot be read gives a normal flower."""

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        rows = [np.array([blossom.parse(t) or (*blossom.NORMAL, 0, 0)]) for t in texts]
        return np.concatenate([blossom.draw(r, np.random.default_rng(s)) for r, s in zip(rows, seeds, strict=True)])

    def __repr__(self) -> str:
        return "Drawn()"


def tiny(**changes: Any) -> Config:
    """The default preset, one round, tiny; changes are values by dotted names with __ for the dots."""
    raw = yaml.safe_load((ROOT / "presets" / "blossom.yaml").read_text(encoding="utf-8"))
    raw |= {"rounds": {"r1": {"prev": "r0"}}, "last": "r1"}
    small = {
        "describe__model": str(ROOT / "kka" / "mini" / "lm"),
        "describe__count": 24,
        "describe__attempts": 64,
        "synthesize__controls": 8,
        "detect__options": {"members": 1, "steps": 20},
        "detect__seeds": 2,
        "align__candidates": 30,
        "align__steps": 5,
        "align__pairs": 40,
        "align__health__sample": 20,
        "align__health__readable": 0.5,
        "align__health__distinct": 0.5,
        "evaluate__bootstrap": 20,
    }
    for name, value in (small | changes).items():
        *sections, key = name.split("__")
        place = raw
        for section in sections:
            place = place[section]
        place[key] = value
    return check_config(raw)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Round r1 of the tiny project in an empty folder."""
    return make_run(tiny(), tmp_path, ["r1"])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A project after one round, and the names of what was logged. Not to be changed."""
    root = tmp_path_factory.mktemp("loop")
    logged: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesizers, "create", lambda name, options, **data: Drawn())
        run_loop(tiny(), root, lambda name, value, step: logged.append(name))
    return root, logged


@pytest.fixture
def copy(finished: tuple[Path, list[str]], tmp_path: Path) -> Run:
    """Round r1 of a copy of the finished project."""
    shutil.copytree(finished[0], tmp_path / "copy")
    return make_run(tiny(), tmp_path / "copy", ["r1"])


@pytest.fixture
def anomaly() -> Callable[..., Anomaly]:
    """Makes a record, hard unless told otherwise."""

    def make(name: str = "r1-00000", **changes: Any) -> Anomaly:
        return Anomaly(
            **(
                {
                    "id": name,
                    "round": "r1",
                    "row": 0,
                    "text": name,
                    "score": 0.0,
                    "score_r0": 0.0,
                    "grade": "hard",
                    "sha256": "",
                }
                | changes
            )
        )

    return make


@pytest.fixture(scope="session")
def stubbed(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """A project of stubs whose stages have run, to be copied."""
    from tests.pipelines.stubs import Project

    made = Project(tmp_path_factory.mktemp("stubbed") / "project")
    made.repro()
    return made
