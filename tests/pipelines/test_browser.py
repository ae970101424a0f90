"""The report in a browser, on a phone and on a desk, by day and by night; and MLflow's own pages, from a server."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.stubs import Project, copied
from tests.pipelines.test_dvc import check_runs, told

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the browser is driven by playwright: pip install -e '.[dev]'"
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (program := shutil.which("chromium")):
        pytest.skip("there is no chromium to open the report with")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=QUIET)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(375, 800), (1280, 900)])
def test_the_report_opens_whole_and_in_order(
    finished: tuple[Path, list[str]], browser: Any, width: int, height: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    page.goto((finished[0] / "report" / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert wrong == []
    assert page.evaluate("document.images.length > 20 && [...document.images].every(i => i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    page.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a tracking server of MLflow."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    place = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]
    words = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *place,
        "--host",
        "127.0.0.1",
        "--port",
        url.rpartition(":")[2],
        "--workers",
        "1",
    ]
    with (tmp_path / "server.log").open("w") as log:
        running = subprocess.Popen(
            words, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except OSError:
                assert running.poll() is None and time.monotonic() < until, (tmp_path / "server.log").read_text()[
                    -3000:
                ]
                time.sleep(0.3)
        yield url
    finally:
        os.killpg(running.pid, 9)
        running.wait()


def test_a_server_shows_parent_rounds_curves_and_artifacts(
    stubbed: Project, tmp_path: Path, server: str, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    project = copied(stubbed, tmp_path / "project")
    runs = project.runs()
    check_runs(runs, ["r1", "r2"])
    assert told(project.runs()) == told(runs) and not (project.folder / "mlruns" / "mlflow.db").exists()
    (parent,) = [run for run in runs if not run["parent"]]
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    experiment = f"{server}/#/experiments/{parent['experiment']}"
    page.goto(f"{experiment}/runs?workflowType=machine_learning")
    page.get_by_role("link", name=parent["name"]).first.wait_for(timeout=60_000)
    page.goto(f"{experiment}/runs/{parent['id']}")
    for name in ("r0", "r1", "r2"):
        page.get_by_role("link", name=name, exact=True).first.wait_for(timeout=30_000)
    page.goto(f"{experiment}/runs/{parent['id']}/model-metrics")
    page.get_by_text("auroc", exact=True).first.wait_for(timeout=30_000)
    page.locator(".js-plotly-plot").first.wait_for(timeout=30_000)
    ticks = "[...document.querySelectorAll('.js-plotly-plot')][0].data[0].x"
    page.wait_for_function(f"{ticks}.length == 3", timeout=30_000)
    assert json.loads(page.evaluate(f"JSON.stringify([...{ticks}])")) == [0, 1, 2]
    page.goto(f"{experiment}/runs/{parent['id']}/artifacts")
    page.get_by_text("report.html").first.wait_for(timeout=30_000)
    assert broken == []
    page.close()
