import shutil
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from kka.datasets.shared import feedback
from kka.detectors.shared import PACKAGED
from kka.errors import KkaError
from kka.project import doctor, presets
from kka.project.config import check_config
from kka.project.doctor import Finding, examine, reachable


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the doctor went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    presets.write("blossom", tmp_path / "params.yaml")
    for folder in (".git", ".dvc", "kka/mini/lm", "kka/mini/t2i"):
        (tmp_path / folder).mkdir(parents=True)
    feedback.write_manifest(tmp_path / "feedback", [])
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models--some--model" / "snapshots" / "abc").mkdir(parents=True)
    return tmp_path


def failed(findings: list[Finding]) -> list[str]:
    return [f.what for f in findings if f.mark == "fail"]


def test_a_whole_project_is_well(project: Path) -> None:
    findings = list(examine(project))
    assert failed(findings) == []
    assert {"python", "torch", "device", "disk", "git command", "dvc command", "hub", "params.yaml"} <= {
        f.what for f in findings
    }
    assert [f.detail for f in findings[-2:]] == [
        "model kka/mini/lm: a folder here",
        "model kka/mini/t2i: a folder here",
    ]


def test_what_is_missing_fails(project: Path) -> None:
    shutil.rmtree(project / "kka" / "mini" / "lm")
    shutil.rmtree(project / ".dvc")
    findings = list(examine(project))
    assert failed(findings) == ["dvc command", "describe"]
    assert findings[-2].detail.startswith("model kka/mini/lm: no such folder. Make it")


def test_a_feedback_folder_without_its_manifest_fails(project: Path) -> None:
    (project / "feedback" / "manifest.csv").unlink()
    found = [f for f in examine(project) if f.mark == "fail"]
    assert [(f.what, f.detail.split(". ")[0]) for f in found] == [
        ("prepare", "feedback: there is no feedback/manifest.csv")
    ]


def test_unknown_names_fail_with_a_suggestion(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("detector: bce", "detector: deepsad"), encoding="utf-8")
    found = [f for f in examine(project) if f.mark == "fail"]
    assert [(f.what, f.detail) for f in found] == [
        ("detect", "kka/detectors has no 'deepsad'. Did you mean 'deep_sad'?")
    ]


def test_an_unknown_data_set_is_one_finding(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("dataset: blossom", "dataset: blosom"), encoding="utf-8")
    found = [f for f in examine(project) if f.mark == "fail"]
    assert [(f.what, f.detail) for f in found] == [("prepare", "kka/datasets has no 'blosom'. Did you mean 'blossom'?")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["prepare.options.normal=nowhere"], "normal nowhere: no such folder or file"),
        (["prepare.options.normal=.git", "prepare.options.anomalies=bad"], "anomalies bad: no such folder or file"),
        (
            ["prepare.options.normals=.git"],
            "the data set 'folder' has the unknown option 'normals'. Did you mean 'normal'?",
        ),
        (["detect.options.stpes=5"], "the detector 'simplenet' has the unknown option 'stpes'. Did you mean 'steps'?"),
        (["synthesize.options.steps=many"], "the synthesizer 'diffusion': steps wants a valid integer, got 'many'."),
    ],
)
def test_options_and_folders_that_are_not_there_fail(project: Path, changes: list[str], said: str) -> None:
    presets.write("folder", project / "params.yaml", changes)
    assert said in [f.detail for f in examine(project) if f.mark == "fail"]


