"""The report as one page of HTML that stands alone: tables, charts, pictures. What texts say is escaped by the
template. And the same as Markdown, for who reads it in a terminal or beside its contact sheets."""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from kka import __version__, charts, evaluation
from kka.detectors import Detector
from kka.drawing import silhouettes
from kka.metrics import Comparison
from kka.project.config import flatten
from pipelines.layout import Scores
from pipelines.reporting import tables
from pipelines.reporting.pictures import EXAMPLES, Strip, refused, with_maps
from pipelines.stage import Run

# sides in pixels: up to the first a picture stays as it is, and none is shown larger than the second
SMALL, MOST = 64, 160


def page(
    run: Run,
    rows: Sequence[tables.Figures],
    strips: Mapping[str, Sequence[Strip]],
    detector: Detector,
    comparison: Comparison | None = None,
) -> str:
    """The page of the rounds: their figures, strips of pictures of each but round zero, and how the last compares with
    round zero."""
    scores = {row["round"]: run.layout.round(row["round"]).read_scores() for row in rows}
    config, last = run.config, rows[-1]
    sections = config.model_dump(mode="json", exclude={"rounds", "last", "tune"})
    known = scores[run.round].labels.any()
    return _template().render(
        light=charts.LIGHT,
        dark=charts.DARK,
        data_set=config.prepare.dataset,
        detector=config.detect.detector,
        verdict=verdict(rows, comparison),
        warning=tables.warning(comparison),
        legend=tables.LEGEND,
        unknown=tables.UNKNOWN,
        table_of_rounds=tables.rounds_table(rows, config.evaluate.interval),
        groups=tables.groups_table(rows),
        curves=[Markup(chart) for chart in _curves(rows)],
        rounds=[_round(run, row, scores[row["round"]], strips.get(row["round"], ())) for row in rows],
        most_refused=EXAMPLES,
        roc=Markup(charts.roc("ROC of all rounds", {name: _roc(s) for name, s in scores.items()})) if known else "",
        last=run.round,
        about_mistakes=_about_mistakes(scores[run.round], last["evaluate"]["threshold"]),
        mistakes=[_strip(strip) for strip in _mistakes(run, detector)],
        provenance=_provenance(run),
        parameters={
            name: [(path, _text(leaf)) for path, leaf in flatten({name: value})] for name, value in sections.items()
        },
    )


def round_charts(run: Run, row: tables.Figures) -> dict[str, str]:
    """The charts of one round by the names of their files: its scores, and its ROC where anomalies are known."""
    name, scores = row["round"], run.layout.round(row["round"]).read_scores()
    drawn = {f"{name}-scores": _histogram(row, scores)}
    if scores.labels.any():
        drawn[f"{name}-roc"] = charts.roc(f"ROC of {name}", {name: _roc(scores)})
    return drawn


def verdict(rows: Sequence[tables.Figures], comparison: Comparison | None = None) -> str:
    """What the rounds have come to, in a sentence or two."""
    first, last, group = rows[0]["evaluate"], rows[-1]["evaluate"], tables.hardest_group(rows[0])
    rounds = "one round" if len(rows) == 2 else f"{len(rows) - 1} rounds"
    if group is None:
        return (
            f"The data set holds no real anomalies, so nobody can tell how many are found; after {rounds}"
            f" {last['false_positive_rate']:.1%} of the normal test pictures raise a false alarm, where"
            f" {evaluation.EXPECTED_FALSE_ALARMS:.0%} are expected."
        )
    ends = " to ".join(f"{test['auroc']:.3f}{_interval(test)}" for test in (first, last))
    of_group = f"{first['groups'][group]:.3f} to {last['groups'][group]:.3f}"
    course = f"In {rounds} the AUROC went from {ends}, and that of {group}, the hardest group, from {of_group}."
    sure = "" if comparison is None else f" On the same test pictures the first fit's AUROC changed by {comparison}."
    return course + sure


def _interval(test: Mapping[str, Any]) -> str:
    return f" ({test['auroc_low']:.3f}–{test['auroc_high']:.3f})" if "auroc_low" in test else ""


def _curves(rows: Sequence[tables.Figures]) -> Iterator[str]:
    group = tables.hardest_group(rows[0])
    if group is not None:
        tests = [row["evaluate"] for row in rows]
        band = [(t["auroc_low"], t["auroc_high"]) for t in tests if "auroc_low" in t]
        hardest = [t["groups"][group] for t in tests]
        yield charts.auroc_by_round([row["round"] for row in rows], [t["auroc"] for t in tests], band, group, hardest)
    later = rows[1:]
    shares = {
        "hard for r0": [row["assess"]["hard_rate_r0"] for row in later],
        "readable": [row["describe"]["readable"] for row in later],
        "distinct": [row["describe"]["distinct"] for row in later],
    }
    yield charts.shares_by_round([row["round"] for row in later], shares)


