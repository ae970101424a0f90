"""Models in MLflow's registry: what a version holds, when the champion moves, and what a server says of pictures."""

import ast
import base64
import csv
import dataclasses
import io
import json
import os
import site
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.pyfunc.scoring_server import predictions_to_json
from numpy.typing import NDArray
from PIL import Image

from kka import detectors
from kka.errors import KkaError
from kka.images import prepare, write_split
from kka.records import Split, write_json
from kka.regions import pixel_threshold
from kka.scoring import Scorer
from pipelines.tracking import package
from pipelines.tracking.package import log_model
from pipelines.tracking.provenance import find_run
from pipelines.tracking.runs import Tracker
from tests.conftest import ROOT, photographs
from tests.pipelines.conftest import tiny

LABELS = np.repeat([0, 1], [40, 40])
QUALITY = {"r0": 0.8, "r1": 0.9, "r2": 2.5}  # how far the scores of anomalies lie above those of normals


class Project:
    """Rounds of a project, in MLflow, with a real detector, and scores on a test split that are made up."""

    def __init__(self, folder: Path, name: str = "bce", **options: Any) -> None:
        self.folder, self.home = folder, folder / "mlruns"
        self.config = tiny(rounds={"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}, last="r2")
        (folder / "params.yaml").write_text(yaml.safe_dump(self.config.model_dump(mode="json")))
        normals = photographs(30, np.random.default_rng(1))
        self.calibration = photographs(19, np.random.default_rng(2))
        split = Split(self.calibration, ("a part",) * 19, np.zeros(19, np.int64), ("normal",) * 19)
        write_split(folder / "data" / "splits" / "calibration", split)
        self.detector = detectors.create(name, 0, **options).fit(normals, 255 - normals[:8])
        threshold = pixel_threshold(self.detector, self.calibration)
        for round in QUALITY:
            self.detector.save(folder / "data" / round / "detector")
            figures = {} if threshold is None else {"pixel_threshold": threshold}
            write_json(folder / "metrics" / round / "evaluate.json", figures)
        self.tracker = Tracker(self.home, self.config)

    def log(self, name: str, test: str = "the test split") -> str:
        """The run of a round that has been evaluated."""
        noise = np.random.default_rng([3, list(QUALITY).index(name)]).normal(size=len(LABELS))
        rows = [("calibration", 0, "normal", float(s)) for s in self.detector.score(self.calibration)]
        rows += [
            ("test", int(y), "odd" if y else "normal", float(e + y * QUALITY[name]))
            for y, e in zip(LABELS, noise, strict=True)
        ]
        path = self.folder / "data" / name / "scores.csv"
        with path.open("w", newline="") as table:
            csv.writer(table).writerows([("split", "label", "group", "score"), *rows])
        run = self.tracker.round(name)
        self.tracker.client.log_artifact(run, str(path))
        self.tracker.tag(run, {"dvc.detector": f"md5 of {name}", "dvc.test": test})
        self.model(name, test)
        return run

    def model(self, name: str, test: str = "the test split") -> str:
        run = self.tracker.round(name)
        return log_model(self.tracker, run, name, self.folder, {"dvc.detector": f"md5 of {name}", "dvc.test": test})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    yield Project(tmp_path, members=1, steps=5)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # which register sets for the registry


def register(home: Path, wanted: str, name: str | None, force: bool) -> str:
    client, run, _ = find_run(home, wanted)
    return package.register(client, run, home, name, force)


def aliases(project: Project) -> dict[str, str]:
    return {k: str(v) for k, v in project.tracker.client.get_registered_model("kka-blossom").aliases.items()}


def test_the_champion_moves_to_what_is_better_for_sure(project: Project) -> None:
    runs = {name: project.log(name) for name in QUALITY}
    first = register(project.home, runs["r0"], None, False)
    assert first.startswith("kka-blossom version 1 is the champion. AUROC ") and aliases(project) == {
        "candidate": "1",
        "champion": "1",
    }
    # 0.9 after 0.8 deviations, on 80 pictures: higher, and the interval holds zero
    second = register(project.home, runs["r1"], None, False)
    assert "version 2 is the candidate; version 1 stays champion." in second and "no better for sure" in second
    assert aliases(project) == {"candidate": "2", "champion": "1"}
    third = register(project.home, runs["r2"], None, False)
    assert "version 3 is the champion. " in third and "better for sure" in third
    assert aliases(project) == {"candidate": "3", "champion": "3"}
    described = project.tracker.client.get_model_version("kka-blossom", "3").description
    assert described in third and "95% interval" in described
    # twice is once, and back is worse
    assert register(project.home, runs["r2"], None, False) == "kka-blossom version 3 is the champion already."
    assert "worse for sure" in register(project.home, runs["r0"], None, False) and aliases(project)["champion"] == "3"
    assert "version 1 is the champion, as --force says." in register(project.home, runs["r0"], None, True)
    assert len(project.tracker.client.search_model_versions("name = 'kka-blossom'")) == 3


def test_a_champion_is_compared_by_what_it_was_when_it_was_registered(project: Project) -> None:
    """Its run may hold another detector by now: after a repair of the code the same parameters give other results."""
    run = project.log("r0")
    register(project.home, run, None, False)
    QUALITY["r0"], before = 3.0, QUALITY["r0"]
    try:
        project.log("r0", "the test split")
        project.tracker.tag(run, {"dvc.detector": "md5 of a better one"})
        log_model(
            project.tracker,
            run,
            "r0",
            project.folder,
            {"dvc.detector": "md5 of a better one", "dvc.test": "the test split"},
        )
    finally:
        QUALITY["r0"] = before
    assert "version 2 is the champion. " in register(project.home, run, None, False)


def test_a_champion_that_does_not_say_how_it_was_tested_gives_way_by_force_alone(project: Project) -> None:
    client = project.tracker.client
    register(project.home, project.log("r1"), None, False)
    client.delete_logged_model(client.get_model_version("kka-blossom", "1").tags["kka.model"])
    better = project.log("r2")
    said = register(project.home, better, None, False)
    assert "version 1 stays champion" in said and "How version 1 was tested is not known" in said
    assert "version 2 is the champion, as --force says." in register(project.home, better, None, True)


def test_another_test_split_decides_nothing(project: Project) -> None:
    register(project.home, project.log("r0"), None, False)
    said = register(project.home, project.log("r2", "other pictures"), None, False)
    assert "The champion, version 1, was tested on another split" in said
    assert aliases(project) == {"candidate": "2", "champion": "1"}


def test_what_has_not_been_evaluated_is_not_registered(project: Project) -> None:
    with pytest.raises(KkaError, match=r"round r1 \(\w+\) has not been evaluated"):
        register(project.home, project.tracker.round("r1"), None, False)
    with pytest.raises(KkaError, match="is not the run of a round.*kka track show"):
        register(project.home, project.tracker.parent, None, False)


def test_a_model_is_logged_once_and_half_of_one_is_removed(project: Project) -> None:
    run, client = project.log("r1"), project.tracker.client
    first = project.model("r1")
    assert project.model("r1") == first
    half = client.create_logged_model(
        project.tracker.experiment,
        name="half",
        source_run_id=project.tracker.round("r2"),
        tags={"dvc.detector": "md5 of r2", "dvc.test": "the test split"},
    )
    project.log("r2")
    known = {m.model_id: m for m in client.search_logged_models([project.tracker.experiment])}
    assert half.model_id not in known and len(known) == 2
    assert known[first].source_run_id == run and known[first].status.value == "READY"


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def load(project: Project, name: str) -> Any:
    place = project.tracker.client.get_logged_model(project.model(name)).artifact_location
    return mlflow.pyfunc.load_model(place)


def test_a_model_takes_bytes_base64_arrays_and_paths_and_tells_what_it_cannot_read(
    project: Project, tmp_path: Path
) -> None:
    project.log("r1")
    model = load(project, "r1")
    pictures = photographs(3, np.random.default_rng(5))
    (tmp_path / "a.png").write_bytes(png(pictures[0]))
    ways = [
        png(pictures[0]),
        base64.b64encode(png(pictures[0])).decode(),
        pictures[0],
        pictures[0].tolist(),
        str(tmp_path / "a.png"),
        "data:image/png;base64," + base64.b64encode(png(pictures[0])).decode(),
    ]
    odd = [b"no picture", "no/path", None, [[1, 300]], pictures[0].astype(float)]
    assert (
        "is no base64. Paths are read with the parameter paths only"
        in model.predict(pd.DataFrame({"image": [str(tmp_path / "a.png")]}))["error"][0]
    )
    path = ways.pop(4)
    by_path = model.predict(pd.DataFrame({"image": [path, "no/path"]}), params={"paths": True})
    found = model.predict(pd.DataFrame({"image": [*ways, *odd]}))
    (score,) = project.detector.score(pictures[:1])
    scorer = Scorer(project.detector, np.sort(project.detector.score(project.calibration)), 32, False)
    scored = found["score"][: len(ways)].tolist()
    assert scored == [scored[0]] * len(ways) and scored[0] == pytest.approx(score, rel=1e-5)  # alone it is rounded else
    assert by_path["score"][0] == float(score) and "No such file" in by_path["error"][1]
    assert found["p_value"][0] == scorer.p_values(np.array([score]))[0]
    assert found["alarm"][: len(ways)].tolist() == [bool(found["p_value"][0] <= 0.05)] * len(ways)
    assert found["score"][len(ways) :].isna().all() and found["error"][: len(ways)].isna().all()
    said = found["error"][len(ways) :].tolist()
    assert (
        [bool(s) for s in said] == [True] * len(odd)
        and "no picture that Pillow knows" in said[0]
        and "is no base64" in said[1]
    )


def test_a_model_needs_nothing_but_its_requirements(project: Project) -> None:
    """In a Python that knows no `kka`: it comes with the model, and so does the list of all that it imports."""
    project.log("r1")
    place = project.tracker.client.get_logged_model(project.model("r1")).artifact_location.removeprefix("file://")
    code = (
        "import sys, importlib.util; sys.path[:] = [p for p in sys.path if p] + sys.argv[2:];"
        "assert importlib.util.find_spec('kka') is None;"
        "import mlflow, pandas, numpy;"
        "model = mlflow.pyfunc.load_model(sys.argv[1]);"
        "print(model.predict(pandas.DataFrame({'image': [numpy.zeros((40, 40, 3), numpy.uint8)]}))['score'][0]);"
        "import kka; print(kka.__file__); print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    # without site, so that no .pth file of an editable install is read
    words = [sys.executable, "-S", "-c", code, place, *site.getsitepackages()]
    done = subprocess.run(words, cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    score, own, *_ = done.stdout.splitlines()
    (wanted,) = project.detector.score(np.zeros((1, 32, 32, 3), np.uint8))
    assert float(score) == float(wanted) and own.startswith(place)
    named = {line.partition("==")[0] for line in Path(place, "requirements.txt").read_text().split()}
    used = {"mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "scipy", "torch", "tqdm"}
    assert named == used
    imported = {n.partition(".")[0] for p in sorted((ROOT / "kka" / "detectors").glob("*.py")) for n in _imports(p)}
    others = imported - set(sys.stdlib_module_names) - {"kka"} - {"PIL", "yaml"} - named
    assert not others  # what a detector's file imports is named


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_rate_of_false_alarms_is_the_callers(project: Project) -> None:
    project.log("r1")
    model, pictures = load(project, "r1"), photographs(20, np.random.default_rng(6))
    table = pd.DataFrame({"image": list(pictures)})
    for fpr in (0.05, 0.5, 1.0):
        found = model.predict(table, params={"fpr": fpr})
        assert (found["alarm"] == (found["p_value"] <= fpr)).all()
    assert found["alarm"].all()


def test_heat_maps_and_a_backbone_of_ones_own_come_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n    conv = torch.nn.Conv2d(3, 8, 3, 2)\n"
        "    class Maps(torch.nn.Module):\n        def __init__(self):\n            super().__init__()\n           "
        " self.conv = conv\n"
        "        def forward(self, x):\n            return [self.conv(x)]\n    return Maps()\n"
    )
    project = Project(tmp_path, "patchcore", backbone="mine.py:make", layers=[0])
    project.log("r1")
    project.model("r1")
    (tmp_path / "mine.py").rename(tmp_path / "gone.py")
    model, picture = load(project, "r1"), photographs(1, np.random.default_rng(5))
    found = model.predict(pd.DataFrame({"image": list(picture)}), params={"maps": True})
    assert found["score"][0] == float(project.detector.score(picture)[0])
    with Image.open(io.BytesIO(base64.b64decode(found["heat_map"][0]))) as heat:
        assert heat.size == (32, 32)
    check_regions(project, model)


def check_regions(project: Project, model: Any) -> None:
    """What a model says of where pictures are anomalous is what `predict` says, and a server can send it."""
    detector: Any = project.detector
    maps = detector.score_map(project.calibration)
    scores = np.sort(detector.score(project.calibration))
    scorer = Scorer(detector, scores, 32, False, float(np.quantile(maps.max((1, 2)), 0.95)))
    large = np.full((64, 96, 3), 128, np.uint8)
    large[20:44, 30:54] = (0, 255, 0)  # stripes, which no normal has
    large[20:44:4, 30:54] = large[21:44:4, 30:54] = (255, 0, 255)
    found = model.predict(pd.DataFrame({"image": [large, png(large), b"no picture"]}), params={"regions": True})
    assert list(found.columns) == ["score", "p_value", "alarm", "error", "regions"]
    map = detector.score_map(prepare([large], 32))[0].astype(np.float32)
    wanted = [dataclasses.asdict(r) for r in scorer.regions(map, (96, 64))]
    assert wanted and [r.pop("score") for r in wanted] == pytest.approx([r["score"] for r in found["regions"][0]])
    boxes = [[{k: v for k, v in r.items() if k != "score"} for r in regions] for regions in found["regions"][:2]]
    assert boxes == [wanted, wanted] and found["regions"][2] is None and "no picture" in found["error"][2]
    sent = io.StringIO()
    predictions_to_json(found, sent)
    assert json.loads(sent.getvalue())["predictions"][0]["regions"] == found["regions"][0]


def test_a_served_champion_says_what_predict_says_and_reads_no_paths(project: Project, tmp_path: Path) -> None:
    """A real server, real requests; without the project's folder in reach."""
    register(project.home, project.log("r1"), None, False)
    pictures = photographs(3, np.random.default_rng(7))
    (tmp_path / "new").mkdir()
    for i, picture in enumerate(pictures):
        (tmp_path / "new" / f"{i}.png").write_bytes(png(picture))
    code = "from kka.project.cli import main; main()"
    told = subprocess.run([sys.executable, "-c", code, "predict", "new", "--round", "r1"], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert told.returncode == 0, told.stderr
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    records = [{"image": base64.b64encode(png(picture)).decode()} for picture in pictures]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (elsewhere := tmp_path / "elsewhere").mkdir()
    words = ["models", "serve", "-m", "models:/kka-blossom@champion", "--env-manager", "local", "-p", str(port)]
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project.home}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            cwd=elsewhere,
            env=os.environ | own,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        answer = _patiently(_request(port, records), server, tmp_path / "server.log")
        paths = [str(tmp_path / "new" / "0.png"), "/etc/hostname", "/no where"]  # a picture, a file, base64
        asked = _request(port, [{"image": path} for path in paths], paths=True)
        refused = _patiently(asked, server, tmp_path / "server.log")["predictions"]
    finally:
        os.killpg(server.pid, 9)
        server.wait()
    assert [f"{r['score']:.6g}" for r in answer["predictions"]] == [r["score"] for r in rows]
    assert [f"{r['p_value']:.4f}" for r in answer["predictions"]] == [r["p_value"] for r in rows]
    assert [int(r["alarm"]) for r in answer["predictions"]] == [int(r["alarm"]) for r in rows]
    assert [r["score"] for r in refused] == [None] * 3
    errors = [r["error"] for r in refused]
    assert "never by a server" in errors[0] and "never by a server" in errors[1] and "no picture" in errors[2]


def _request(port: int, records: list[dict[str, str]], **params: Any) -> urllib.request.Request:
    body = json.dumps({"dataframe_records": records, "params": params}).encode()
    return urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})


def _patiently(request: urllib.request.Request, server: "subprocess.Popen[bytes]", log: Path) -> Any:
    """The answer, as soon as the server has come up."""
    until = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(request) as response:
                return json.loads(response.read())
        except OSError:
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.3)
