"""The rounds side by side: a row of figures each, as CSV for plots and as a Markdown table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from kka.evaluation import EXPECTED_FALSE_ALARMS
from kka.metrics import Comparison, auroc, compare_scores
from kka.project.config import Config
from pipelines.layout import BASELINE, Layout

Figures = dict[str, Any]  # of a round by stage and name, as `Layout.read_figures` gives them


def hardest_group(first: Figures) -> str | None:
    """The group of anomalies that round zero finds hardest on the validation split: it is followed over the rounds.
    Where the test split holds none of that group, its own hardest one; None where no anomalies are known."""
    groups: dict[str, float] = first["evaluate"]["groups"]
    hardest = first["evaluate"].get("hardest_group")
    return hardest if hardest in groups else next(iter(_hardest_first(groups)), None)


def _hardest_first(groups: Mapping[str, float]) -> list[str]:
    return sorted(groups, key=lambda g: (groups[g], g))


LEGEND = {
    "images": "generated anomalies that the detector trained on",
    "hard share": "how many of them were hard, and how many were wanted",
    "AUROC": "on the test split: the mean over the fits of the detector (detect.seeds) with their deviation, and in"
    " brackets the interval that the number of test pictures leaves. The second one is that of one group of anomalies,"
    " the hardest of round zero on the validation split",
    "FPR95": "the share of false alarms where 95% of the anomalies are found",
    "AUPRO": "how much of each marked region the maps find, averaged over false positive rates of pixels up to 0.3"
    " (where the data set has masks)",
    "false alarms": f"normal test pictures above the threshold; {EXPECTED_FALSE_ALARMS:.0%} are expected",
    "readable, distinct": "shares of what the language model wrote",
    "refused": "normal look-alikes + unreadable ones + duplicates",
    "hard now, hard r0": "the share of new anomalies that the detector of the round before, or of round zero, takes for"
    " normal",
    "hopeless": "the share of new anomalies that a detector does not find either which has learnt from the others, or"
    " that changed nothing to be seen (where assess asks for it)",
    "gap": "AUROC of telling generated normals from real ones, 0.5 is best",
    "distance": "of the descriptions from the normal class",
}
UNKNOWN = "The data set holds no real anomalies, so nobody can tell how many the detector finds. A few dozen would do."


def rounds_table(rows: Sequence[Figures], level: float) -> list[dict[str, str]]:
    """The comparison of rounds: cells by column, a row a round. What a round does not have is a dash."""
    group, asked = hardest_group(rows[0]), any("hopeless_rate" in row["assess"] for row in rows)
    return [_cells(row, group, f"AUROC ({level:.0%})", asked) for row in rows]


def _cells(figures: Figures, group: str | None, auroc: str, asked: bool) -> dict[str, str]:
    describe, assess, detect, evaluate = (figures[s] for s in ("describe", "assess", "detect", "evaluate"))
    return {
        "round": figures["round"],
        "images": str(detect.get("images", 0)),
        "hard share": _fill("{hard_proportion:.2f} of {hard_proportion_wanted:.2f}", detect),
        **({} if group is None else _detection(evaluate, group, auroc)),
        "false alarms": _fill("{false_positive_rate:.1%}", evaluate),
        "readable": _fill("{readable:.0%}", describe),
        "distinct": _fill("{distinct:.0%}", describe),
        "refused": _fill("{normal}+{unreadable}+{duplicate}", describe),
        "hard now": _fill("{hard_rate:.2f}", assess),
        "hard r0": _fill("{hard_rate_r0:.2f}", assess),
        **({"hopeless": _fill("{hopeless_rate:.2f}", assess)} if asked else {}),
        "gap": _fill("{controls_auroc:.3f}", evaluate),
        "distance": _fill("{mean_distance:.2f}", evaluate),
    }


def drawing(figures: Figures) -> str:
    """A sentence on the pictures of a round that were drawn on normal ones and show no defect; nothing where none
    were drawn so."""
    counts = figures.get("synthesize", {})
    if "unreadable" not in counts:
        return ""
    unknown = f" Unknown kinds: {', '.join(counts['unknown_kinds'])}." if counts["unknown_kinds"] else ""
    return (
        f" Of their descriptions {counts['unreadable']} name no kind of defect that the vocabulary knows, and"
        f" {counts['unchanged']} left their picture as it was.{unknown}"
    )


def _detection(test: Mapping[str, Any], group: str, auroc: str) -> dict[str, str]:
    """What only known anomalies can tell."""
    return {
        auroc: _fill("{auroc:.3f}", test)
        + _fill(" ±{auroc_std:.3f}", test, "")
        + _fill(" ({auroc_low:.3f}-{auroc_high:.3f})", test, ""),
        f"AUROC {group}": f"{test['groups'][group]:.3f}",
        "FPR95": _fill("{fpr95:.3f}", test),
        **({"AUPRO": _fill("{aupro:.3f}", test)} if "aupro" in test else {}),
    }


def gain(layout: Layout, config: Config, seed: int) -> Comparison | None:
    """The last round's detector beside that of round zero, their first fits on the same test pictures; None where no
    anomalies are known, or no resamples are asked for."""
    first, last = layout.round(BASELINE).read_scores(), layout.round(config.last).read_scores()
    section = config.evaluate
    if not last.labels.any() or not section.bootstrap:
        return None
    return compare_scores(
        auroc,
        last.values,
        first.values,
        last.labels,
        samples=section.bootstrap,
        level=section.interval,
        seed=seed,
    )


def warning(comparison: Comparison | None) -> str:
    """A sentence where the last round finds fewer anomalies than round zero for sure; else nothing."""
    if comparison is None or not comparison.worse:
        return ""
    return (
        f"The last round is worse than round zero: its AUROC differs by {comparison}. Look at the pictures: do they"
        " show"
        " what their descriptions say, and could they be of your world? Where gap is far from 0.5 the detector has"
        " learnt what is generated."
    )


def groups_table(rows: Sequence[Figures], most: int = 12) -> list[dict[str, str]]:
    """The AUROC of each group of anomalies against all normals, a column a round; the `most` hardest of round zero.
    Nothing where no anomalies are known."""
    hardest = _hardest_first(rows[0]["evaluate"]["groups"])[:most]
    return [{"group": g} | {row["round"]: f"{row['evaluate']['groups'][g]:.3f}" for row in rows} for g in hardest]


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too. Cells may hold names that somebody made up."""
    lines = [
        [c.replace("|", "/").replace("<", "&lt;") for c in line] for line in (rows[0], *(row.values() for row in rows))
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _fill(pattern: str, values: Mapping[str, Any], otherwise: str = "-") -> str:
    """The pattern filled in; `otherwise` where a value is missing."""
    try:
        return pattern.format(**values)
    except KeyError:
        return otherwise


def curves(rows: Sequence[Figures]) -> tuple[list[str], list[Figures]]:
    """Columns and rows of the figures over the rounds, for plots."""
    group = hardest_group(rows[0])
    columns = [
        "round",
        "images",
        "auroc",
        "auroc_std",
        "auroc_low",
        "auroc_high",
        "auroc_hardest_group",
        "average_precision",
        "fpr95",
    ]
    points = []
    for row in rows:
        test = row["evaluate"]
        known = {c: test[c] for c in columns if c in test} | (
            {} if group is None else {"auroc_hardest_group": test["groups"][group]}
        )
        points.append({"round": row["round"], "images": row["detect"].get("images", 0), **known})
    return columns, points


def summary(rows: Sequence[Figures]) -> dict[str, float]:
    """What an experiment comes to, in few figures of the last round; those that take real anomalies only where they are
    known."""
    first, last, group = rows[0]["evaluate"], rows[-1]["evaluate"], hardest_group(rows[0])
    known = {} if group is None else {
        "auroc": last["auroc"],
        "auroc_r0": first["auroc"],
        "gained": last["auroc"] - first["auroc"],
        "auroc_hardest": last["groups"][group],
        "fpr95": last["fpr95"],
    }  # fmt: skip
    figures = {**known, "false_alarms": last["false_positive_rate"], "hard_rate_r0": rows[-1]["assess"]["hard_rate_r0"]}
    return {key: round(value, 4) for key, value in figures.items()} | {"images": rows[-1]["detect"]["images"]}
