"""The picture of a bench: what is added to the engine, and what cameras get of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vq_anomaly_ros.replay.files import write_bytes

# A light sheet of its own, so that a dark page around it changes nothing.
_PAPER, _INK, _GREY, _GOAL = '#fbfbf9', '#0b4f8a', '#9aa7b1', '#8a5a00'
_STYLE: dict[Any, Any] = {  # matplotlib's keys are literals to mypy
    'figure.facecolor': _PAPER,
    'axes.facecolor': _PAPER,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'font.size': 9,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'bench',
}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture (PNG or SVG, by its suffix) of a result of `bench.measure`.

    Raises OutputError where the file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 4.2), layout='constrained')
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _draw_ways(left, result)
        _draw_cameras(right, result['cameras'])
        machine = result['machine']
        figure.suptitle(f'{result["model"]} on {machine["cpu"]}, {machine["cores"]} cores')
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:].lower(), metadata={'Date': None})
    write_bytes(path, content.getvalue())


def _draw_ways(axes: Axes, result: Mapping[str, Any]) -> None:
    ms = result['ms']
    names = list(ms)[::-1]
    over = [ms[name] / ms['engine'] for name in names]
    colours = [_GREY if name == 'engine' else _INK for name in names]
    axes.barh(names, over, color=colours)
    for place, value in enumerate(over):
        axes.text(value, place, f' {value:.2f}', va='center', fontsize=8)
    axes.set_xlim(0, 1.15 * max(over))
    axes.set_xlabel(f'time of a 1080p frame / bare engine ({ms["engine"]:.1f} ms)')


def _draw_cameras(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [
        f'{row["cameras"]} x {row["size"][1]}x{row["size"][0]}\nout: {row["output_size"]}'
        + (', one stream' if row.get('streams') == 1 else '')
        for row in rows
    ][::-1]
    shares = [100 * row['share_of_engine'] for row in rows][::-1]
    axes.barh(names, shares, color=_INK)
    for place, row in enumerate(reversed(rows)):
        said = f' {shares[place]:.0f} %, least served {row["fairness"]:.2f}'
        axes.text(shares[place], place, said, va='center', fontsize=8)
    axes.axvline(80, color=_GOAL, linestyle='--', linewidth=1)
    axes.set_xlim(0, max(150.0, 1.5 * max(shares)))
    axes.set_xlabel("% of the bare engine's throughput, cameras in another process")
