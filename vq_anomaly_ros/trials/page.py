"""page: docs/reliability.md from the recorded runs in docs/benchmarks.

python -m vq_anomaly_ros.trials.page > docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vq_anomaly_ros.trials import lifecycle, soak
from vq_anomaly_ros.trials.bench import KEPT

Told = Mapping[str, Any]

_HEAD = """\
# Reliability

Made by `python -m vq_anomaly_ros.trials.page` from the recorded runs in `docs/benchmarks/`. Every
command below takes `--json` and says with its exit code whether all held; all take `--help`.

What is promised: every camera is served in turn, the newest frame first; received = published +
superseded + rejected + failed + in flight at any moment; a frame waits for one turn of all cameras
at most; what is wrong is told in the log (once a second) and in `/diagnostics`; the node goes on.
"""
_TAIL = """\
## What it does not survive
- No memory for the middleware itself: Fast DDS aborts the process, `respawn:=true` starts it again.
  Too little for one large image is survived: the image is lost, and told.
- An engine that hangs more than three times (a thread in native code cannot be ended): the process
  ends with code 75, `respawn:=true` starts it again.
- Another model at every `configure`, for ever, with OpenVINO: what it compiles leaves about 5 kB
  and holes in the heap behind, 20 to 40 kB a time. The same model again is not compiled again: its
  graph stays in memory from `cleanup` to the next `configure`.
"""
_OPENVINO = 'Lifecycle under load, OpenVINO'
_OPENVINO_OPTIONS = '--model street-small --backend openvino --cameras 2'
_TAKEN = ('rss_mb', 'threads', 'descriptors')
_GOALS = {  # ratio: (whether it is the most, the goal)
    'detector_over_engine': (True, 1.15),
    'node_over_detector': (True, 1.25),
    'four_camera_share': (False, 0.8),
    'fairness': (False, 0.9),
    'first_result_s': (True, 3.0),
}
_NOT_YET = 'Not recorded yet.\n'


def page(folder: Path = KEPT) -> str:
    """The page, of what is recorded in a folder."""
    sections: list[tuple[str, str, str, Callable[[Told], str]]] = [
        ('Ratios', 'bench', 'bench', _ratios),
        ('What befalls it', 'node_trials', 'faults', _trials),
        ('Lifecycle under load', 'lifecycle', 'lifecycle', _lifecycle),
        (_OPENVINO, 'lifecycle_openvino', f'lifecycle {_OPENVINO_OPTIONS}', _lifecycle),
        ('Fuzzing', 'fuzz', 'fuzz', _fuzz),
        ('Soak', 'soak', 'soak', _soak),
    ]
    parts = [_HEAD]
    for title, name, module, told in sections:
        path = folder / f'{name}.json'
        command = f'`python -m vq_anomaly_ros.trials.{module}`\n'
        recorded = _NOT_YET
        if path.is_file():
            content = json.loads(path.read_text(encoding='utf-8'))
            recorded = f'{_where(content["machine"])}\n\n{told(content)}'
        parts.append(f'## {title}\n{command}\n{recorded}')
    return '\n'.join([*parts, _TAIL])


def _where(machine: Told) -> str:
    busy = f', load {machine["load"]} when it ended' if machine['load'] > 1 else ''
    return (
        f'Recorded {machine["date"]}, commit {machine["commit"] or "unknown"}, {machine["cpu"]}, '
        f'{machine["cores"]} cores{busy}.'
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [f'| {" | ".join(map(str, row))} |' for row in rows]
    return '\n'.join([f'| {" | ".join(head)} |', '|---' * len(head) + '|', *lines, ''])


def _ratios(told: Told) -> str:
    rows = []
    for name, (most, goal) in _GOALS.items():
        value = told[name]
        held = value <= goal if most else value >= goal
        rows.append((name, f'{value:g}', f'{"≤" if most else "≥"} {goal:g}', _said(held)))
    starts = ', '.join(f'{seconds:g}' for seconds in sorted(told['starts_s']))
    return (
        f'Model {told["model"]}; what each is: [performance](performance.md).\n\n'
        + _table(('ratio', 'measured', 'goal', ''), rows)
        + f'\nSeconds to the first result of each start: {starts}.\n'
    )


def _said(held: bool) -> str:
    return 'holds' if held else '**does not hold**'


def _trials(told: Told) -> str:
    rows = []
    for row in told['trials']:
        if row['outcome'] == 'held':
            counts = row['counts']
            frames = (
                f'{counts["received"]} received, {counts["superseded"]} superseded, '
                f'{counts["rejected"] + counts["failed"]} rejected or failed'
            )
            rows.append((row['title'], 'held', frames, f'{row["recovery_s"]} s'))
        else:
            why = row['why'].partition('\n')[0]
            rows.append((row['title'], f'**{row["outcome"]}**', why, '–'))
    head = ('trial', 'outcome', 'frames of three cameras', 'all answered again after')
    said = (
        'After each: every camera answered, account whole, diagnostics calm, no thread or '
        'descriptor more.\n\n'
    )
    return said + _table(head, rows)


def _lifecycle(told: Told) -> str:
    row = told['lifecycle']
    said = '; '.join(lifecycle.problems(row))
    ends = {name: ' → '.join(map(str, row[name])) for name in _TAKEN}
    found = (
        f'{row["cycles"]} times configure, activate, deactivate, clean up, while {row["cameras"]} '
        f'camera(s) sent {row["frames_sent"]} frames ({row["model"]}, {row["backend"]}): memory '
        f'{ends["rss_mb"]} MB, threads {ends["threads"]}, descriptors {ends["descriptors"]}.\n'
    )
    limit = f'{lifecycle.MOST_GROWTH_MB:g} MB'
    held = f'**Does not hold** ({limit}): {said}.' if said else f'Holds ({limit}).'
    bare = (
        f'A bare publisher that is made and destroyed leaves {row["bare_publisher_kb"]} kB behind '
        'in rclpy and the middleware; a camera has a dozen.'
    )
    return f'{found}{held} {bare}\n'


def _fuzz(told: Told) -> str:
    rows = [
        (row['target'], row['inputs'], len(row['found']), f'{row["rss_growth_mb"]} MB')
        for row in told['targets']
    ]
    head = ('target', 'inputs', 'crashes, hangs, defects', 'growth of memory')
    return _table(head, rows)


def _soak(told: Told) -> str:
    row = told['soak']
    rows = [(name, f'{row["first"][name]:g}', f'{row["last"][name]:g}') for name in soak.NOISE]
    height, width = row['size']
    said = '; '.join(soak.problems(row)) or 'nothing beyond noise'
    about = (
        f'{row["seconds"] / 60:g} minutes, {row["cameras"]} cameras of {width}x{height} at '
        f'{row["rate"]:g} Hz: {said}.\n\n'
    )
    return about + _table(('', 'first sixth', 'last sixth'), rows)


if __name__ == '__main__':
    sys.stdout.write(page())
