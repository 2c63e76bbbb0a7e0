"""CPC on drives: does the score of a frame tell a faulty camera, of any fault, without labels?

`python -m training.cpc_drives --data DATA --out RUNS --json docs/benchmarks/cpc_drives.json
--page docs/cpc.md` trains `cpc-drive` on the first half of each drive of `training.drift`, and puts
each fault of `replay.faults` on frames of the second half: image AUROC of faulty against untouched
frames. Frozen frames are a fault of the stream, which no score of a picture can tell.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import Tensor

from training.cpc_industrial import judged_row
from training.cpc_judging import Bank, Figures, at_input_size, auroc
from training.drift_drives import DRIVES
from training.judging import Study, kept_figures, run_folder
from training.methods.cpc.export import frame_term
from training.methods.cpc.scorer import picture_score
from training.methods.cpc.task import Config, Image, normalised
from training.train import read_any_config
from vq_anomaly_ros.replay.faults import FAULTS, faulty
from vq_anomaly_ros.replay.files import staged

ROWS = [name for name, drive in DRIVES.items() if drive.onsets]
STEPS = 200
SEVERITIES = (1, 3)
_UNTOUCHED = 30  # frames of the second half at most
_FAULTY = 15  # of them, with each fault
# Scores of a frame: what they are called in the table.
SCORES = {
    'frame_term': 'frame term',
    'map': 'mean of the exported map: loss + frame term',
    'loss': 'mean loss',
    'loss_top': 'mean loss of the top twentieth',
    'nearest': 'kNN on z, mean',
}
FrameScores = Callable[[Tensor], Mapping[str, float]]


def shipped() -> Config:
    """The configuration for drives; training/configs/cpc-drive.yaml."""
    return cast(Config, read_any_config('cpc-drive', []))


def keep_frames(frames: Sequence[Image], config: Config, folder: Path) -> None:
    """Write frames uint8 BGR at the network's input size, in order, for training to read."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged(folder) as draft:
        for number, frame in enumerate(frames):
            small = cv2.cvtColor(at_input_size(frame, config), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(draft / f'{number:05}.png'), small)


def evenly(frames: Sequence[Image], most: int) -> list[Image]:
    """At most `most` frames at equal distances."""
    if len(frames) <= most:
        return list(frames)
    return [frames[int(place)] for place in np.linspace(0, len(frames) - 1, most)]


def frame_scores(bank: Bank) -> FrameScores:
    """All scores of a frame from its z, [1, D, rows, columns]."""
    scorer, nearest = bank.scorer(), bank.nearest()
    term = frame_term(bank.net, bank.centres, bank.log_counts, bank.grids)

    def scores(z: Tensor) -> Mapping[str, float]:
        losses = scorer.grid_losses(z)
        mean, top = (float(picture_score(losses, how)) for how in ('mean', 'top'))
        untypical = float(term(z))
        return {
            'frame_term': untypical,
            'map': mean + untypical,
            'loss': mean,
            'loss_top': top,
            'nearest': float(picture_score(nearest(z), 'mean')),
        }

    return scores


def fault_figures(frames: Sequence[Image], bank: Bank) -> Figures:
    """Image AUROC by severity, score and fault: frames uint8 BGR that the bank has not seen."""
    score_of = frame_scores(bank)

    def scored(chosen: Sequence[Image]) -> list[Mapping[str, float]]:
        with torch.inference_mode():
            inputs = (torch.from_numpy(at_input_size(one, bank.config))[None] for one in chosen)
            return [score_of(bank.net.encode(normalised(one))) for one in inputs]

    untouched, shown = scored(evenly(frames, _UNTOUCHED)), evenly(frames, _FAULTY)
    found: Figures = {}
    for severity in SEVERITIES:
        rows: dict[str, dict[str, float]] = {name: {} for name in SCORES}
        for fault in FAULTS:
            bad = scored([faulty(one, fault, severity, n) for n, one in enumerate(shown)])
            verdicts = [False] * len(untouched) + [True] * len(bad)
            for name, row in rows.items():
                row[fault] = auroc([one[name] for one in (*untouched, *bad)], verdicts)
        found[str(severity)] = rows
    return {'auroc': found, 'untouched': len(untouched), 'faulty': len(shown)}


def measure(
    name: str,
    seed: int,
    data: Path,
    runs: Path,
    config: Config | None = None,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Train on the first half of a drive and judge on its second; a finished row is read."""
    run = run_folder(runs, name, seed)
    chosen = dataclasses.replace(config or shipped(), datasets=(name,), seed=seed)

    def make() -> Figures:
        frames = DRIVES[name].read(data)
        half = len(frames) // 2
        keep_frames(frames[:half], chosen, runs / 'frames' / name)
        judge = partial(fault_figures, frames[half:])
        return judged_row(chosen, steps, runs / 'frames', run, judge)

    return {'row': name, 'seed': seed, **kept_figures(run, make)}


def mean_auroc(row: Figures, severity: int, score: str) -> float:
    """Of a row, the mean over all faults."""
    return float(np.mean(list(row['auroc'][str(severity)][score].values())))


def markdown(rows: Sequence[Figures]) -> str:
    """Two tables: scores by drive, and the frame term by fault."""
    drives = [str(row['row']) for row in rows]
    lines = [
        f'| frame score, severity | {" | ".join(drives)} | mean |',
        '|---|' + '---|' * (len(drives) + 1),
    ]
    for severity in reversed(SEVERITIES):
        for score, title in SCORES.items():
            values = [mean_auroc(row, severity, score) for row in rows]
            lines.append(f'| {title}, {severity} | {_cells([*values, float(np.mean(values))])} |')
    lines += ['', f'| frame term by fault | {" | ".join(FAULTS)} |']
    lines.append('|---|' + '---|' * len(FAULTS))
    for severity in reversed(SEVERITIES):
        by_fault = [row['auroc'][str(severity)]['frame_term'] for row in rows]
        means = [float(np.mean([one[fault] for one in by_fault])) for fault in FAULTS]
        lines.append(f'| severity {severity}, mean over drives | {_cells(means)} |')
    return '\n'.join(lines) + '\n'


def _cells(values: Sequence[float]) -> str:
    return ' | '.join(f'{100 * value:.1f}' for value in values)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    folders = {'data': 'folder of the data sets'}
    study = Study('cpc_drives', ROWS, measure, markdown, lines=5, folders=folders, seeds=(0,))
    return study.run(__doc__, argv)


if __name__ == '__main__':
    sys.exit(main())
