"""Rows of the benchmark as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

_BUSY = 1.0  # load of a machine on which other work disturbs what is timed

# Metric -> title in the table, with the better direction; also the order of columns.
TITLES = {
    'ap': 'AP ↑',
    'fpr95': 'FPR95 ↓',
    'auroc': 'AUROC ↑',
    'best_f1': 'best F1 ↑',
    'siou': 'sIoU ↑',
    'ppv': 'PPV ↑',
    'f1_star': 'F1* ↑',
    'miou': 'mIoU ↑',
    'image_auroc': 'image AUROC ↑',
    'pixel_auroc': 'pixel AUROC ↑',
    'pro': 'PRO ↑',
}


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as one Markdown table, in per cent, intervals in brackets."""
    names = [name for name in TITLES if any(name in one['metrics'] for one in rows)]
    head = ['model', 'data', 'protocol', 'images', *(TITLES[name] for name in names)]
    lines = [_line([*head, 'outlier data', 'commit', 'sha256'])]
    lines.append(_line(['---'] * (len(head) + 3)))
    for one in rows:
        cells = [one['model'], one['data'], one['protocol'], str(one['images'])]
        cells += [_cell(one, name) for name in names]
        sha256 = one['provenance']['sha256'][:8]
        lines.append(_line([*cells, one['outliers'], one['commit'][:10] or '–', sha256]))
    missing = [
        f'- {one["model"]} on {one["data"]}: no {", ".join(names)}, {reason}.'
        for one in rows
        for reason, names in _by_reason(one['not_measured']).items()
    ]
    notes = [*missing, *_notes(rows)]
    return '\n'.join([*lines, *([''] if notes else []), *notes]) + '\n'


def _notes(rows: Sequence[Row]) -> list[str]:
    """Which rows judge coarser classes, and how long a frame takes, where that was measured."""
    notes = []
    for one in rows:
        classes = one['provenance'].get('classes', '')
        if classes.startswith('coarse: '):
            notes.append(f'- {one["model"]} on {one["data"]}: classes are {classes}.')
    timed = [one for one in rows if 'timing' in one['provenance']]
    for one in timed:
        found = one['provenance']['timing']
        height, width = found['frame']
        busy = f'; other work ran, load {found["load"]:.1f}' if found.get('load', 0) > _BUSY else ''
        notes.append(
            f'- {one["model"]}: {found["ms"]:.1f} ms a frame of {width}x{height}, '
            f'{found["time_over_trunk"]:.2f} of the bare trunk in the same run '
            f'({found["trunk"]}; {found["cpu"]}{busy}).'
        )
    return list(dict.fromkeys(notes))


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return names


def _line(cells: Sequence[str]) -> str:
    return '| ' + ' | '.join(cell.replace('|', '/') for cell in cells) + ' |'


def _cell(one: Row, name: str) -> str:
    if name not in one['metrics']:
        return '–'
    text = f'{100 * one["metrics"][name]:.1f}'
    if name in one['interval']:
        low, high = one['interval'][name]
        text += f' [{100 * low:.1f}, {100 * high:.1f}]'
    return text