def _round(run: Run, row: tables.Figures, scores: Scores, strips: Sequence[Strip]) -> dict[str, Any]:
    name, describe, assess, detect = (row[key] for key in ("round", "describe", "assess", "detect"))
    about = "The baseline: a detector that was trained without generated anomalies."
    if strips:
        about = (
            f"{describe['kept']} of {describe['attempts']} descriptions were kept and drawn. The detector of the round"
            f" before took {assess['hard']} of the pictures for normal{_hopeless(assess)} The new detector was trained"
            f" on {detect['images']} generated ones.{tables.drawing(row)}"
        )
    return {
        "name": name,
        "anchor": f"round-{name}",
        "about": about,
        "strips": [_strip(strip) for strip in strips],
        "refused": refused(run.layout.round(name)) if strips else {},
        "histogram": Markup(_histogram(row, scores)),
    }


def _hopeless(assess: Mapping[str, Any]) -> str:
    """What the pictures that were taken for normal are, and how many were hopeless where somebody asked."""
    if "hopeless" not in assess:
        return ": they are hard."
    unseen = f", {assess['without_effect']} of them without effect" if "without_effect" in assess else ""
    return f" that can be found: they are hard. {assess['hopeless']} were hopeless{unseen}."


def _histogram(row: tables.Figures, scores: Scores) -> str:
    return charts.histogram(f"Scores of {row['round']}", scores.normals, scores.anomalies, row["evaluate"]["threshold"])


def _roc(scores: Scores) -> list[charts.Point]:
    return [(p["fpr"], p["tpr"]) for p in evaluation.roc_points(scores.values, scores.labels)]


def _about_mistakes(scores: Scores, threshold: float) -> str:
    alarms, missed = int((scores.normals > threshold).sum()), int((scores.anomalies <= threshold).sum())
    others = f", and {missed} of {len(scores.anomalies)} anomalies lie below it" if len(scores.anomalies) else ""
    return (
        f"By the detector's first fit, {alarms} of {len(scores.normals)} normal pictures lie above the threshold,"
        f" {threshold:.3f}{others}."
    )


def _mistakes(run: Run, detector: Detector) -> list[Strip]:
    mistakes, images = run.files.read_mistakes()
    masks = run.files.read_masks_of_mistakes()
    titles = {0: "normals that score highest", 1: "anomalies that score lowest"}
    strips = []
    for label, title in titles.items():
        places = [i for i, mistake in enumerate(mistakes) if mistake.label == label]
        if places:
            captions = [mistakes[i].caption.split("\n")[0] for i in places]
            notes = [f"{mistakes[i].score:.3f} {mistakes[i].group}" for i in places]
            shown = None if masks is None else silhouettes(masks[places])
            strips.append(Strip(title, images[places], captions, notes, masks=shown))
    return with_maps(strips, detector)


def _strip(strip: Strip) -> dict[str, Any]:
    rows = (strip.before, strip.images, strip.masks, strip.maps)
    columns = [[""] * len(strip.images) if row is None else [_uri(picture) for picture in row] for row in rows]
    kind = "small" if max(strip.images.shape[1:3]) <= SMALL else ""
    names = ("before", "source", "mask", "map", "caption", "note")
    pictures = zip(*columns, strip.captions, strip.notes, strict=True)
    return {"title": strip.title, "kind": kind, "pictures": [dict(zip(names, p, strict=True)) for p in pictures]}


def _uri(image: NDArray[np.uint8]) -> str:
    """The picture within the page: small ones as they are, large ones made smaller and at a loss."""
    picture, out = Image.fromarray(image), io.BytesIO()
    kind = "png" if max(picture.size) <= SMALL else "webp"
    picture.thumbnail((MOST, MOST))
    picture.save(out, format=kind, **({"optimize": True} if kind == "png" else {"quality": 75}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _provenance(run: Run) -> dict[str, str]:
    files = [run.files.pool, *sorted(p for p in run.files.detector.iterdir() if p.is_file())]
    hashes = {
        p.relative_to(run.root).as_posix(): f"sha256 {hashlib.sha256(p.read_bytes()).hexdigest()[:16]}" for p in files
    }
    return {"data set": run.config.prepare.dataset, **hashes, "kka": __version__, "torch": version("torch")}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _template() -> Template:
    folder = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=folder, autoescape=True, undefined=StrictUndefined).get_template("report.html.j2")


def as_markdown(run: Run, rows: Sequence[tables.Figures], table: str, warning: str) -> str:
    """The whole report in Markdown; `table` is that of the rounds."""
    groups = tables.groups_table(rows)
    legend = "\n".join(f"- {name}: {meaning}" for name, meaning in tables.LEGEND.items())
    parts = ["# The rounds", warning, table, legend]
    parts += ["## AUROC by group of anomalies", tables.markdown(groups) if groups else tables.UNKNOWN]
    for name in (row["round"] for row in rows[1:]):
        refusals = _refusals(refused(run.layout.round(name)))
        sheet = f"![hard, easy and rejected anomalies]({name}.png)"
        parts += [f"## Round {name}", sheet, "Refused by the guard:", refusals]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _refusals(texts: Mapping[str, list[str]]) -> str:
    examples = [(outcome, text) for outcome, lines in texts.items() for text in lines[:EXAMPLES]]
    return "\n".join(f"- {outcome}: {escape(text) or '(nothing)'}" for outcome, text in examples) or "- nothing"
