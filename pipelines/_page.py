"""report.html: the comparison of rounds as one file, with all its pictures in it and no scripts."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import kka
from kka.detectors import Images
from kka.records import sha256_of
from pipelines._charts import Line, histogram, line_chart
from pipelines._sheets import Row, refused
from pipelines._stage import Run
from pipelines._tables import LEGEND, cells, group_cells, hardest_group, warning
from pipelines._tables import Row as Figures
from pipelines._tested import Mistake, read_mistakes

_SMALL, _LARGEST = 64, 160  # sides in pixels: pictures up to the first are shown enlarged, larger ones than the second are reduced


def render(run: Run, rows: Sequence[Figures], strips: Mapping[str, Sequence[Row]]) -> str:
    """The page of all rounds, first r0; `strips` are the rows of pictures of each round after it."""
    config, last = run.config, rows[-1]
    names = [row["round"] for row in rows]
    told = {name: read_scores(run.path("data", name, "scores.csv")) for name in names}
    mistakes, wrong = read_mistakes(run, last["round"])
    about = {
        "title": f"{config.prepare.dataset}, {config.detect.detector}",
        "verdict": verdict(rows),
        "warning": warning(rows).strip("*").replace("**", ""),
        "table": [cells(row, hardest_group(rows[0]), f"AUROC ({config.evaluate.interval:.0%})") for row in rows],
        "legend": [line.removeprefix("- ").replace("\n  ", " ") for line in LEGEND.replace("\n  ", " ").splitlines()],
        "curves": curves(rows),
        "groups": group_cells(rows),
        "rounds": [_round(run, row, strips[row["round"]], told[row["round"]]) for row in rows if row["round"] in strips],
        "first": scores_chart("r0", told["r0"], rows[0]["evaluate"]["threshold"]),
        "roc": roc_chart(run, names),
        "mistakes": _mistakes(mistakes, wrong),
        "threshold": last["evaluate"]["threshold"],
        "last": last["round"],
        "parameters": parameters(run),
        "provenance": provenance(run),
        "pixels": max(row.images.shape[1] for row in next(iter(strips.values()))) <= _SMALL,
    }
    loader = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return loader.get_template("_page.html").render(about)


def verdict(rows: Sequence[Figures]) -> str:
    """What came of it, in a sentence."""
    first, last, images = rows[0]["evaluate"], rows[-1]["evaluate"], rows[-1]["detect"].get("images", 0)
    if "auroc" not in last:
        return (
            f"{len(rows) - 1} rounds, {images} generated anomalies. No real anomalies are known, so nobody can tell how many of them"
            f" the detector finds; {last['false_positive_rate']:.1%} of the normal test pictures give a false alarm."
        )
    interval = f" ({last['auroc_low']:.3f} to {last['auroc_high']:.3f})" if "auroc_low" in last else ""
    return (
        f"AUROC {first['auroc']:.3f} with normal pictures alone, {last['auroc']:.3f}{interval} after {len(rows) - 1} rounds with {images}"
        " generated anomalies."
    )


def curves(rows: Sequence[Figures]) -> list[str]:
    """Charts over the rounds: AUROC, and what the language model wrote."""
    names = [row["round"] for row in rows]
    made = []
    if all("auroc" in row["evaluate"] for row in rows):
        test, group = [row["evaluate"] for row in rows], hardest_group(rows[0])
        band = [(i, t["auroc_low"], t["auroc_high"]) for i, t in enumerate(test) if "auroc_low" in t]
        lines = [Line("all anomalies", [(i, t["auroc"]) for i, t in enumerate(test)], band)]
        lines += [Line(group, [(i, t["groups"][group]) for i, t in enumerate(test)])] if group else []
        made.append(line_chart("AUROC by round", lines, "round", "AUROC", names=names))
    wrote = {"hard r0": ("assess", "hard_rate_r0"), "hard now": ("assess", "hard_rate"), "distinct": ("describe", "distinct"),
             "readable": ("describe", "readable")}  # fmt: skip
    after = [Line(title, [(i, row[s][k]) for i, row in enumerate(rows) if k in row[s]]) for title, (s, k) in wrote.items()]
    made.append(line_chart("Hard, distinct and readable by round", [a for a in after if a.points], "round", "share", names=names, y=(0, 1)))
    return made


def roc_chart(run: Run, names: Sequence[str]) -> str:
    """The ROC curves of these rounds; nothing where no anomalies are known."""
    lines = []
    for name in names:
        with run.path("plots", name, "roc.csv").open(encoding="utf-8", newline="") as table:
            lines.append(Line(name, [(float(r["fpr"]), float(r["tpr"])) for r in csv.DictReader(table)]))
    return line_chart("ROC", lines, "false positive rate", "true positive rate", y=(0, 1), dots=False) if lines[0].points else ""


Scores = list[tuple[str, int, float]]  # split, label, score


def read_scores(path: Path) -> Scores:
    """What `_tested.py` wrote."""
    with path.open(encoding="utf-8", newline="") as table:
        return [(r["split"], int(r["label"]), float(r["score"])) for r in csv.DictReader(table)]


def scores_chart(name: str, scores: Scores, threshold: float) -> str:
    """How a round's detector scores the test split."""
    groups = {title: [s for split, label, s in scores if (split, label) == ("test", y)] for y, title in enumerate(("normal", "anomalous"))}
    known = {title: values for title, values in groups.items() if values}
    return histogram(f"Scores of {name} on the test split", known, "score", f"share, {name}", (threshold, "threshold"))


