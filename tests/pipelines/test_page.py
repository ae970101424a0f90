"""The report as a page: whole, inert, the same each time, and small."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from kka import detectors
from kka.images import write_images
from kka.records import Anomaly, Description, read_json, read_records, sha256, write_json, write_records
from pipelines import report
from pipelines.reporting.page import verdict
from pipelines.reporting.pictures import strips
from pipelines.stage import Run
from tests.pipelines.test_tables import ROWS

HOSTILE = '<script>alert(1)</script>&"'


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


class Judge:
    """A detector that needs no fit: it scores by brightness and shows where it is bright."""

    def score(self, images: Any) -> Any:
        return images.mean((1, 2, 3)) / 255

    def score_map(self, images: Any) -> Any:
        return images.mean(3) / 255


def reported(run: Run) -> str:
    report.main(run)
    return run.root.joinpath("report", "report.html").read_text()


def test_a_page_shows_everything_and_asks_for_nothing(copy: Run) -> None:
    page = reported(copy)
    elements = Elements(page).found
    assert "r0" in page and "Round r1" in page and "<svg" in page and "describe.guard.normal_quantile" in page
    assert "script" not in {tag for tag, _ in elements} and not re.search(
        r"https?://|url\(|@import|//[a-z]+\.", page.replace("data:image", "")
    )
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        link = attributes.get("src") or attributes.get("href") or ""
        assert link.startswith(("data:", "#")) if tag in ("img", "a", "link") else not link
    anchors = {attributes["id"] for _, attributes in elements if "id" in attributes}
    assert {str(a["href"])[1:] for tag, a in elements if tag == "a"} <= anchors
    assert all(a.get("alt") for tag, a in elements if tag == "img")
    assert all(a.get("aria-label") for tag, a in elements if tag == "svg")
    assert str(copy.root) not in page and len(page) < 5e6


def test_files_stand_beside_the_page(copy: Run) -> None:
    reported(copy)
    names = {p.name for p in copy.root.joinpath("report").iterdir()}
    assert names == {
        "report.html",
        "report.md",
        "table.md",
        "r1.png",
        *(f"{r}-{c}.svg" for r in ("r0", "r1") for c in ("roc", "scores")),
    }
    assert set(read_json(copy.root.joinpath("metrics", "summary.json"))) >= {"auroc", "auroc_r0", "gained", "images"}


def test_the_same_results_give_the_same_page(copy: Run) -> None:
    one = reported(copy)
    before = {p.name: p.read_bytes() for p in copy.root.joinpath("report").iterdir()}
    assert reported(copy) == one and {p.name: p.read_bytes() for p in copy.root.joinpath("report").iterdir()} == before


def test_a_hostile_caption_is_text_wherever_it_stands(copy: Run) -> None:
    run = copy
    for name, kind in (("pool", Anomaly), ("descriptions", Description)):
        path = run.root.joinpath("data", "r1", f"{name}.jsonl")
        write_records(
            path,
            [
                replace(r, text=HOSTILE, **({"outcome": "normal"} if name == "descriptions" else {}))
                for r in read_records(path, kind)
            ],
        )
    captions = run.root.joinpath("data", "r1", "controls", "captions.json")
    write_json(captions, [HOSTILE] * len(read_json(captions)))
    mistakes = run.root.joinpath("data", "r1", "mistakes", "mistakes.jsonl")
    mistakes.write_text(mistakes.read_text().replace("normal", "<script>alert(1)</script>&"))
    for name in ("r0", "r1"):
        figures = read_json(run.root.joinpath("metrics", name, "evaluate.json"))
        groups = {g.replace("distance 1", HOSTILE): v for g, v in figures["groups"].items()}
        write_json(
            run.root.joinpath("metrics", name, "evaluate.json"), figures | {"groups": groups, "hardest_group": HOSTILE}
        )
    page = reported(run)
    assert "script" not in {tag for tag, _ in Elements(page).found} and "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;") > 20
    assert "<script" not in run.root.joinpath("report", "report.md").read_text().split("## Round")[1]


def test_without_real_anomalies_the_page_says_so(copy: Run) -> None:
    run = copy
    for name in ("r0", "r1"):
        path = run.root.joinpath("metrics", name, "evaluate.json")
        write_json(
            path,
            {k: v for k, v in read_json(path).items() if k in ("threshold", "false_positive_rate", "controls_auroc")}
            | {"groups": {}},
        )
        lines = run.root.joinpath("data", name, "scores.csv").read_text().splitlines(keepends=True)
        run.root.joinpath("data", name, "scores.csv").write_text("".join(line for line in lines if ",1," not in line))
    mistakes = run.root.joinpath("data", "r1", "mistakes", "mistakes.jsonl")
    mistakes.write_text(
        "".join(line for line in mistakes.read_text().splitlines(keepends=True) if '"label": 0' in line)
    )
    page = reported(run)
    assert "holds no real anomalies, so nobody can tell how many are found; after one round" in page
    assert "AUROC by round" not in page and 'id="roc"' not in page and "score lowest" not in page
    assert (
        not list(run.root.joinpath("report").glob("*-roc.svg"))
        and len(list(run.root.joinpath("report").glob("*-scores.svg"))) == 2
    )
    assert set(read_json(run.root.joinpath("metrics", "summary.json"))) == {"false_alarms", "hard_rate_r0", "images"}


def test_the_verdict_is_one_sentence_whatever_happened() -> None:
    assert verdict(ROWS) == (
        "In one round the AUROC went from 0.875 (0.500–0.900) to 0.938 (0.500–0.900),"
        " and that of near, the hardest group, from 0.750 to 0.875."
    )


def test_what_is_refused_is_said_with_its_duplicates(copy: Run) -> None:
    path = copy.root.joinpath("data", "r1", "descriptions.jsonl")
    write_records(path, [*read_records(path, Description), Description("99999", "said before", "duplicate", 0.0, 0.0)])
    assert (
        "said before" in reported(copy)
        and "- duplicate: said before" in copy.root.joinpath("report", "report.md").read_text()
    )


def test_where_none_is_hard_the_nearest_are_shown_under_a_title_that_says_so(copy: Run) -> None:
    pool = read_records(copy.root.joinpath("data", "r1", "pool.jsonl"), Anomaly)
    easy = [replace(a, grade="easy") for a in pool]
    row, *_ = strips(copy.layout, "r1", easy, detectors.load(copy.files.detector))
    assert row.title == "none is hard; the lowest scores"
    assert row.captions[0] == min(pool, key=lambda a: a.score).text


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (224, "webp")])
def test_pictures_of_any_size_stay_small(
    copy: Run, monkeypatch: pytest.MonkeyPatch, anomaly: Callable[..., Anomaly], side: int, kind: str
) -> None:
    """Soft patterns with some noise, as photographs are; heat maps beneath all of them."""
    run, rng = copy, np.random.default_rng(0)
    soft = np.kron(rng.integers(0, 230, (24, 8, 8, 3)), np.ones((1, side // 8, side // 8, 1))) + rng.integers(
        0, 25, (24, side, side, 3)
    )
    images = soft.astype(np.uint8)
    grades = ("hard", "easy", "easy")
    pool = [
        anomaly(f"r1-{i:05d}", row=i, text=f"{i}", grade=grades[i % 3], sha256=sha256(images[i])) for i in range(24)
    ]
    write_records(run.root.joinpath("data", "r1", "pool.jsonl"), pool)
    for part in ("anomalies", "controls", "mistakes"):
        shutil.rmtree(run.root.joinpath("data", "r1", part, "images-00000.parquet"), ignore_errors=True)
        write_images(run.root.joinpath("data", "r1", part), images[: {"mistakes": 16, "controls": 8}.get(part, 24)])
    monkeypatch.setattr(detectors, "load", lambda folder: Judge())
    page = reported(run)
    sources = [str(a["src"]) for tag, a in Elements(page).found if tag == "img"]
    assert all(s.startswith(f"data:image/{kind};base64,") for s in sources) and len(sources) >= 2 * (8 + 8 + 8 + 16)
    assert "what is anomalous in the picture above" in page
    assert len(page) * 3 < 5e6 if kind == "webp" else len(page) < 5e6
