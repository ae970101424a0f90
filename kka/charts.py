"""Charts as SVG text. Pure: the same figures give the same text. Colours are CSS variables of the page that a chart
stands in; `standalone` makes a picture of its own of it, black on white."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1d2127",
    "muted": "#5c6570",
    "rule": "#dfe2e6",
    "first": "#1f5fbf",
    "second": "#b8480b",
    "third": "#0b7a6b",
}
DARK = {
    "paper": "#14171b",
    "ink": "#e8eaed",
    "muted": "#a0a8b2",
    "rule": "#33383f",
    "first": "#7eb0f7",
    "second": "#f29a62",
    "third": "#54c7b4",
}
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, BOTTOM = 54, 14, 38  # pixels beside and beneath the plot; what stands above it depends on the legend
BINS = 30
_BOX, _MARGIN = f"0 0 {WIDTH} {HEIGHT}", 12
_LETTER = 7.2  # pixels, about
_NAME = 30  # letters of a name, at most

Point = tuple[float, float]
Floats = NDArray[np.float64]


class Line(NamedTuple):
    """A curve with its name; `band` holds the low and the high end at each point."""

    name: str
    colour: str
    points: Sequence[Point]
    band: Sequence[Point] = ()
    dots: bool = True
    opacity: float = 1.0
    area: bool = False


class Scale(NamedTuple):
    """From values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def auroc_by_round(
    rounds: Sequence[str], auroc: Sequence[float], band: Sequence[Point], group: str, hardest: Sequence[float]
) -> str:
    """The AUROC with its interval, and that of the hardest group."""
    lines = [Line("AUROC", "first", list(enumerate(auroc)), band), Line(group, "second", list(enumerate(hardest)))]
    return _by_round(
        "AUROC by round", rounds, lines, ticks(min(0.99, *auroc, *hardest, *(low for low, _ in band)), 1.0)
    )


def shares_by_round(rounds: Sequence[str], shares: Mapping[str, Sequence[float]]) -> str:
    """Shares between 0 and 1, a line each."""
    lines = [
        Line(name, colour, list(enumerate(values)))
        for (name, values), colour in zip(shares.items(), ("first", "second", "third"), strict=False)
    ]
    return _by_round("What the language model writes, by round", rounds, lines, ticks(0, 1))


def roc(title: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """ROC curves by name, the last one the strongest."""
    shades = np.linspace(0.35, 1, len(curves)) if len(curves) > 1 else [1.0]
    lines = [
        Line(name, "first", points, dots=False, opacity=float(o))
        for (name, points), o in zip(curves.items(), shades, strict=True)
    ]
    chance = Line("chance", "muted", [(0, 0), (1, 1)], dots=False, opacity=0.5)
    about = f"{title}: the share of anomalies found over the share of false alarms"
    return _chart(
        title, about, [*lines, chance], _marks(ticks(0, 1)), _marks(ticks(0, 1)), "false alarms", "anomalies found"
    )


def histogram(title: str, normals: Floats, anomalies: Floats, threshold: float) -> str:
    """How the scores of normals and anomalies spread, as shares of each kind, and where the alarm begins."""
    values = np.concatenate([normals, anomalies, [threshold]])
    edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-9), BINS + 1)
    kinds = [(n, c, v) for n, c, v in (("normal", "first", normals), ("anomalous", "second", anomalies)) if len(v)]
    lines = [
        Line(f"{name} ({len(v)})", colour, _steps(edges, np.histogram(v, edges)[0] / len(v)), dots=False, area=True)
        for name, colour, v in kinds
    ]
    top = max(y for line in lines for _, y in line.points)
    inner = [t for t in ticks(edges[0], edges[-1]) if edges[0] <= t <= edges[-1]]
    names = " and ".join(line.name for line in lines)
    about = f"{title}: shares of {names} test pictures by score, the threshold at {threshold:.3f}"
    x, y = {float(edges[0]): "", float(edges[-1]): "", **_marks(inner)}, {t: f"{t:.0%}" for t in ticks(0, top)}
    return _chart(title, about, lines, x, y, "score", "share of its kind", mark=threshold)


