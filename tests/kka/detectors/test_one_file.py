"""A detector is one file: put into a copy of the folder it is known by name and held by the whole contract suite."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILE = """
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kka.detectors.shared.base import Share, Whole
from kka.detectors.shared.exposure import Exposure


class Small(nn.Sequential):
    def __init__(self) -> None:
        layers = nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 1)
        super().__init__(nn.AdaptiveAvgPool2d(8), nn.Flatten(), *layers, nn.Flatten(0))


@dataclass
class Detector(Exposure):
    steps: Whole = 150
    generated_share: Share = 0.4

    def member(self) -> Small:
        return Small()

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, labels)
"""


def suite(folder: Path, source: str, which: str = "mine") -> subprocess.CompletedProcess[str]:
    """The contract suite on a detector `mine` in a copy of the project."""
    shutil.copytree(ROOT / "kka", folder / "kka", ignore=shutil.ignore_patterns("__pycache__", "lm", "t2i"))
    shutil.copy(ROOT / "tests" / "kka" / "detectors" / "test_contract.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "kka" / "detectors" / "mine.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_contract.py",
        "-k",
        which,
        "-o",
        "addopts=",
    ]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )


def test_a_new_detector_needs_its_file_alone(tmp_path: Path) -> None:
    done = suite(tmp_path, FILE)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "failed" not in done.stdout


def test_one_with_the_wrong_sign_is_found_out(tmp_path: Path) -> None:
    done = suite(tmp_path, FILE.replace("(scores, labels)", "(scores, 1 - labels)"), "mine and score_higher")
    assert done.returncode == 1 and "test_it_learns_and_anomalies_score_higher[mine]" in done.stdout
