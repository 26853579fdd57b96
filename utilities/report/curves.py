"""Charts as inline SVG. Colours come from the page's style sheet, so that they follow its light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH = 560


@dataclass(frozen=True)
class Strip:
    """One row of a distribution chart.

    Args:
        name: its label.
        points: (item, value).
        mean: marked by a line; `None` for none.
        interval: of the mean.
        baseline: marked by a diamond: the mixture's mean.
    """

    name: str
    points: Sequence[tuple[str, float]]
    mean: float | None = None
    interval: tuple[float, float] | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Curve:
    """One line of a line chart: a name, a style (`raw`, `a` or `b`), and points (x, y)."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart: a value and the interval around it; `verdict` is better, worse or none."""

    name: str
    value: float
    interval: tuple[float, float] | None
    verdict: str = ""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two values, about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= 0.85 * raw)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A value for an axis: short, and never "-0"."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.6g}" if abs(value) >= 1e-9 else "0"


def strip_chart(rows: Sequence[Strip], unit: str) -> str:
    """Every item a dot, a row a stem; the mean with its interval above them, the mixture's mean as a diamond."""
    values = [v for row in rows for _, v in row.points] + [row.baseline for row in rows if row.baseline is not None]
    if not values:
        return ""
    left, right, height = 76, 12, 34
    low, high = _padded(min(values), max(values))
    x = _scale(low, high, left, _WIDTH - right)
    bottom = len(rows) * height + 6
    parts = [_grid(low, high, x, 4, bottom)]
    for r, row in enumerate(rows):
        middle = 6 + r * height + height / 2
        parts.append(f'<text class="name" x="{left - 10}" y="{middle + 4:.1f}">{escape(row.name)}</text>')
        for item, value in row.points:
            jitter = (hash_unit(item) - 0.5) * (height - 16)
            title = f"<title>{escape(item)}: {value:.2f} {escape(unit)}</title>"
            parts.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{middle + jitter:.1f}" r="2.6">{title}</circle>')
        if row.interval:
            a, b = (x(v) for v in row.interval)
            parts.append(f'<rect class="span" x="{a:.1f}" y="{middle - 3:.1f}" width="{b - a:.1f}" height="6" rx="3"/>')
        if row.mean is not None:
            title = f"<title>mean {row.mean:.3f}</title>"
            parts.append(f'<path class="mean" d="M{x(row.mean):.1f} {middle - 10:.1f}v20">{title}</path>')
        if row.baseline is not None:
            title = f"<title>the mixture: {row.baseline:.3f}</title>"
            parts.append(
                f'<path class="base" d="M{x(row.baseline):.1f} {middle - 5:.1f}l5 5l-5 5l-5 -5z">{title}</path>'
            )
    return _svg(_WIDTH, bottom + 26, "".join(parts))


def interval_chart(rows: Sequence[Bar], unit: str) -> str:
    """Values with their intervals around a line at zero."""
    values = [v for row in rows for v in (row.value, *(row.interval or ()))]
    if not values:
        return ""
    left, height = 76, 26
    low, high = _padded(min([*values, 0.0]), max([*values, 0.0]))
    x = _scale(low, high, left, _WIDTH - 12)
    bottom = len(rows) * height + 6
    parts = [_grid(low, high, x, 4, bottom), f'<path class="zero" d="M{x(0):.1f} 4V{bottom}"/>']
    for r, row in enumerate(rows):
        middle = 6 + r * height + height / 2
        parts.append(f'<text class="name" x="{left - 10}" y="{middle + 4:.1f}">{escape(row.name)}</text>')
        if row.interval:
            a, b = (x(v) for v in row.interval)
            parts.append(f'<path class="whisker {row.verdict}" d="M{a:.1f} {middle:.1f}H{b:.1f}"/>')
        title = f"<title>{row.value:+.3f} {escape(unit)}</title>"
        parts.append(
            f'<circle class="value {row.verdict}" cx="{x(row.value):.1f}" cy="{middle:.1f}" r="4">{title}</circle>'
        )
    return _svg(_WIDTH, bottom + 26, "".join(parts))


def line_chart(curves: Sequence[Curve], logarithmic: bool = False) -> str:
    """Curves over one axis of steps."""
    drawn = [Curve(c.name, c.style, [p for p in c.points if _shown(p, logarithmic)]) for c in curves]
    drawn = [curve for curve in drawn if curve.points]
    if not drawn:
        return ""
    left, right, top, bottom = 58, 12, 10, 180
    xs, ys = zip(*(point for curve in drawn for point in curve.points), strict=True)
    low, high = _bounds([math.log10(y) for y in ys] if logarithmic else list(ys))
    x = _scale(min(xs), max(max(xs), min(xs) + 1), left, _WIDTH - right)
    y = _scale(low, high, bottom, top)
    parts = []
    for tick, text in _log_ticks(low, high) if logarithmic else ((t, number(t)) for t in ticks(low, high, 4)):
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{_WIDTH - right}"/>')
        parts.append(f'<text class="name" x="{left - 8}" y="{y(tick) + 4:.1f}">{text}</text>')
    for tick in ticks(min(xs), max(xs)):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 18}">{number(tick)}</text>')
    for curve in drawn:
        places = [(x(a), y(math.log10(b) if logarithmic else b)) for a, b in _thinned(curve.points)]
        path = "L".join(f"{a:.1f} {min(max(b, top), bottom):.1f}" for a, b in places)
        if len(places) == 1:
            parts.append(f'<circle class="curve-dot {curve.style}" cx="{places[0][0]}" cy="{places[0][1]}" r="3"/>')
        parts.append(f'<path class="curve {curve.style}" d="M{path}"><title>{escape(curve.name)}</title></path>')
    return _svg(_WIDTH, bottom + 26, "".join(parts))


def smoothed(points: Sequence[tuple[float, float]], weight: float = 0.95) -> list[tuple[float, float]]:
    """Exponential moving average of a curve, freed of its start's bias."""
    average, total, made = 0.0, 0.0, []
    for x, y in points:
        average, total = weight * average + (1 - weight) * y, weight * total + (1 - weight)
        made.append((x, average / total))
    return made


def hash_unit(text: str) -> float:
    """A number from 0 to 1 that only depends on the text."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value / 2**32


def _shown(point: tuple[float, float], logarithmic: bool) -> bool:
    return math.isfinite(point[1]) and (point[1] > 0 or not logarithmic)


def _bounds(values: list[float]) -> tuple[float, float]:
    """Range of an axis; the first wild steps of a training do not flatten the rest."""
    low, high = min(values), max(values)
    usual = float(np.quantile(values, 0.98))
    return _padded(low, usual * 1.3 - low * 0.3 if high - low > 3 * (usual - low) > 0 else high)


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis from 10**low to 10**high: where they lie, and their numbers."""
    if high - low < 1:
        values = [value for value in ticks(10**low, 10**high, 4) if value > 0]
    else:
        factors = (1,) if high - low > 3 else (1, 3)
        values = [f * 10.0**n for n in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    return [(math.log10(v), number(v)) for v in values if low <= math.log10(v) <= high]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _thinned(points: Sequence[tuple[float, float]], most: int = 600) -> Sequence[tuple[float, float]]:
    step = max(1, math.ceil(len(points) / most))
    return [*points[:-1:step], points[-1]]


def _grid(low: float, high: float, x: Callable[[float], float], top: float, bottom: float) -> str:
    """Vertical lines at round values, their numbers below."""
    parts = []
    for tick in ticks(low, high):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 17}">{number(tick)}</text>')
    return "".join(parts)


def _svg(width: float, height: float, content: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img">{content}</svg>'