def standalone(chart: str) -> str:
    """The chart as a file of its own: black on white, whoever shows it."""
    for name, colour in LIGHT.items():
        chart = chart.replace(f"var(--{name})", colour)
    width, height = WIDTH + 2 * _MARGIN, HEIGHT + 2 * _MARGIN
    size = f'width="{2 * width}" height="{2 * height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif"'
    opened, _, rest = chart.replace(_BOX, f"{-_MARGIN} {-_MARGIN} {width} {height}", 1).partition(">")
    paper = f'<rect x="{-_MARGIN}" y="{-_MARGIN}" width="{width}" height="{height}" fill="{LIGHT["paper"]}"/>'
    return f"{opened.replace('<svg', head, 1)}>{paper}{rest}\n"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, three to six of them, that hold both between them."""
    raw = max(high - low, 1e-9) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _marks(values: Sequence[float]) -> dict[float, str]:
    return {v: f"{v:g}" for v in values}


def _steps(edges: Floats, heights: Floats) -> list[Point]:
    """The outline of bars, from the ground to the ground."""
    xs, ys = edges.repeat(2), np.concatenate([[0.0], heights.repeat(2), [0.0]])
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _by_round(title: str, rounds: Sequence[str], lines: Sequence[Line], y: Sequence[float]) -> str:
    series = [f"{line.name} " + ", ".join(f"{rounds[int(x)]} {v:.3f}" for x, v in line.points) for line in lines]
    x = {-0.3: "", **{float(i): name for i, name in enumerate(rounds)}, len(rounds) - 0.7: ""}
    return _chart(title, f"{title}: {'; '.join(series)}", lines, x, _marks(y), "", "")


def _chart(
    title: str,
    about: str,
    lines: Sequence[Line],
    x_marks: Mapping[float, str],
    y_marks: Mapping[float, str],
    x_name: str,
    y_name: str,
    mark: float | None = None,
) -> str:
    """A chart of lines; the axes reach from the first of their marks to the last. `said` is for who cannot see it."""
    legend, top = _legend(lines)
    x, y = (
        Scale(min(x_marks), max(x_marks), LEFT, WIDTH - RIGHT),
        Scale(min(y_marks), max(y_marks), HEIGHT - BOTTOM, top),
    )
    parts = [
        f'<svg viewBox="{_BOX}" role="img" aria-label="{escape(about)}" font-size="12" fill="var(--ink)">',
        f'<text y="16" font-size="14" font-weight="600">{escape(title)}</text>',
        *legend,
        *(_rule(y(v), text) for v, text in y_marks.items()),
        *(_text(x(v), HEIGHT - BOTTOM + 16, text) for v, text in x_marks.items() if text),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_name) if x_name else "",
        f'<g transform="translate(11 {(top + HEIGHT - BOTTOM) / 2:g}) rotate(-90)">{_text(0, 0, y_name)}</g>'
        if y_name
        else "",
        *(_draw(line, x, y) for line in lines),
        _threshold(x(mark), top, mark) if mark is not None else "",
        "</svg>",
    ]
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--muted)">{escape(text)}</text>'


def _rule(y: float, text: str) -> str:
    line = f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="var(--rule)"/>'
    return line + _text(LEFT - 7, y + 4, text, "end")


def _threshold(x: float, top: float, value: float) -> str:
    side, anchor = (6, "start") if x < (LEFT + WIDTH - RIGHT) / 2 else (-6, "end")
    line = f'<path d="M{x:.1f} {top:.1f}V{HEIGHT - BOTTOM}" stroke="var(--ink)" stroke-dasharray="4 3"/>'
    return line + _text(x + side, top + 10, f"threshold {value:.3f}", anchor)


def _legend(lines: Sequence[Line]) -> tuple[list[str], float]:
    """The names of the lines beneath the title, and where the plot begins beneath them."""
    parts: list[str] = []
    x, y = 0.0, 36.0
    for line in lines:
        name = line.name if len(line.name) <= _NAME else line.name[: _NAME - 1] + "…"
        width = 34 + _LETTER * len(name)
        if x > 0 and x + width > WIDTH:
            x, y = 0.0, y + 16
        stroke = f'stroke="var(--{line.colour})" stroke-width="3" stroke-opacity="{line.opacity:.2f}"'
        sample = f'<path d="M{x:.1f} {y - 4:.1f}h16" {stroke}/>'
        parts.append(sample + _text(x + 21, y, name, "start"))
        x += width
    return parts, y + 14


def _draw(line: Line, x: Scale, y: Scale) -> str:
    colour = f"var(--{line.colour})"
    parts = []
    if line.band:
        ends = [(p[0], low) for p, (low, _) in zip(line.points, line.band, strict=True)]
        ends += [(p[0], high) for p, (_, high) in zip(line.points, line.band, strict=True)][::-1]
        parts.append(f'<path d="{_path(ends, x, y)}Z" fill="{colour}" fill-opacity="0.15"/>')
    fill = f'fill="{colour}" fill-opacity="0.25"' if line.area else 'fill="none"'
    stroke = f'stroke="{colour}" stroke-width="2" stroke-opacity="{line.opacity:.2f}" stroke-linejoin="round"'
    parts.append(f'<path d="{_path(line.points, x, y)}" {fill} {stroke}/>')
    for px, py in line.points if line.dots else ():
        about = f"<title>{escape(line.name)}: {py:.3f}</title>"
        parts.append(f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3.5" fill="{colour}">{about}</circle>')
    return "".join(parts)


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in points)
