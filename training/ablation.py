"""Ablations of the codebook method on a small schedule, judged on the validation set `pasted`.

`python -m training.ablation --data ROOT --pasted DIR --out RUNS [--rows NAME ...] [--seeds 0 1 2]`
trains each row of ROWS with each seed (finished ones are taken from RUNS) and writes
RUNS/ablation.json and a table: mean and spread over the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from training.data.folders import (
    FolderError,
    class_table,
    load_anomaly_labels,
    load_class_ids,
    load_image,
    read_anomaly_folder,
    read_segmentation_folder,
)
from training.export import load_run
from training.methods.codebook import scores
from training.methods.codebook.model import CodebookNet
from training.methods.codebook.task import Config
from training.train import train
from vq_anomaly_ros.metrics import PixelScores, confusion, mean_iou

# Half of the release's sizes, a tenth of its steps: two to three minutes a run on two cores.
SCHEDULE = Config(
    name='ablation',
    datasets=('camvid/train',),
    outlier_held_out=0.2,
    input_size=(256, 512),
    crop=(160, 256),
    heights=(135, 396),
    epochs=5,
)
OFF: dict[str, Any] = {'outlier_objects': '', 'void_labels': False}
SOFT: dict[str, Any] = {'void_labels': False, 'void_soft_weight': 0.1, 'void_erosion': 1}
# What differs from the schedule, which is the shipped objective: void labels and pasted objects.
ROWS: dict[str, dict[str, Any]] = {
    'shipped objective': {},
    'no outlier data': OFF,
    '+ void labels': {'outlier_objects': ''},
    '+ void, soft': {**SOFT, 'outlier_objects': ''},
    '+ pixel to code': {**OFF, 'pixel_code_weight': 0.1},
    '+ code to pixel': {**OFF, 'code_pixel_weight': 0.1},
    '+ code to code': {**OFF, 'code_code_weight': 0.05},
    'all four contrastive terms': {
        **SOFT,
        'outlier_objects': '',
        'pixel_code_weight': 0.1,
        'code_pixel_weight': 0.1,
        'code_code_weight': 0.05,
        'void_queue': 4096,
    },
    'shipped + all four': {
        'void_soft_weight': 0.1,
        'void_erosion': 1,
        'pixel_code_weight': 0.1,
        'code_pixel_weight': 0.1,
        'code_code_weight': 0.05,
        'void_queue': 4096,
    },
    'codebook by averages': {'codebook_update': 'average', 'commit_weight': 0.25},
    'balanced assignment': {
        'codebook_update': 'average',
        'commit_weight': 0.25,
        'assignment': 'balanced',
    },
    'some textures': {'outlier_textures': 0.3},
    'decoder': {'reconstruct_weight': 0.1, 'reconstruct_labels': True},
    'M = 1': {'codevectors': 1},
    'M = 5': {'codevectors': 5},
    'M = 20': {'codevectors': 20},
    'D = 128': {'dimension': 128},
}
Score = Callable[[CodebookNet, Tensor], Tensor]
# Scores of one and the same network: similarity [B, C, M, h, w] -> [B, h, w].
SCORES: dict[str, Score] = {
    'T1': lambda net, s: scores.anomaly_score(scores.weighted_top_k(s, net.top_k, net.temperature)),
    'T2': lambda net, s: scores.anomaly_score(scores.shared_top_k(s, net.top_k, net.temperature)),
    'K = 1': lambda net, s: scores.anomaly_score(scores.weighted_top_k(s, 1, net.temperature)),
    'mean of K': lambda net, s: scores.anomaly_score(scores.mean_top_k(s, net.top_k)),
    'logsumexp': lambda net, s: scores.negative_evidence(s, net.temperature),
    'runner-up': lambda net, s: scores.without_runner_up(
        scores.weighted_top_k(s, net.top_k, net.temperature), 0.3
    ),
}


def judge(run: Path, pasted: Path, validation: Path) -> dict[str, Any]:
    """Figures of a run: {'scores': {name: {'ap', 'fpr95'}}, 'miou', 'unused codevectors'}."""
    config, net = load_run(run)
    evaluations = {name: PixelScores() for name in SCORES}
    with torch.inference_mode():
        for sample in read_anomaly_folder(pasted).samples:
            labels = load_anomaly_labels(sample.label)
            similarity = _similarity(net, config, load_image(sample.image))
            for name, score in SCORES.items():
                found = score(net, similarity)[0].numpy()
                evaluations[name].add(_upsampled(found, labels.shape), labels)
        miou, unused = _classes(net, config, validation)
    figures = {name: one.result() for name, one in evaluations.items()}
    return {
        'scores': {name: {'ap': m.ap, 'fpr95': m.fpr95} for name, m in figures.items()},
        'miou': miou,
        'unused codevectors': unused,
    }


def _similarity(net: CodebookNet, config: Config, bgr: np.ndarray) -> Tensor:
    height, width = config.input_size
    stretched = cv2.resize(bgr, (int(width), int(height)), interpolation=cv2.INTER_LINEAR)
    picture = torch.from_numpy(cv2.cvtColor(stretched, cv2.COLOR_BGR2RGB))[None]
    return net.likelihood(net.encode(picture)).similarity


def _upsampled(score: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return cv2.resize(score, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _classes(net: CodebookNet, config: Config, validation: Path) -> tuple[float, int]:
    """mIoU of a split, and how many codevectors no position of it chose."""
    folder = read_segmentation_folder(validation)
    table = class_table(folder.classes, config.classes, validation)
    matrix = np.zeros((len(config.classes), len(config.classes)), np.int64)
    used = torch.zeros(len(config.classes) * config.codevectors, dtype=torch.long)
    for sample in folder.samples:
        labels = load_class_ids(sample.label, table).astype(np.uint8)
        similarity = _similarity(net, config, load_image(sample.image))
        used += scores.nearest_codes(similarity).flatten().bincount(minlength=len(used))
        found = scores.weighted_top_k(similarity, net.top_k, net.temperature)[0].numpy()
        upsampled = np.stack([_upsampled(one, labels.shape) for one in found])
        matrix += confusion(upsampled.argmax(axis=0).astype(np.uint8), labels, len(config.classes))
    return float(mean_iou(matrix)), int((used == 0).sum())


def measure(
    name: str, seed: int, data: Path, pasted: Path, runs: Path, schedule: Config = SCHEDULE
) -> dict[str, Any]:
    """Train and judge one row with one seed; a finished one is read from its folder."""
    run = runs / f'{name.replace(" ", "_").replace("+", "plus")}-{seed}'
    kept = run / 'figures.json'
    if not kept.exists():
        changes: Mapping[str, Any] = {**ROWS[name], 'seed': seed}
        train(dataclasses.replace(schedule, **changes), data, run, progress=False)
        figures = judge(run, pasted, data / 'camvid/val')
        scratch = kept.with_suffix('.tmp')
        scratch.write_text(json.dumps(figures, indent=1) + '\n')
        scratch.replace(kept)
    return {'row': name, 'seed': seed, **json.loads(kept.read_text())}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table: a line a row (with T1), then the other scores of the first row."""
    lines = ['| row | seeds | AP | FPR95 | mIoU | unused |', '|---|---|---|---|---|---|']
    for name in dict.fromkeys(row['row'] for row in rows):
        mine = [row for row in rows if row['row'] == name]
        cells = [_spread([row['scores']['T1'][key] for row in mine]) for key in ('ap', 'fpr95')]
        cells.append(_spread([row['miou'] for row in mine]))
        unused = ', '.join(str(row['unused codevectors']) for row in mine)
        lines.append(f'| {name} | {len(mine)} | {" | ".join(cells)} | {unused} |')
    first = [row for row in rows if row['row'] == rows[0]['row']]
    for score in list(SCORES)[1:]:
        cells = [_spread([row['scores'][score][key] for row in first]) for key in ('ap', 'fpr95')]
        lines.append(
            f'| {rows[0]["row"]}, score {score} | {len(first)} | {" | ".join(cells)} | | |'
        )
    return '\n'.join(lines) + '\n'


def _spread(values: Sequence[float]) -> str:
    """Per cent: mean, and half of the range where there are several."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f'{mean:.1f}'
    return f'{mean:.1f} ± {50 * (max(values) - min(values)):.1f}'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='training.ablation', description=__doc__)
    add = parser.add_argument
    add('--data', type=Path, required=True, help='folder of the data sets')
    add('--pasted', type=Path, required=True, help='folder that training.pasted made')
    add('--out', type=Path, required=True, help='folder of the runs')
    add('--rows', nargs='+', choices=list(ROWS), default=list(ROWS), metavar='NAME', help='of ROWS')
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    try:
        for seed in options.seeds:
            for name in options.rows:
                rows.append(measure(name, seed, options.data, options.pasted, options.out))
                print(markdown(rows[-1:]).splitlines()[2], flush=True)
    except (FolderError, OSError, ValueError) as error:
        print(f'training.ablation: {error}', file=sys.stderr)
        return 2
    rows.sort(key=lambda row: list(ROWS).index(row['row']))
    (options.out / 'ablation.json').write_text(json.dumps(rows, indent=1) + '\n')
    print(markdown(rows), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
