import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kka
from kka.datasets.shared import feedback
from kka.errors import BrokenFile, KkaError, StaleFile
from kka.mini.train import read_captions
from kka.project import presets
from kka.project.cli import app
from kka.project.errors import sentence

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_version() -> None:
    result = run(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"kka {kka.__version__}\n")


def test_preset_writes_params(project: Path) -> None:
    result = run(app, ["preset", "cifar100-bank", "--set", "align.beta=0.5", "--set", "describe.count=7"])
    assert (result.exit_code, result.stdout) == (0, "wrote params.yaml from the preset cifar100-bank\n")
    written = (project / "params.yaml").read_text(encoding="utf-8")
    assert "beta: 0.5" in written and "count: 7" in written


def test_mistakes_are_one_sentence_on_stderr_and_exit_1(project: Path) -> None:
    result = run(app, ["preset", "blosom"])
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "kka: there is no preset 'blosom'. Did you mean 'blossom'?\n",
    )
    (project / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert run(app, ["preset", "blossom"]).exit_code == 1
    assert (project / "params.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    assert run(app, ["preset", "blossom", "--force"]).exit_code == 0


def test_doctor_ends_with_1_where_something_is_missing(project: Path) -> None:
    presets.write("blossom", project / "params.yaml")
    sick = run(app, ["doctor"])
    assert sick.exit_code == 1
    assert "fail  describe        model kka/mini/lm: no such folder." in sick.stdout
    assert sick.stderr == "kka: 5 of the above must be mended before the project can run.\n"
    for folder in (".git", ".dvc", "kka/mini/lm", "kka/mini/t2i"):
        (project / folder).mkdir(parents=True)
    feedback.write_manifest(project / "feedback", [])
    well = run(app, ["doctor"])
    assert (well.exit_code, well.stderr) == (0, "")
    assert {line[:4] for line in well.stdout.splitlines()} <= {"ok  ", "warn"}


def test_captions_are_those_of_normal_and_archive(project: Path, cifar100_folder: Path) -> None:
    from kka import datasets
    from kka.datasets import cifar100

    counts = {"train": 30, "calibration": 10, "validation": 5}
    changes = [f"prepare.options.{k}={v}" for k, v in {"source": cifar100_folder, **counts}.items()]
    presets.write("cifar100-bank", project / "params.yaml", changes)
    result = run(app, ["captions", "models/captions.txt"])
    written = read_captions(project / "models" / "captions.txt")
    archive = datasets.archive("cifar100", 32, source=str(cifar100_folder))
    assert (result.exit_code, result.stdout) == (0, f"wrote {len(written)} captions to models/captions.txt\n")
    assert len(written) == 30 + 6 * len(archive)
    _, held_out = cifar100.divide(cifar100.FURNITURE, 45, 0)
    said = " ".join(written)
    assert not [h for h in held_out if re.search(rf"\b{h.replace('_', ' ')}\b", said)]
    presets.write("cifar100", project / "params.yaml", changes, force=True)
    assert run(app, ["captions", "models/captions.txt"]).stdout == "wrote 30 captions to models/captions.txt\n"
    assert "wardrobe" in said and all(g.replace("_", " ") in said for g in archive.groups)


def test_the_command_stays_light() -> None:
    heavy = ("torch", "numpy", "transformers", "pydantic", "pyarrow")
    program = f"import sys, kka.project.cli; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert told.stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (BrokenFile("a.json is missing."), " Run the stage that writes it, or `dvc repro`."),
        (StaleFile("a was fitted on other weights."), " Run `dvc repro --force --downstream baseline`."),
        (KkaError("there is no preset 'a'."), ""),
    ],
)
def test_the_project_says_how_a_file_is_written_again(error: KkaError, remedy: str) -> None:
    assert sentence(error) == f"{error}{remedy}"


def test_commands_print_the_remedy(project: Path) -> None:
    presets.write("blossom", project / "params.yaml")
    (project / "picture.png").write_bytes(b"")
    result = run(app, ["predict", "picture.png"])
    assert result.stderr == (
        "kka: data/r3/detector/detector.json is missing. Run the stage that writes it, or `dvc repro`.\n"
    )
