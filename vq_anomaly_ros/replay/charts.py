"""Geometry of the report's charts: paths and ticks in per cent, drawn by templates/chart.html.j2.

Only shapes are SVG, stretched to whatever room there is; all text is HTML beside them, so that it
keeps its size on a phone. Coordinates run from 0 to 100, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, eq=False)
class Series:
    """Points of a log_chart: x, y float [n], both above 0 (y may be 0); bounds: [n, 2] of y."""

    name: str
    x: np.ndarray
    y: np.ndarray
    bounds: np.ndarray | None = None


_LOWEST, _DECADES = 1e-5, 5  # of a log_chart: 1e-5 to 1
_SERIES_STYLES = ('first', 'second', 'third')


def log_chart(title: str, summary: str, series: Sequence[Series]) -> Chart:
    """Return y against x, both 1e-5 to 1 on logarithms, with the line of y = x.

    series: three at most. A y below the axis is drawn at its foot.
    """
    near = 100 * math.log10(1.5) / _DECADES
    band = f'M0,100V{100 - near:.2f}L{100 - near:.2f},0H100V{near:.2f}L{near:.2f},100Z'
    shapes = [
        Shape(band, 'fill'),
        Shape('M0,100L100,0', 'level', text='as asked for; shaded: within a factor of 1.5'),
    ]
    for one, style in zip(series, _SERIES_STYLES, strict=False):
        x, y = _decades(one.x), 100 - _decades(one.y)
        if one.bounds is not None:
            low, high = (100 - _decades(bound) for bound in one.bounds.T)
            bars = ''.join(
                f'M{a:.2f},{b:.2f}V{c:.2f}' for a, b, c in zip(x, low, high, strict=True)
            )
            shapes.append(Shape(bars, f'interval {style}'))
        shapes.append(Shape(_path(x, y), f'thin {style}'))
        dots = ''.join(f'M{a:.2f},{b:.2f}h0.01' for a, b in zip(x, y, strict=True))
        shapes.append(Shape(dots, f'dots {style}', text=one.name))
    marks = tuple(
        Tick(100 * power / _DECADES, '1' if power == _DECADES else f'1e-{_DECADES - power}')
        for power in range(_DECADES + 1)
    )
    return Chart(title, summary, tuple(shapes), marks, _upwards(marks))


def _decades(values: np.ndarray) -> np.ndarray:
    """Per cent of the axis of a log_chart."""
    return 100 * (np.log10(np.clip(values, _LOWEST, 1)) + _DECADES) / _DECADES


def strip_chart(
    title: str,
    times: np.ndarray,
    rows: Mapping[str, np.ndarray],
    limits: tuple[float, float],
    names: tuple[str, str],
) -> Chart:
    """Return a strip a row that is half high above the first limit and full above the second.

    rows: float [n] each, NaN where unknown; names: of the two levels.
    """
    at = _edges(times)
    height = 100 / len(rows)
    shapes, parts = [], []
    for place, (name, values) in enumerate(rows.items()):
        foot = (place + 0.92) * height
        for level, (limit, told) in enumerate(zip(limits, names, strict=True)):
            top = foot - height * (0.42 if level == 0 else 0.84)
            runs = _runs(np.nan_to_num(values, nan=0.0) > limit)
            path = ''.join(
                f'M{at[i]:.2f},{foot:.2f}V{top:.2f}H{at[j]:.2f}V{foot:.2f}Z' for i, j in runs
            )
            if path:
                share = float(np.mean(np.nan_to_num(values, nan=0.0) > limit))
                text = f'{name}: {told} in {share:.0%} of the frames'
                shapes.append(Shape(path, f'strip {told.lower()}', text=text))
        parts.append(f'{name} up to {np.nanmax(values):.1f}')
    centres = tuple(Tick((place + 0.5) * height, name) for place, name in enumerate(rows))
    return Chart(
        title,
        f'Times the distance at which {names[0]} begins: {", ".join(parts)}.',
        tuple(shapes),
        ticks(float(times[0]), float(times[-1]), unit=' s'),
        centres,
    )


def _edges(times: np.ndarray) -> np.ndarray:
    """Where each frame begins and the last ends, per cent, float64 [n + 1]."""
    at = _percent(times)
    if len(at) == 1:
        return np.array([0.0, 100.0])
    return np.r_[0.0, (at[1:] + at[:-1]) / 2, 100.0]


def _runs(held: np.ndarray) -> list[tuple[int, int]]:
    """First and last + 1 of each run of True."""
    changes = np.flatnonzero(np.diff(np.r_[False, held, False].astype(np.int8)))
    return [(int(i), int(j)) for i, j in changes.reshape(-1, 2)]


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
