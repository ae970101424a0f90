"""A data set is one file: put into a copy of the tree, the doctor, `kka data check`, `prepare` and the report of texts
know it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kka.images import read_split
from tests.conftest import ROOT

FILE = """
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kka.records import Split, Splits

PATHS = ("colours",)
MODELS = ("painter",)
HUB = True


def load(seed: int, image_size: int, *, colours: str, source: str = "some/set", painter: str | None = None) -> Splits:
    rng, words = np.random.default_rng(seed), Path(colours).read_text().split()

    def split(*labels: int) -> Split:
        images = rng.integers(0, 256, (len(labels), image_size, image_size, 3), dtype=np.uint8)
        captions = tuple(f"a {rng.choice(words)} picture" for _ in labels)
        return Split(images, captions, np.array(labels), tuple("ab"[label] for label in labels))

    return Splits(split(*[0] * 30), split(*[0] * 10), split(0, 0, 1), split(0, 1, 1))


def text_distances(texts: Sequence[str]) -> list[int | None]:
    return [None if "picture" not in text else int("red" not in text) for text in texts]
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "lm", "t2i")
    for name in ("kka", "pipelines", "presets", "feedback"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for model in ("lm", "t2i"):  # as far as the doctor looks
        (folder / "kka" / "mini" / model).mkdir()
    (folder / "kka" / "datasets" / "mine.py").write_text(FILE)
    (folder / "colours.txt").write_text("red orange")
    return folder


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tree / "hub")}
    return subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, env=environment)


def kka(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(tree, "-c", "from kka.project.cli import main; main()", *arguments)


def choose(tree: Path, options: str) -> None:
    done = kka(
        tree, "preset", "blossom", "--force", "--set", "prepare.dataset=mine", "--set", f"prepare.options={options}"
    )
    assert done.returncode == 0, done.stderr


def test_the_doctor_knows_its_options_paths_and_models(tree: Path) -> None:
    choose(tree, "{colours: colours.txt}")
    lines = kka(tree, "doctor").stdout.splitlines()
    assert [line for line in lines if line[6:].startswith("prepare")] == ["ok    prepare         mine"]
    choose(tree, "{colours: nowhere.txt, source: other/set, painter: some/painter}")
    lines = kka(tree, "doctor").stdout.splitlines()
    assert "fail  prepare         colours nowhere.txt: no such folder or file" in lines
    for kind in ("dataset other/set", "model some/painter"):
        assert any(line.startswith(f"fail  prepare         {kind}: no folder here") for line in lines)
    choose(tree, "{colors: colours.txt}")
    said = "fail  prepare         the data set 'mine' has the unknown option 'colors'. Did you mean 'colours'?"
    assert said in kka(tree, "doctor").stdout.splitlines()


def test_check_and_prepare_read_it(tree: Path) -> None:
    choose(tree, "{colours: colours.txt}")
    check = kka(tree, "data", "check")
    assert check.returncode == 0 and "ok    train           30 normals, 32x32 pixels" in check.stdout, check.stderr
    prepared = run(tree, "-m", "pipelines.prepare")
    assert prepared.returncode == 0, prepared.stderr
    train = read_split(tree / "data" / "splits" / "train")
    assert len(train) == 30 and set(train.captions) == {"a red picture", "a orange picture"}


def test_its_texts_have_distances(tree: Path) -> None:
    program = (
        "from kka import datasets; print(datasets.text_distances('mine', ['a red picture', 'a blue picture', 'a']))"
    )
    assert run(tree, "-c", program).stdout == "[0, 1, None]\n"
