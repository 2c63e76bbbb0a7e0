"""Accuracy against time, one panel a set, of rows that the benchmark has timed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.tables import TITLES, Row
from vq_anomaly_ros.replay.files import write_bytes

# What a panel shows: the first of these that its rows have.
_SHOWN = ('miou', 'ap', 'image_auroc')
# A model has its own shape besides its name: the picture says the same without colours.
_SHAPES = 'osD^vPX<>*'
_COLUMNS = 2
_LABEL = (0.3, 0.115)  # width and height of a label, as shares of the panel
# A light sheet of its own, so that a dark page around it changes nothing.
_PAPER, _INK, _TRUNK = '#fbfbf9', '#0b4f8a', '#8a5a00'
STYLE: dict[Any, Any] = {  # matplotlib's keys are literals to mypy
    'figure.facecolor': _PAPER,
    'axes.facecolor': _PAPER,
    'figure.constrained_layout.w_pad': 0.12,
    'figure.constrained_layout.h_pad': 0.1,
    'axes.edgecolor': '#555555',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': '#dddddd',
    'text.color': '#1a1a1a',
    'axes.labelcolor': '#1a1a1a',
    'xtick.color': '#333333',
    'ytick.color': '#333333',
    'font.size': 10,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'accuracy',
}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a picture (PNG or SVG, by its suffix) of rows whose provenance holds `timing`.

    Each set under each protocol has a panel: AP, mIoU or image AUROC in per cent, with its 95 %
    interval where the row has one, against the time of a frame over that of the bare trunk. Rows
    without a figure or a time are left out. Raises OutputError where the file cannot be written.
    """
    panels: dict[tuple[str, str], list[Row]] = {}
    for one in rows:
        panels.setdefault((one['data'], one['protocol']), []).append(one)
    shapes = {name: _SHAPES[i % len(_SHAPES)] for i, name in enumerate(_names(rows))}
    with mpl.rc_context(STYLE):
        columns = min(_COLUMNS, len(panels))
        down = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(1 + 4.6 * columns, 3.6 * down), layout='constrained', dpi=144)
        places = figure.subplots(down, columns, squeeze=False).ravel()
        for (data, protocol), axes in zip(panels, places, strict=False):
            axes.set_title(f'{data} ({protocol})', fontsize=11)
            _panel(axes, panels[data, protocol], shapes)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:].lower(), metadata={})
    write_bytes(path, content.getvalue())


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(one['model'] for one in rows))


def _panel(axes: Axes, rows: Sequence[Row], shapes: dict[str, str]) -> None:
    metric = next((name for name in _SHOWN if any(name in one['metrics'] for one in rows)), None)
    shown = [
        one for one in rows if metric in one['metrics'] and 'timing' in one['provenance']
    ]  # fmt: skip
    if metric is None or not shown:
        axes.text(0.5, 0.5, 'nothing to show', ha='center', transform=axes.transAxes)
        return
    for one in shown:
        _point(axes, one, metric, shapes[one['model']])
    axes.axvline(1, color=_TRUNK, linestyle='--', linewidth=1, zorder=1)
    axes.set_xlim(0, 1.4 * max(1.0, *(_time(one) for one in shown)))
    _pad_heights(axes)
    axes.text(1, 0.02, 'bare trunk ', color=_TRUNK, fontsize=8, rotation=90, ha='right',
              transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set_xlabel('time of a frame / bare EfficientNet-lite0 trunk')
    axes.set_ylabel(f'{TITLES[metric].split(" ↑")[0]}, % (higher is better)')
    _label(axes, shown, metric)


def _point(axes: Axes, one: Row, metric: str, shape: str) -> None:
    x, y = _time(one), 100 * one['metrics'][metric]
    if metric in one['interval']:
        ends = [100 * end for end in one['interval'][metric]]
        axes.vlines(x, *ends, color=_INK, linewidth=1.2, alpha=0.6, zorder=2)
    axes.plot(x, y, shape, color=_INK, markersize=8, zorder=5)


def _time(one: Row) -> float:
    return float(one['provenance']['timing']['time_over_trunk'])


def _pad_heights(axes: Axes) -> None:
    """Room around what is drawn, ten points of a per cent or more in all, within 0 to 100."""
    low, high = axes.dataLim.intervaly
    room = max(0.12 * (high - low), 5 - (high - low) / 2)
    axes.set_ylim(max(0.0, low - room), min(100.0 + 0.2 * room, high + room))


def _label(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Write each model's name, figure and milliseconds right of its point; no two overlap."""
    points = [(_time(one), 100 * one['metrics'][metric]) for one in rows]
    width, bounds = axes.get_xlim()[1], axes.get_ylim()
    heights = _apart(points, _LABEL[0] * width, _LABEL[1] * (bounds[1] - bounds[0]), bounds[1])
    for one, (x, y), height in zip(rows, points, heights, strict=True):
        axes.annotate(
            f'{one["model"]}\n{y:.1f} · {one["provenance"]["timing"]["ms"]:.0f} ms',
            (x, y), (x + 0.035 * width, height), fontsize=8, va='center', linespacing=1.1, zorder=4,
            bbox={'facecolor': _PAPER, 'edgecolor': 'none', 'alpha': 0.8, 'pad': 0.5},
            arrowprops={'arrowstyle': '-', 'color': '#888888', 'linewidth': 0.6, 'shrinkB': 5},
        )  # fmt: skip


def _apart(
    points: Sequence[tuple[float, float]], width: float, gap: float, top: float
) -> list[float]:
    """Heights of labels `width` wide, at least `gap` apart where they are beside each other.

    First upwards from the lowest, then down again what would stand above `top`.
    """
    heights = [y for _, y in points]
    upwards = sorted(range(len(points)), key=lambda index: heights[index])

    def settled(index: int, placed: Sequence[int]) -> list[float]:
        return [heights[k] for k in placed if abs(points[k][0] - points[index][0]) < width]

    for rank, index in enumerate(upwards):
        below = settled(index, upwards[:rank])
        heights[index] = max([heights[index], *(height + gap for height in below)])
    for rank, index in reversed(list(enumerate(upwards))):
        above = settled(index, upwards[rank + 1 :])
        limits = [top - gap / 2, *(height - gap for height in above)]
        heights[index] = min([heights[index], *limits])
    return heights
