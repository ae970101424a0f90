"""Charts as SVG, drawn by hand: they stand in a page without scripts, in its colours, by day and by night.

Colours are CSS variables: --ink, --faint, --paper and --line0, --line1 and so on, which the page sets, or `standalone`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 44  # margins around the plot
BINS = 40
COLOURS = ("#2463a8", "#c2410c", "#0f766e", "#7c3aed", "#a16207", "#64748b")
PALETTE = {"--ink": "#1c1917", "--faint": "#d6d3d1", "--paper": "#ffffff"} | {f"--line{i}": c for i, c in enumerate(COLOURS)}


@dataclass(frozen=True)
class Line:
    """Points (x, y) that belong together, and around them a band (x, low, high)."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Axes:
    """Data -> pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the data lies."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    names: Sequence[str] | None = None,
    y: tuple[float, float] | None = None,
    dots: bool = True,
) -> str:
    """Lines over a common axis, whose ticks are 0, 1, ... where they have `names`. `y` is the range; by default that of the data."""
    points = [p for line in lines for p in line.points]
    heights = [p[1] for p in points] + [edge for line in lines for b in line.band for edge in b[1:]]
    across = (0.0, float(max(len(names) - 1, 1))) if names else (min(p[0] for p in points), max(p[0] for p in points))
    axes = Axes(across, y or padded(min(heights), max(heights)))
    ticks = {float(i): name for i, name in enumerate(names)} if names else {v: f"{v:g}" for v in rounded_ticks(*across)}
    drawn = [_line(axes, line, i, dots) for i, line in enumerate(lines)]
    return _svg(title, [*_frame(axes, ticks, x_label, y_label), *drawn, *_legend([line.name for line in lines])])


def histogram(title: str, groups: Mapping[str, Sequence[float]], x_label: str, y_label: str, mark: tuple[float, str]) -> str:
    """How the values of each group are spread, as shares of the group, over common bins; `mark` is a place with a name."""
    every = np.concatenate([*(np.asarray(v, float) for v in groups.values()), [mark[0]]])
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    shares = {name: np.histogram(v, edges)[0] / max(len(v), 1) for name, v in groups.items()}
    axes = Axes((float(edges[0]), float(edges[-1])), (0.0, max(0.01, 1.05 * max(float(s.max()) for s in shares.values()))))
    drawn = [_bars(axes, edges, share, i) for i, share in enumerate(shares.values())]
    ticks = {v: f"{v:g}" for v in rounded_ticks(*axes.x)}
    return _svg(title, [*_frame(axes, ticks, x_label, y_label), *drawn, _mark(axes, *mark), *_legend(list(groups))])


def standalone(svg: str) -> str:
    """The same chart as a file of its own, in the colours of the day, on white."""
    colours = "".join(f"{name}:{value};" for name, value in PALETTE.items())
    inside = f'<style>svg{{{colours}}}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>'
    head, _, rest = svg.partition(">")
    return f"{head}>{inside}{rest}\n"


def padded(low: float, high: float) -> tuple[float, float]:
    """A range with a little room around it; of a single value, a range around that."""
    room = 0.06 * (high - low) or 0.05 * max(abs(high), 0.1)
    return low - room, high + room


def rounded_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at most `most` of them."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="system-ui, sans-serif"'
    return f'{head} font-size="13"><title>{escape(title)}</title>{"".join(parts)}</svg>'


def _frame(axes: Axes, x_ticks: Mapping[float, str], x_label: str, y_label: str) -> Iterator[str]:
    (left, bottom), (right, _) = axes.at(axes.x[0], axes.y[0]), axes.at(axes.x[1], axes.y[1])
    for value in rounded_ticks(*axes.y, most=5):
        _, height = axes.at(axes.x[0], value)
        yield f'<path d="M{left:.1f} {height:.1f}H{right:.1f}" stroke="var(--faint)"/>' + _text(left - 8, height + 4, f"{value:g}", "end")
    for value, name in x_ticks.items():
        yield _text(axes.at(value, axes.y[0])[0], bottom + 18, name, "middle")
    yield _text((left + right) / 2, HEIGHT - 8, x_label, "middle")
    yield _text(left, TOP - 10, y_label, "start")


def _text(x: float, y: float, words: str, anchor: str, colour: str = "var(--ink)") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def _line(axes: Axes, line: Line, number: int, dots: bool) -> str:
    colour, at = _colour(number), [axes.at(*p) for p in line.points]
    edge = [axes.at(x, high) for x, _, high in line.band] + [axes.at(x, low) for x, low, _ in line.band][::-1]
    band = f'<path d="{_path(edge)}Z" fill="{colour}" opacity=".15"/>' if edge else ""
    made = f'<path d="{_path(at)}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
    return band + made + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in at if dots)


def _bars(axes: Axes, edges: NDArray[np.float64], shares: NDArray[np.float64], number: int) -> str:
    corners = [(float(edges[0]), 0.0)]
    for left, right, share in zip(edges, edges[1:], shares, strict=False):
        corners += [(float(left), float(share)), (float(right), float(share))]
    path = _path([axes.at(*c) for c in [*corners, (float(edges[-1]), 0.0)]])
    return f'<path d="{path}Z" fill="{_colour(number)}" fill-opacity=".35" stroke="{_colour(number)}"/>'


def _mark(axes: Axes, value: float, name: str) -> str:
    (x, bottom), (_, top) = axes.at(value, axes.y[0]), axes.at(value, axes.y[1])
    anchor = "end" if x > WIDTH * 0.7 else "start"
    words = _text(x + (-6 if anchor == "end" else 6), top + 12, name, anchor)
    return f'<path d="M{x:.1f} {bottom:.1f}V{top:.1f}" stroke="var(--ink)" stroke-dasharray="4 3"/>{words}'


def _legend(names: Sequence[str]) -> Iterator[str]:
    """The names in their colours, from the right end of the head."""
    right = float(WIDTH - RIGHT)
    for i, name in reversed(list(enumerate(names))):
        yield _text(right, TOP - 10, f"● {name}", "end", _colour(i))
        right -= 8.0 * len(name) + 26


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _colour(number: int) -> str:
    return f"var(--line{number % len(COLOURS)})"