def test_a_broken_or_missing_params_file_fails_in_one_line(project: Path) -> None:
    (project / "params.yaml").write_text(
        "last: r1\nrounds: {r1: {prev: r0}}\ndescribe: {cuont: 1}\nalgin: {}\n", encoding="utf-8"
    )
    last = list(examine(project))[-1]
    assert (
        last.mark == "fail"
        and "Did you mean 'count'?" in last.detail
        and "Did you mean 'align'?" in last.detail
        and "\n" not in last.detail
    )
    (project / "params.yaml").unlink()
    assert "is missing. Write one with `kka preset blossom`" in list(examine(project))[-1].detail


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Sets what the hub says of a repository: its files with their sizes, or that it cannot be had."""

    def says(told: Any) -> None:
        def answer(*_: Any, **__: Any) -> Any:
            if isinstance(told, Exception):
                raise told
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in told.items()])

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
        monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", lambda *_, **__: None)

    says({"config.json": 1000, "model.safetensors": 3_000_000_000, "pytorch_model.bin": 3_000_000_000})
    return says


def refusal(kind: Any) -> Exception:
    return kind("no", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("told", "mark", "said"),
    [
        ({"model.safetensors": 3e9, "pytorch_model.bin": 3e9}, "warn", "the first run fetches it, 3.0 GB"),
        ({"a-1.safetensors": 2e9, "a-2.safetensors": 2e9, "a.fp16.safetensors": 2e9}, "warn", "4.0 GB"),
        (
            {"model_index.json": 9, "v1.safetensors": 7e9, "unet/x.safetensors": 2e9, "vae/x.safetensors": 1e9},
            "warn",
            "3.0 GB",
        ),
        ({"train.parquet": 5e8, "README.md": 0}, "warn", "0.5 GB"),
        (refusal(GatedRepoError), "fail", "its owner wants to be asked first"),
        (refusal(RepositoryNotFoundError), "fail", "none of that name on the hub"),
        (TimeoutError(), "fail", "the hub cannot be reached (TimeoutError). Go online once, or name a folder"),
    ],
)
def test_the_hub_says_what_will_be_fetched_or_that_it_cannot_be(
    hub: Any, cache: Path, told: Any, mark: str, said: str
) -> None:
    hub(told)
    found = reachable("describe", "model", "some/other", cache, offline=False)
    assert (found.mark, said in found.detail) == (mark, True), found


def test_what_is_gated_tells_about_itself_but_is_not_given(
    hub: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise refusal(GatedRepoError)

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", refuse)
    found = reachable("describe", "model", "some/other", cache, offline=False)
    assert found.mark == "fail" and "its owner wants to be asked first" in found.detail


def test_every_model_of_the_config_is_looked_for() -> None:
    raw = presets.config("cifar100-bank").model_dump()
    raw["synthesize"]["options"]["embedder"] = "some/embedder"
    assert ("synthesize", "model", "some/embedder") in list(doctor.needs(check_config(raw)))


def test_a_run_that_cannot_end_does_not_begin(cache: Path, capsys: pytest.CaptureFixture[str], hub: Any) -> None:
    raw = presets.config("oxford102").model_dump()
    raw["describe"]["model"], raw["prepare"]["options"]["captions"] = "some/model", None
    raw["prepare"]["options"]["source"] = "models/flowers"
    with pytest.raises(KkaError, match="^prepare: dataset models/flowers: no such folder.") as error:
        doctor.preflight(check_config(raw), cache)
    assert len(str(error.value).splitlines()) == 1
    raw["prepare"]["options"]["source"] = "some/flowers"
    raw["synthesize"]["options"]["strength"] = 7
    with pytest.raises(
        KkaError, match="^synthesize: the synthesizer 'diffusion': strength wants less than or equal to 1, got 7"
    ):
        doctor.preflight(check_config(raw), cache)
    raw["synthesize"]["options"]["strength"] = 0.7
    doctor.preflight(check_config(raw), cache)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["prepare", "synthesize", "detect"]


@pytest.mark.parametrize(
    ("reference", "offline", "mark", "said"),
    [
        ("some/model", True, "ok", "in the Hugging Face cache"),
        ("some/other", False, "warn", "the first run fetches it, 3.0 GB"),
        ("some/other", True, "fail", "the hub is offline. Unset HF_HUB_OFFLINE once"),
        ("gpt2", False, "warn", "the first run fetches it"),
        ("models/mine", False, "fail", "no such folder"),
        ("../mine", False, "fail", "no such folder"),
        ("a/b/c", False, "fail", "no such folder"),
        ("cache/x", False, "fail", "no such folder"),
        ("cache", False, "ok", "a folder here"),
    ],
)
def test_where_a_model_is_looked_for(cache: Path, reference: str, offline: bool, mark: str, said: str) -> None:
    found = reachable("describe", "model", reference, cache, offline=offline)
    assert (found.mark, said in found.detail) == (mark, True)


def test_a_backbone_of_a_package_is_looked_for_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, package = next(iter(PACKAGED.items()))

    def found() -> Finding:
        return reachable("detect", "model", name, cache, offline=True)

    monkeypatch.setattr(doctor, "version", {package: "0.1.0"}.__getitem__)
    assert found() == Finding("ok", "detect", f"model {name}: in the package {package} 0.1.0")

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    assert found().mark == "fail" and f"{package} is not installed. Say: pip install -e '.[photos]'" in found().detail


def test_a_data_set_is_not_a_model(cache: Path) -> None:
    assert reachable("prepare", "dataset", "some/model", cache, offline=True).mark == "fail"


def test_the_offline_state_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub() -> str:
        return next(f.detail for f in examine(project) if f.what == "hub")

    assert hub().startswith("online")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub().startswith("offline")


def test_missing_packages_tools_and_space_fail(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    assert doctor._package("no-such-package") == Finding(
        "fail", "no-such-package", "not installed. Install the project again: pip install -e ."
    )
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    assert doctor._tool("git", ".git", project).detail == "not on the path. Install git"
    for free, mark in ((100e9, "ok"), (3e9, "warn"), (0.5e9, "fail")):
        monkeypatch.setattr(shutil, "disk_usage", lambda root, free=free: shutil._ntuple_diskusage(0, 0, free))
        assert doctor._disk(project).mark == mark


def test_more_threads_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    found = doctor._device()
    assert found.mark == "warn" and "set OMP_NUM_THREADS=2" in found.detail
