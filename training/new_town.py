"""The recipe "bring your own drive" of docs/codebook.md, measured on a town that is new.

`python -m training.new_town --data ROOT --out RUNS [--json F] [--page docs/codebook.md]`

A network learns CamVid on the small schedule of the ablation and becomes a model file ('one town').
From that file training goes on as long again, on both CamVid and IDD-Lite ('and a new town') or, as
a control, on CamVid alone ('as long, no new town'). Each model file is judged: mIoU on CamVid test
and on IDD-Lite val, and what share of `drive_motorway`, uneventful and new to all of them, lies
above the threshold that the model's own training pictures give for one normal pixel in a hundred.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from training.ablation import SCHEDULE
from training.benchmark import run as benchmark
from training.drift_drives import motorway
from training.export import export
from training.judging import Figures, Study, by_row, kept_figures, run_folder, spread
from training.measurement import Measurement, read_dataset
from training.studies import drive_config
from training.tables import Row
from training.train import train
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.model_file import ModelFile, read
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.metrics import find_protocol

FIRST = 'one town'
# What differs from the schedule; those but the first begin with the first one's model file.
ROWS: dict[str, dict[str, Any]] = {
    FIRST: {},
    'as long, no new town': {'learning_rate': 0.0005},
    # As many steps: one pass over four times as many pictures.
    'and a new town': {
        'learning_rate': 0.0005,
        'datasets': ('camvid/train', 'idd_lite/train'),
        'epochs': 1,
    },
}
SETS = {'camvid': 'test', 'idd_lite': 'val'}
TARGET = 1e-2
EVERY = 5  # frame of the motorway, which has 25 a second
_MODEL = 'model.onnx'


def model_of(name: str, seed: int, data: Path, runs: Path) -> ModelFile:
    """The model file of a row with a seed, trained where it is not in `runs` yet."""
    run = run_folder(runs, name, seed)
    path = run / _MODEL
    if path.exists():
        return read(path)
    changes: dict[str, Any] = {**ROWS[name], 'seed': seed}
    if name != FIRST:
        changes['start_from'] = str(model_of(FIRST, seed, data, runs).path)
    train(dataclasses.replace(SCHEDULE, **changes), data, run, progress=False)
    return export(run, path, data)


def judge(model: ModelFile, data: Path) -> Figures:
    """{'miou': {data set: fraction of 1}, 'flagged': share of the motorway's pixels, 'commit'}."""
    rows: list[Row] = []
    jobs = []
    for name, split in SETS.items():
        measurement = Measurement(find_protocol('segmentation'), split=split)
        jobs.append((read_dataset(data / name, measurement), measurement))
    benchmark([model], jobs, Console(stderr=True), rows.append)
    found = {name: row['metrics']['miou'] for name, row in zip(SETS, rows, strict=True)}
    return {'miou': found, 'flagged': flagged(model, data), 'commit': model.info.commit}


def flagged(model: ModelFile, data: Path) -> float:
    """Share of the pixels of drive_motorway above the threshold for TARGET."""
    config = dataclasses.replace(drive_config(str(model.path), with_codes=False), target_fpr=TARGET)
    with Detector(config) as detector:
        masks = [
            detector.detect([Frame(picture, 'bgr')])[0].anomaly_mask
            for picture in motorway(data)[::EVERY]
        ]
    return float(np.mean([(mask > 0).mean() for mask in masks]))


def measure(name: str, seed: int, data: Path, runs: Path) -> Figures:
    """Train and judge one row with one seed; what is finished is read from its folder."""
    run = run_folder(runs, name, seed)
    figures = kept_figures(run, lambda: judge(model_of(name, seed, data, runs), data))
    return {'row': name, 'seed': seed, **figures}


def markdown(rows: Sequence[Figures]) -> str:
    """The table: a line a row, figures in per cent."""
    lines = [
        '| trained on | seeds | mIoU, CamVid test | mIoU, IDD-Lite val | motorway above 1.0 |',
        '|---|---|---|---|---|',
    ]
    for name, mine in by_row(rows).items():
        cells = [spread([row['miou'][one] for row in mine]) for one in SETS]
        cells.append(spread([row['flagged'] for row in mine]))
        lines.append(f'| {name} | {len(mine)} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    folders = {'data': 'folder of the data sets'}
    study = Study('new_town', list(ROWS), measure, markdown, lines=1, folders=folders)
    return study.run(__doc__, argv)


if __name__ == '__main__':
    sys.exit(main())