def _round(run: Run, row: Figures, strips: Sequence[Row], scores: Scores) -> dict[str, Any]:
    name = row["round"]
    return {
        "name": name,
        "strips": [{"title": r.title, "cells": _cells(r)} for r in strips],
        "refused": refused(run, name),
        "chart": scores_chart(name, scores, row["evaluate"]["threshold"]),
    }


def _cells(row: Row) -> list[dict[str, str]]:
    maps = [""] * len(row.images) if row.maps is None else [uri(image) for image in row.maps]
    return [{"src": uri(i), "map": m, "note": note} for i, m, note in zip(row.images, maps, row.notes, strict=True)]


def _mistakes(found: Sequence[Mistake], images: Images) -> list[dict[str, Any]]:
    kinds = {"Normals that look most anomalous": 0, "Anomalies that look most normal": 1}
    cells = [
        [{"src": uri(i), "note": f"{m.score:.3f} {m.group}: {m.caption.splitlines()[0] if m.caption else ''}"}
         for m, i in zip(found, images, strict=True) if m.label == label]
        for label in kinds.values()
    ]  # fmt: skip
    return [{"title": title, "cells": c} for title, c in zip(kinds, cells, strict=True) if c]


def uri(image: Images) -> str:
    """A picture (h, w, 3) as a data URI: lossless where it is small, reduced where it is large."""
    small, buffer = max(image.shape[:2]) <= _SMALL, io.BytesIO()
    picture = Image.fromarray(image)
    picture.thumbnail((_LARGEST, _LARGEST))
    picture.save(buffer, "PNG", optimize=True) if small else picture.save(buffer, "WEBP", quality=82)
    return f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def parameters(run: Run) -> dict[str, dict[str, Any]]:
    """All parameters that results depend on, by section."""
    config = run.config
    sections = (config.prepare, config.describe, config.synthesize, config.assess, config.detect, config.align, config.evaluate)
    named = {type(s).__name__.lower(): dict(_leaves(s.model_dump(mode="json"))) for s in sections}
    return {"": {"seed": config.seed}} | named


def _leaves(values: Mapping[str, Any], head: str = "") -> list[tuple[str, Any]]:
    return [
        leaf
        for key, value in values.items()
        for leaf in (_leaves(value, f"{head}{key}.") if isinstance(value, Mapping) and value else [(head + key, value)])
    ]


def provenance(run: Run) -> dict[str, str]:
    """What the page was made from, so that the same parameters on the same installation give the same bytes."""
    files = {"pool": ("pool.jsonl",), "detector": ("detector", "weights.safetensors"), "scores": ("scores.csv",)}
    hashes = {f"data/{run.round}/{'/'.join(p)}": sha256_of(run.path("data", run.round, *p))[:16] for p in files.values()}
    return hashes | {"kka": kka.__version__} | {name: version(name) for name in ("torch", "transformers", "diffusers", "trl", "peft")}
