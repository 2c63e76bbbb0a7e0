"""Ablations of the codebook method on a small schedule, judged on the validation set `pasted`.

`python -m training.ablation --data ROOT --pasted DIR --out RUNS [--rows NAME ...] [--seeds 0 1 2]`
trains each row of ROWS with each seed (finished ones are taken from RUNS) and writes
RUNS/ablation.json and a table: mean and spread over the seeds.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.export import load_task
from training.exporting import commit
from training.judging import (
    Study,
    anomaly_figures,
    by_row,
    class_miou,
    kept_figures,
    run_folder,
    spread,
)
from training.methods.codebook import scores
from training.methods.codebook.model import CodebookNet
from training.methods.codebook.quantisation import (
    Decoder,
    reconstruction_error,
    small_picture,
)
from training.methods.codebook.task import Config
from training.train import train

# Half of the release's sizes, a tenth of its steps: two to three minutes a run on a core.
SCHEDULE = Config(
    name='ablation',
    datasets=('camvid/train',),
    outlier_held_out=0.2,
    input_size=(256, 512),
    crop=(160, 256),
    heights=(135, 396),
    frozen_blocks=3,
    epochs=5,
)
OFF: dict[str, Any] = {'outlier_objects': '', 'void_labels': False}
FIXED: dict[str, Any] = {'frozen_blocks': 16, 'coarse': 200, 'coarse_distance': 'cosine'}
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
    'known objects pasted, too': {'known_most': 2},
    'weather': {'weather': 0.3},
    'averaged weights': {'average_weights': 0.98},
    # As many steps: one pass over four times as many pictures.
    'two towns': {'datasets': ('camvid/train', 'idd_lite/train'), 'epochs': 1},
    'unused codevectors onto features': {'restart_by': 'feature'},
    'decoder': {'reconstruct_weight': 0.1, 'reconstruct_labels': True},
    'tau = 0.05': {'temperature': 0.05},
    'tau = 0.1': {'temperature': 0.1},
    'M = 1': {'codevectors': 1},
    'M = 5': {'codevectors': 5},
    'M = 20': {'codevectors': 20},
    'D = 128': {'dimension': 128},
    'backbone fixed, no outlier data': {
        **OFF, **FIXED, 'coarse_share': 0.7
    },
    'backbone fixed, shipped': {**FIXED, 'coarse_share': 0.3},
}  # fmt: skip
Score = Callable[[CodebookNet, Tensor], Tensor]
# Scores of one and the same network: similarity [B, C, M, h, w] -> [B, h, w].
SCORES: dict[str, Score] = {
    'T1': lambda net, s: scores.anomaly_score(scores.weighted_top_k(s, net.top_k, net.temperature)),
    'T2': lambda net, s: scores.anomaly_score(scores.shared_top_k(s, net.top_k, net.temperature)),
    'K = 1': lambda net, s: scores.anomaly_score(scores.weighted_top_k(s, 1, net.temperature)),
    'K = 5': lambda net, s: scores.anomaly_score(scores.weighted_top_k(s, 5, net.temperature)),
    'mean of K': lambda net, s: scores.anomaly_score(scores.mean_top_k(s, net.top_k)),
    'logsumexp': lambda net, s: scores.negative_evidence(s, net.temperature),
    'runner-up': lambda net, s: scores.without_runner_up(
        scores.weighted_top_k(s, net.top_k, net.temperature), 0.3
    ),
    'evidence of classes': lambda net, s: scores.class_evidence(
        scores.weighted_top_k(s, net.top_k, net.temperature), 0.1
    ),
    'T1, 3x3 mean': lambda net, s: scores.smoothed(
        scores.anomaly_score(scores.weighted_top_k(s, net.top_k, net.temperature)), 3
    ),
}
# Scores of rows with a decoder besides, and of those with a coarse codebook.
CUES = ('reconstruction error', 'T1 + reconstruction error')
COARSE = ('coarse codebook', 'T1 + coarse codebook')


def judge(run: Path, pasted: Path, validation: Path) -> dict[str, Any]:
    """Figures of a run: {'scores': {name: {'ap', 'fpr95'}}, 'miou', 'unused codevectors'}."""
    task = load_task(run)
    config, net, decoder = task.config, task.net, task.decoder
    used = torch.zeros(len(config.classes) * config.codevectors, dtype=torch.long)

    def anomaly_scores(picture: Tensor) -> Mapping[str, Tensor]:
        backbone = net.maps(picture)
        found = net.likelihood(net.features(net.fusion(backbone))).similarity
        maps = {name: score(net, found) for name, score in SCORES.items()}
        if net.coarse is not None:
            novelty = net.coarse(backbone[-1])
            mixed = scores.with_coarse(maps['T1'], novelty, net.coarse_share)
            maps |= dict(zip(COARSE, (novelty, mixed), strict=True))
        if decoder is not None:
            error = reconstruction_cue(net, decoder, found, picture)
            maps |= dict(zip(CUES, (error, maps['T1'] + error), strict=True))
        return maps

    def class_scores(picture: Tensor) -> Tensor:
        found = net.likelihood(net.encode(picture)).similarity
        used.add_(scores.nearest_codes(found).flatten().bincount(minlength=len(used)))
        return scores.weighted_top_k(found, net.top_k, net.temperature)

    miou = class_miou(validation, config.classes, config.input_size, class_scores)
    return {
        'scores': anomaly_figures(pasted, config.input_size, anomaly_scores),
        'miou': miou,
        'unused codevectors': int((used == 0).sum()),
        'commit': commit(),
    }


def reconstruction_cue(
    net: CodebookNet, decoder: Decoder, similarity: Tensor, picture: Tensor
) -> Tensor:
    """How far the picture decoded from the nearest codevectors is from it, at the map's size.

    similarity: [1, C, M, h, w]; picture: uint8 RGB [1, H, W, 3] -> [1, h, w] in 0..1.
    """
    quantised = net.codebook.flatten(0, 1)[scores.nearest_codes(similarity)].movedim(-1, 1)
    return reconstruction_error(decoder(quantised)[0], small_picture(picture, quantised.shape[2:]))


def measure(
    name: str, seed: int, data: Path, pasted: Path, runs: Path, schedule: Config = SCHEDULE
) -> dict[str, Any]:
    """Train and judge one row with one seed; a finished one is read from its folder."""
    run = run_folder(runs, name, seed)

    def make() -> dict[str, Any]:
        changes: Mapping[str, Any] = {**ROWS[name], 'seed': seed}
        train(dataclasses.replace(schedule, **changes), data, run, progress=False)
        return judge(run, pasted, data / 'camvid/val')

    return {'row': name, 'seed': seed, **kept_figures(run, make)}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table: a line a row (with T1), then the other scores of the first row."""
    lines = ['| row | seeds | AP | FPR95 | mIoU | unused |', '|---|---|---|---|---|---|']
    for name, mine in by_row(rows).items():
        cells = [spread([row['scores']['T1'][key] for row in mine]) for key in ('ap', 'fpr95')]
        cells.append(spread([row['miou'] for row in mine]))
        unused = ', '.join(str(row['unused codevectors']) for row in mine)
        lines.append(f'| {name} | {len(mine)} | {" | ".join(cells)} | {unused} |')
    of_rows = list(by_row(rows).values())
    more: list[tuple[list[dict[str, Any]], Sequence[str]]] = [(of_rows[0], list(SCORES)[1:])]
    more += [(mine, cues) for cues in (CUES, COARSE) for mine in of_rows if _has(mine, cues)]
    for same, names in more:
        for score in names:
            cells = [spread([row['scores'][score][key] for row in same]) for key in ('ap', 'fpr95')]
            lines.append(
                f'| {same[0]["row"]}, score {score} | {len(same)} | {" | ".join(cells)} | | |'
            )
    return '\n'.join(lines) + '\n'


def _has(rows: Sequence[dict[str, Any]], cues: Sequence[str]) -> bool:
    return cues[0] in rows[0]['scores']


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return Study('ablation', list(ROWS), measure, markdown, lines=1).run(__doc__, argv)


if __name__ == '__main__':
    sys.exit(main())
