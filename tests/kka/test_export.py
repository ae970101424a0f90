"""`kka export`: one ONNX file that prepares pictures of any size and scores them as the detector does, or none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kka import detectors, export, registry
from kka.detectors.shared import features
from kka.detectors.shared.base import Base
from kka.errors import KkaError
from kka.images import prepare
from kka.project.cli import app
from kka.regions import calibrate
from kka.scoring import Scorer
from tests.conftest import photographs
from tests.kka.test_scoring import project

SMALL = {"steps": 3, "pretrain_steps": 2, "members": 2, "width": 4}
SIDE = 32


def small(name: str, *, squeeze: bool = False) -> Scorer:
    known = registry.keywords(registry.find("kka.detectors", name).Detector)
    normals, boundary = (photographs(n, np.random.default_rng(n)) for n in (30, 19))
    detector = detectors.create(name, 0, **{k: v for k, v in SMALL.items() if k in known}).fit(
        normals, 255 - normals[:10]
    )
    scores, threshold = calibrate(detector, boundary)
    return Scorer(detector, np.sort(scores), SIDE, squeeze, threshold)


def boundary() -> Any:
    return photographs(19, np.random.default_rng(19))


def run(path: Path, pictures: Any, place: int = 0) -> Any:
    """What the file makes of pictures: scores, or in place 1 maps."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pictures": pictures})[
        place
    ]


