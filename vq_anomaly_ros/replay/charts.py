"""Geometry of the report's charts: paths and ticks in per cent, drawn by templates/chart.html.j2.

Only shapes are SVG, stretched to whatever room there is; all text is HTML beside them, so that it
keeps its size on a phone. Coordinates run from 0 to 100, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_POINTS = 800


@dataclass(frozen=True)
class Tick:
    """A label at `at` per cent of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Shape:
    """An SVG path; `style` names its CSS class, `colour` may be its own, `text` its tooltip."""

    path: str
    style: str
    colour: str = ''
    text: str = ''


@dataclass(frozen=True)
class Chart:
    """One chart: what it shows in a sentence (`summary`), shapes, ticks, names of its lines."""

    title: str
    summary: str
    shapes: tuple[Shape, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    line_names: tuple[Tick, ...] = ()


def ticks(low: float, high: float, most: int = 5, unit: str = '') -> tuple[Tick, ...]:
    """Return at most `most` + 1 ticks at round numbers within low..high."""
    span = high - low
    if span <= 0:
        return (Tick(0.0, f'{low:g}{unit}'),)
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [round(i * step, 10) for i in range(first, last + 1)]
    return tuple(Tick((v - low) / span * 100, f'{v:g}{unit}') for v in values)


def line_chart(
    title: str,
    times: np.ndarray,
    values: np.ndarray,
    *,
    top: float,
    level: tuple[float, str] | None = None,
    reference: tuple[np.ndarray, str] | None = None,
    unit: str = '',
) -> Chart:
    """Return a filled line over time.

    Args:
        title: of the chart.
        times: float [n], seconds, ascending.
        values: float [n], from 0.
        top: of the y axis; nothing is drawn above.
        level: a value to draw a horizontal line at, with its name.
        reference: a second line, float [n], NaN where it has no value, with its name.
        unit: behind the y axis' numbers.
    """
    at, highest = _thinned(_percent(times), values, np.maximum)
    y = 100 - np.clip(highest / top, 0, 1) * 100
    line = _path(at, y)
    shapes = [
        Shape(f'{line}L{at[-1]:.2f},100L{at[0]:.2f},100Z', 'fill'),
        Shape(line, 'line'),
    ]
    if reference is not None:
        shapes.append(_reference(times, reference[0] / top, reference[1]))
    if level is not None:
        height = 100 - level[0] / top * 100
        shapes.append(Shape(f'M0,{height:.2f}L100,{height:.2f}', 'level', text=level[1]))
    peak = int(np.argmax(values))
    return Chart(
        title,
        f'Median {np.median(values):.3g}{unit}, highest {values[peak]:.3g}{unit} '
        f'at {times[peak]:.1f} s.',
        tuple(shapes),
        ticks(float(times[0]), float(times[-1]), unit=' s'),
        _upwards(ticks(0.0, top, unit=unit)),
    )


def _reference(times: np.ndarray, heights: np.ndarray, name: str) -> Shape:
    """A line of its own colour that is broken where it has no value."""
    known = np.isfinite(heights)
    pieces = np.split(np.arange(len(heights)), np.flatnonzero(np.diff(known)) + 1)
    at, y = _percent(times), 100 - np.clip(heights, 0, 1) * 100
    path = ''.join(_path(at[piece], y[piece]) for piece in pieces if known[piece[0]])
    return Shape(path, 'reference', text=name)


def share_chart(
    title: str,
    times: np.ndarray,
    shares: np.ndarray,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
) -> Chart:
    """Return stacked areas: shares float [n, C], each row summing to at most 1; colours RGB."""
    shapes = []
    below = np.zeros(len(times))
    for index, name in enumerate(names):
        above = below + shares[:, index]
        at, lower = _thinned(_percent(times), below, np.add, mean=True)
        _, upper = _thinned(_percent(times), above, np.add, mean=True)
        outline = _path(np.r_[at, at[::-1]], 100 - np.r_[upper, lower[::-1]] * 100) + 'Z'
        text = f'{name}: {np.mean(shares[:, index]):.1%} of the pixels'
        shapes.append(Shape(outline, 'area', 'rgb({},{},{})'.format(*colours[index]), text))
        below = above
    largest = names[int(np.argmax(np.mean(shares, axis=0)))]
    return Chart(
        title,
        f'The largest share of the pixels is {largest}.',
        tuple(shapes),
        ticks(float(times[0]), float(times[-1]), unit=' s'),
        _upwards((Tick(0, '0 %'), Tick(50, '50 %'), Tick(100, '100 %'))),
    )


def histogram(title: str, values: np.ndarray, marks: Sequence[tuple[float, str]]) -> Chart:
    """Return a histogram of milliseconds, float [n], with vertical lines at the marks.

    The axis ends a little above the last mark: one slow frame does not squeeze all others.
    """
    low, high = 0.0, max(1e-3, max(mark for mark, _ in marks) * 1.15)
    counts, edges = np.histogram(np.minimum(values, high), bins=40, range=(low, high))
    top = max(int(counts.max()), 1)
    x = (edges - low) / (high - low) * 100
    bars = ''.join(
        f'M{x[i]:.2f},100V{100 - counts[i] / top * 100:.2f}H{x[i + 1]:.2f}V100Z'
        for i in range(len(counts))
        if counts[i]
    )
    lines = [
        Shape(f'M{value / high * 100:.2f},0V100', 'mark', text=f'{name}: {value:.1f} ms')
        for value, name in marks
    ]
    beyond = int(np.count_nonzero(values > high))
    summary = f'Frames by milliseconds; {", ".join(f"{name} {v:.1f} ms" for v, name in marks)}'
    if beyond:
        summary += f'; {beyond} of {len(values)} frames took longer than the axis shows'
    return Chart(
        title,
        f'{summary}.',
        (Shape(bars, 'bars'), *lines),
        ticks(low, high, unit=' ms'),
        _upwards(ticks(0, top, most=min(4, top))),
        tuple(Tick(value / high * 100, name) for value, name in marks),
    )


def _percent(times: np.ndarray) -> np.ndarray:
    span = float(times[-1] - times[0])
    return (times - times[0]) / span * 100 if span > 0 else np.linspace(0, 100, len(times))


def _upwards(found: Sequence[Tick]) -> tuple[Tick, ...]:
    return tuple(Tick(100 - tick.at, tick.text) for tick in found)


def _thinned(
    at: np.ndarray, values: np.ndarray, merge: np.ufunc, *, mean: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """At most _MOST_POINTS points: neighbours merged (their maximum, or their mean)."""
    if len(at) == 1:
        return np.array([0.0, 100.0]), np.repeat(values, 2)
    if len(at) <= _MOST_POINTS:
        return at, values
    starts = np.linspace(0, len(at), _MOST_POINTS, endpoint=False).astype(int)
    merged = merge.reduceat(values, starts)
    return at[starts], merged / np.diff(np.r_[starts, len(at)]) if mean else merged


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return 'M' + 'L'.join(f'{a:.2f},{b:.2f}' for a, b in zip(x, y, strict=True))
