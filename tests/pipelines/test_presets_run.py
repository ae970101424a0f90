"""Every preset with a data set or models of its own runs to its end: its data in their official form, and small
stand-ins of the architectures that it names."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from kka.mini import lm
from kka.project import presets
from kka.project.config import check_config
from kka.records import read_json, seed_of
from pipelines.loop import run_loop
from tests import standins
from tests.conftest import photographs

CAPTIONS = [
    "a photo of a part",
    "an aerial photo of a tennis court",
    "this flower has pointed petals",
    "a small photo of a bed",
]
SMALL = [
    "rounds={r1: {prev: r0}}",
    "last=r1",
    "prepare.image_size=32",
    "describe.count=8",
    "describe.attempts=40",
    "describe.batch_size=8",
    "describe.max_new_tokens=12",
    "detect.seeds=1",
    "evaluate.bootstrap=10",
    "align.steps=2",
    "align.pairs=16",
    "align.batch_size=2",
    "align.health={sample: 10, readable: 0.0, distinct: 0.0}",
    "assess.quantile=0.0",
    "detect.hard_proportion.rounds=1",
    "describe.guard.readable_margin=1000",
]


def pictures(folder: Path, n: int, suffix: str = "png") -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(photographs(n, np.random.default_rng(seed_of(folder.parts[-2:]))), start=1):
        Image.fromarray(pixels).save(folder / f"image_{i:05d}.{suffix}")
        yield folder / f"image_{i:05d}.{suffix}"


def own(folder: Path) -> dict[str, object]:
    assert len(list(pictures(folder / "good", 60))) == 60
    return {"normal": folder / "good"}


def category(folder: Path) -> dict[str, object]:
    for name, n in {"train/good": 40, "test/good": 10, "test/crack": 10}.items():
        list(pictures(folder / "bottle" / name, n))
    return {"source": folder}


def flowers(folder: Path) -> dict[str, object]:
    made = list(pictures(folder / "jpg", 80, "jpg"))
    for path in made:
        text = folder / "text_c10" / "class_00026" / f"{path.stem}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"this flower has {path.stem} petals\nthis flower is yellow\n")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[26] * 50 + [1] * 30], dtype=np.uint8)})
    return {"source": folder, "captions": folder / "text_c10"}


def land(folder: Path) -> dict[str, object]:
    for name, n in {"storagetanks": 30, "tenniscourt": 30, "forest": 20}.items():
        list(pictures(folder / name, n, "tif"))
    return {"source": folder, "captions": "null"}


def cifar(folder: Path) -> dict[str, object]:
    return {"source": folder, "train": 30, "calibration": 12, "validation": 5}


def cells(folder: Path) -> dict[str, object]:
    pytest.importorskip("elpv_dataset", reason="the package with the photographs is not installed")
    return {"kind": "mono", "calibration": 0.4, "validation": 0.2, "test": 0.3}


# its data, the architectures of its language model and its pipeline, and its backbone's
RUNS: dict[str, tuple[Callable[[Path], dict[str, object]], str, str, str | None]] = {
    "folder": (own, "qwen2", "sd", "resnet"),
    "mvtec": (category, "qwen2", "sd", "resnet"),
    "oxford102": (flowers, "qwen3", "sdxl", "dinov2"),
    "ucm": (land, "llama", "pixart", "dinov2"),
    "cifar100": (cifar, "glm4", "sd", "dinov2"),
    "paper": (cifar, "glm", "cogview3", None),
    "cifar100-bank": (cifar, "", "", None),
    "inspect": (own, "", "", None),
    "elpv": (cells, "", "", None),
}


def changes(name: str, folder: Path, data: Path) -> list[str]:
    make, writer, pipeline, backbone = RUNS[name]
    found = [f"prepare.options.{k}={v}" for k, v in make(data).items()]
    if name in ("inspect", "elpv"):  # their models are built in
        return [*found, "align.candidates=20", "detect.options.groups=2", "detect.options.steps=4"]
    if name == "cifar100-bank":
        lm.train(folder / "lm", CAPTIONS * 20, CAPTIONS, steps=4)
        return [
            *found,
            f"describe.model={folder / 'lm'}",
            "align.candidates=20",
            "detect.options={members: 1, steps: 10}",
        ]
    found += [f"describe.model={standins.language_model(folder / 'lm', writer, CAPTIONS)}", "align.candidates=12"]
    found += [
        f"synthesize.options.model={standins.PIPELINES[pipeline](folder / 'pipeline')}",
        "synthesize.options.steps=2",
    ]
    found += ["synthesize.controls=4"]
    if backbone:
        return [*found, f"detect.options.backbone={standins.backbone(folder / 'backbone', backbone)}"]
    return [*found, "detect.options={rep_dim: 8, steps: 10, pretrain_steps: 4}", "align.candidates=0"]


def test_no_preset_is_forgotten() -> None:
    assert {*RUNS, "blossom"} == set(presets.names())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM-Solver with numpy 2
@pytest.mark.parametrize("name", RUNS)
def test_a_preset_runs_to_its_end(name: str, tmp_path: Path, cifar100_folder: Path) -> None:
    data = cifar100_folder if RUNS[name][0] is cifar else tmp_path / "pictures"
    text = presets.text(name, [*SMALL, *changes(name, tmp_path, data)])
    run_loop(check_config(yaml.safe_load(text)), tmp_path / "run")
    figures = read_json(tmp_path / "run" / "metrics" / "r1" / "evaluate.json")
    assert 0 <= figures["false_positive_rate"] <= 1
    anomalies = name not in ("folder", "inspect")  # those have no real ones here
    assert ("auroc" in figures) == anomalies
    assert (tmp_path / "run" / "report" / "r1.png").is_file()
    table = (tmp_path / "run" / "report" / "table.md").read_text(encoding="utf-8")
    assert "false alarms" in table and ("AUROC" in table) == anomalies
