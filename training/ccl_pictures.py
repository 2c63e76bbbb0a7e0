"""The two charts of docs/ccl.md: global features of control and CCL, and image AUROC by epoch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from training.accuracy_picture import STYLE
from training.judging import Figures
from vq_anomaly_ros.replay.files import write_bytes

# Told apart without colours, too.
_COLOURS, _SHAPES = ('#0b4f8a', '#b3541e', '#3f7d3a', '#7a3f8a'), 'os^D'
_LINES = {'control': '--', 'CCL': '-', 'control, 15 passes': ':', 'CCL, 15 passes': '-.'}
_CONFUSED = ('control', 'CCL')


def draw_confusion(found: Sequence[Figures], path: Path) -> None:
    """Main axes of the global features of the first seed of control and CCL, by category.

    A row without points is left out. Raises OutputError where the file cannot be written.
    """
    shown = [one for name in _CONFUSED for one in found if one['row'] == name and 'points' in one]
    shown = [one for one in shown if one['seed'] == min(other['seed'] for other in shown)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout='constrained', dpi=110)
        for axes, one in zip(figure.subplots(1, max(len(shown), 1), squeeze=False)[0], shown):  # noqa: B905
            axes.set_title(f'{one["row"]}: v-measure {one["v_measure"]:.3f}', fontsize=11)
            for place, (name, points) in enumerate(one['points'].items()):
                x, y = np.array(points).T
                axes.plot(
                    x, y, _SHAPES[place], color=_COLOURS[place], markersize=3.5, alpha=0.7,
                    label=name.rpartition('/')[2],
                )  # fmt: skip
            axes.legend(fontsize=8)
            axes.set_xlabel('first main axis of g')
            axes.set_ylabel('second')
        _save(figure, path)


def draw_curves(found: Sequence[Figures], path: Path) -> None:
    """Image AUROC by epoch, mean over the categories, a line a seed of each row of _LINES."""
    shown = [one for one in found if one['row'] in _LINES]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout='constrained', dpi=110)
        axes = figure.subplots()
        for place, (row, line) in enumerate(_LINES.items()):
            for number, one in enumerate(one for one in shown if one['row'] == row):
                epochs = [int(epoch) for epoch in one['curve']]
                means = [100 * np.mean(list(values.values())) for values in one['curve'].values()]
                label = row if not number else None
                axes.plot(
                    epochs, means, line, color=_COLOURS[place], marker=_SHAPES[place], label=label
                )
        axes.set_xlabel('epoch')
        axes.set_xticks(sorted({int(epoch) for one in shown for epoch in one['curve']}))
        axes.set_ylabel('image AUROC, % (mean of the categories)')
        if axes.lines:
            axes.legend(fontsize=9)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format='png', metadata={})
    write_bytes(path, content.getvalue())
