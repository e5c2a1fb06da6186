"""Plots as inline SVG: no library, no script, colours from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from plinth.monitoring.histogram import Histogram

Floats = NDArray[np.float64]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Bars:
    """Two distributions over the same cells, as shares [n], and what to write at the left and right end."""

    reference: Floats
    current: Floats
    left: str
    right: str


def bars(reference: Histogram, current: Histogram, most: int = 36) -> Bars:
    """Both histograms in at most `most` cells, over the range that holds 99% of either.

    What lies outside of the reference's range is drawn in the outermost cells.
    """
    p, q = (h.counts.astype(np.float64) for h in (reference, current))
    first, last = 0, p.size - 1
    if reference.grid.kind != "discrete":
        ends = [_span(counts) for counts in (p, q) if counts.sum()]
        first, last = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (first, last)
    width = max(1, -(-(last - first + 1) // most))
    starts = np.arange(first, last + 1, width)
    shares = []
    for counts, histogram in ((p, reference), (q, current)):
        inside = np.add.reduceat(counts[: last + 1], starts)
        inside[0] += histogram.below + counts[:first].sum()
        inside[-1] += histogram.above + counts[last + 1 :].sum()
        shares.append(inside / max(inside.sum(), 1))
    edges = reference.grid.edges()
    shift = 0.5 if reference.grid.kind == "discrete" else 0.0
    return Bars(shares[0], shares[1], _number(edges[first] + shift), _number(edges[last + 1] - shift))


def _span(counts: Floats) -> tuple[int, int]:
    share = np.cumsum(counts) / counts.sum()
    return int(np.searchsorted(share, 0.005)), min(int(np.searchsorted(share, 0.995)), counts.size - 1)


def _number(value: float) -> str:
    text = f"{value:.3g}"
    return f"{value:,.0f}" if "e" in text and 1e3 <= abs(value) < 1e6 else text


def overlay(data: Bars, width: int, height: int, label: str) -> str:
    """The reference as a filled step, the current distribution as a line over it. `label` is read aloud."""
    top = max(float(data.reference.max(initial=0)), float(data.current.max(initial=0)), 1e-9)
    step = width / data.reference.size

    def steps(shares: Floats) -> str:
        points = []
        for index, share in enumerate(shares):
            y = height - 1 - share / top * (height - 3)
            points.append(f"{index * step:.1f},{y:.1f} {(index + 1) * step:.1f},{y:.1f}")
        return " ".join(points)

    return (
        f'<svg class="hist" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<polygon class="ref" points="0,{height} {steps(data.reference)} {width},{height}"/>'
        f'<polyline class="cur" points="{steps(data.current)}"/></svg>'
    )


@dataclass(frozen=True)
class Series:
    """A line: x in days since 1970 (or any number), y, half-height of its band (0 is none), and a class for colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[float]
    css: str


def lines(
    series: Sequence[Series],
    *,
    ticks: Sequence[tuple[float, str]],
    bounds: Sequence[float] = (),
    zero: bool = False,
    span: float = 0.0,
    height: int = 260,
    label: str = "",
    dots: bool = False,
) -> str:
    """A line chart with bands, dashed bounds and a labelled grid.

    Args:
        series: The lines.
        ticks: Positions and texts of the x axis.
        bounds: Values that are drawn as dashed lines; always inside the picture.
        zero: Draw a line at zero.
        span: The y axis covers at least this much, so that noise does not look like a cliff.
        height: In user units; the width is 760.
        label: Read aloud.
        dots: Mark every point (for few points).
    """
    width, left, right, top, bottom = 760, 52, 12, 10, 28
    ys = [y + side * b for s in series for y, b in zip(s.y, s.band, strict=True) for side in (-1, 1)]
    ys += [*bounds, *([0.0] if zero else [])]
    xs = [x for s in series for x in s.x] + [x for x, _ in ticks]
    if not xs or not ys:
        return ""
    low, high = _padded(min(ys), max(ys), span)
    grid, digits = _nice(low, high)
    first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def px(x: float) -> float:
        return left + (x - first) / (last - first) * (width - left - right)

    def py(y: float) -> float:
        return top + (high - y) / (high - low) * (height - top - bottom)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>"
    ]
    for y in grid:
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 7}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.{digits}f}</text>')
    for x, text in ticks:
        anchor = "start" if px(x) < left + 20 else "end" if px(x) > width - right - 20 else "middle"
        parts.append(
            f'<line class="tick" x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{height - bottom}" y2="{height - bottom + 4}"/>'
        )
        parts.append(
            f'<text class="axis" x="{px(x):.1f}" y="{height - 8}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    if zero:
        parts.append(f'<line class="zero" x1="{left}" x2="{width - right}" y1="{py(0):.1f}" y2="{py(0):.1f}"/>')
    parts += [
        f'<line class="bound" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>' for y in bounds
    ]
    for s in series:
        parts.append(_line(s, px, py, dots, digits))
    return "".join(parts) + "</svg>"


def _line(s: Series, px: Scale, py: Scale, dots: bool, digits: int) -> str:
    band = ""
    if any(s.band):
        upper = [f"{px(x):.1f},{py(y + b):.1f}" for x, y, b in zip(s.x, s.y, s.band, strict=True)]
        lower = [f"{px(x):.1f},{py(y - b):.1f}" for x, y, b in zip(s.x, s.y, s.band, strict=True)]
        band = f'<polygon class="band {s.css}" points="{" ".join(upper + lower[::-1])}"/>'
    path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(s.x, s.y, strict=True))
    marks = ""
    if dots or len(s.x) == 1:
        marks = "".join(
            f'<circle class="{s.css}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5">'
            f"<title>{escape(s.name)}: {y:.{digits + 1}f}</title></circle>"
            for x, y in zip(s.x, s.y, strict=True)
        )
    return f'{band}<polyline class="line {s.css}" points="{path}"/>{marks}'


def _padded(low: float, high: float, span: float) -> tuple[float, float]:
    room = max((high - low) * 0.08, (span - (high - low)) / 2, 1e-6)
    return low - room, high + room


def _nice(low: float, high: float, count: int = 5) -> tuple[list[float], int]:
    """Round values between low and high, about `count` of them, and the decimals that tell them apart."""
    raw = (high - low) / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = int(np.ceil(low / step))
    values = [index * step for index in range(first, int(np.floor(high / step)) + 1)]
    return values, max(0, -int(np.floor(np.log10(step) + 1e-9)))