@pytest.fixture(autouse=True)
def _extra(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="the extra onnx is not installed")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and two pictures in its folder `new`, one of them tall."""
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "bce", members=1, steps=5)
    (tmp_path / "new").mkdir()
    for i, pixels in enumerate(photographs(2, np.random.default_rng(1))):
        Image.fromarray(pixels).resize((48, 40 + 160 * i)).save(tmp_path / "new" / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("side", [16, 33])
def test_pictures_are_prepared_to_the_last_bit_as_pillow_does(side: int, squeeze: bool) -> None:
    """Enlarged and made smaller, wide and tall, a pixel more or less, a single pixel."""
    graph, rng = export.Prepared(torch.nn.Identity(), side, squeeze), np.random.default_rng(0)
    for height, width in [
        *export.sizes(side),
        (1, 1),
        (7, 1),
        (2, 9),
        (side, 3 * side),
        (100, 30),
        (31, 100),
        (64, 64),
    ]:
        pictures = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        found = graph.resized(torch.from_numpy(pictures)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(
            found, prepare(list(pictures), side, squeeze=squeeze), err_msg=f"{height}x{width}"
        )


@pytest.mark.parametrize("name", detectors.names())
def test_the_file_scores_as_the_detector_any_number_of_pictures_of_any_size(name: str, tmp_path: Path) -> None:
    scorer, out = small(name, squeeze=name == "bce"), tmp_path / "deep" / "detector.onnx"
    assert export.write(scorer, boundary(), out) < export.TOLERANCE * 10
    assert [p.name for p in out.parent.iterdir()] == ["detector.onnx"]
    for n, height, width in ((1, 16, 16), (5, 19, 50), (3, 70, 20), (2, 1, 1)):
        pictures = np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
        wanted = scorer.detector.score(prepare(list(pictures), SIDE, squeeze=scorer.squeeze))
        np.testing.assert_allclose(run(out, pictures), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [n for n in detectors.names() if hasattr(registry.find("kka.detectors", n).Detector, "score_map")]
)
def test_the_file_maps_as_the_detector_does(name: str, tmp_path: Path) -> None:
    scorer, out = small(name), tmp_path / "detector.onnx"
    export.write(scorer, boundary(), out)
    pictures = np.random.default_rng(3).integers(0, 256, (3, 70, 40, 3), dtype=np.uint8)
    detector: Any = scorer.detector
    wanted = detector.score_map(prepare(list(pictures), SIDE))
    assert wanted.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(run(out, pictures, 1), wanted, rtol=1e-4, atol=1e-4)
    onnx = pytest.importorskip("onnx")
    said = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert float(said["pixel_threshold"]) == scorer.pixel_threshold


def test_a_file_that_would_map_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are the same: the gate stands before the maps too."""
    right = features.Mapped.forward

    def shifted(self: Any, x: torch.Tensor) -> Any:
        scores, maps = right(self, x)
        return scores, maps + (1e-2 if torch.compiler.is_exporting() else 0)

    monkeypatch.setattr(features.Mapped, "forward", shifted)
    with pytest.raises(KkaError, match=r"the ONNX file's maps differ from the detector's by up to 0.01 on pictures"):
        export.write(small("simplenet"), boundary(), tmp_path / "detector.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_when_a_score_is_an_alarm(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    scorer, out = small("bce"), tmp_path / "detector.onnx"
    export.write(scorer, boundary(), out)
    said = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert (said["detector"], said["image_size"], said["squeeze"]) == ("bce", "32", "false")
    assert json.loads(said["calibration"]) == scorer.calibration.tolist()
    assert "pixel_threshold" not in said  # it has no maps
    limit = float(said["threshold"])
    assert scorer.p_values(np.array([limit, np.nextafter(limit, np.inf)])).tolist() == [2 / 20, 1 / 20]


@pytest.mark.parametrize("n", [18, 19, 38, 39, 100, 299])
def test_the_threshold_parts_p_values_at_a_twentieth(n: int) -> None:
    scorer = Scorer(detectors.create("bce", 0), np.arange(n, dtype=np.float64), SIDE, False)
    p_values, found = scorer.p_values(scorer.calibration + 0.5), export.facts(scorer).get("threshold")
    if found is None:
        assert n < 19 and p_values.min() > 0.05
    else:
        assert ((p_values <= 0.05) == (scorer.calibration + 0.5 > float(found))).all() and p_values.min() <= 0.05


def test_a_file_that_would_score_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation without rounding between its two passes is off by a grey level here and there."""
    monkeypatch.setattr(export, "_rounded", lambda x: x)
    with pytest.raises(
        KkaError,
        match=r"differ from the detector's by up to [\d.e-]+ on pictures of \d+x\d+ pixels; .* Nothing is written",
    ):
        export.write(small("bce"), boundary(), tmp_path / "detector.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_cannot_be_exported_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Erratic(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((1, 2, 3)) if x.max() > 0.5 else x.amax((1, 2, 3))

    scorer = small("bce")
    monkeypatch.setattr(Base, "scorer", lambda self: Erratic())
    with pytest.raises(
        KkaError, match=r"^export: the detector 'bce' cannot be made an ONNX file .*Use `kka predict`\.$"
    ):
        export.write(scorer, boundary(), tmp_path / "detector.onnx")
    monkeypatch.delattr(Base, "scorer")
    with pytest.raises(KkaError, match=r"^export: the detector 'bce' has no scorer\(\)"):
        export.write(scorer, boundary(), tmp_path / "detector.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(KkaError) as error:
        export.write(
            Scorer(detectors.create("bce", 0), np.zeros(3), SIDE, False), boundary(), tmp_path / "detector.onnx"
        )
    assert (
        str(error.value)
        == "export wants the package 'onnxscript', which is not installed. Say: pip install -e '.[onnx]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_what_predict_scores_with(here: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--out", "my.onnx"])
    assert (result.exit_code, result.stderr) == (0, "") and result.stdout.startswith("wrote my.onnx: bce, 0.")
    assert CliRunner().invoke(app, ["predict", "new"]).exit_code == 0
    for row in (here / "scores.csv").read_text().splitlines()[1:]:
        file, score, _, _ = row.split(",")
        pixels = np.asarray(Image.open(here / file).convert("RGB"))
        np.testing.assert_allclose(run(here / "my.onnx", pixels[None]), [float(score)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "tflite"], "kka: export: there is no format 'tflite'. It knows: onnx.\n"),
        (["--round", "r7"], "kka: export: params.yaml has no round 'r7'. It has r0, r1, r2, r3.\n"),
        (
            ["--round", "r1"],
            "kka: data/r1/detector/detector.json is missing. Run the stage that writes it, or `dvc repro`.\n",
        ),
    ],
)
def test_mistakes_are_one_sentence(here: Path, words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["export", *words])
    assert (result.exit_code, result.stderr) == (1, said) and not list(here.glob("*.onnx*"))
