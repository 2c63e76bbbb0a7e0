"""The rows of the baselines' table: train on the schedule of the ablations, judge as they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from training.ablation import OFF, SCHEDULE
from training.backbones import EfficientNetLite0
from training.baselines.density import FeatureDensity, coarse_features, training_features
from training.baselines.gmmseg import GmmHead
from training.baselines.linear import LinearHead
from training.baselines.network import BaselineNet, Head
from training.baselines.protoseg import ProtoHead
from training.baselines.shared import SharedCodebookHead
from training.baselines.task import fit
from training.exporting import commit
from training.judging import (
    Figures,
    anomaly_figures,
    by_row,
    class_miou,
    kept_figures,
    run_folder,
    spread,
)
from training.methods.codebook.task import Config, read_examples
from training.train import write_config

# Features a component: fifty steps of the short schedule. The paper's 32,000 are 1,600 of its
# 80,000 steps or more; here they would still hold what the encoder gave at the start.
_MEMORY = 1000
HEADS: dict[str, Callable[[Config], Head]] = {
    'linear head': lambda config: LinearHead(len(config.classes), config.fine_channels),
    'GMMSeg': lambda config: GmmHead(
        len(config.classes), config.fine_channels, config.dimension, memory=_MEMORY
    ),
    'ProtoSeg-like': lambda config: ProtoHead(
        len(config.classes), config.fine_channels, config.dimension
    ),
    'shared codebook': lambda config: SharedCodebookHead(
        len(config.classes),
        config.fine_channels,
        config.dimension,
        len(config.classes) * config.codevectors,
        config.top_k,
        config.temperature,
    ),
}
DENSITY = 'feature density'
ROWS = (*HEADS, DENSITY)
_DENSITIES = {'k-means': 'centres', 'kNN': 'neighbours'}
OUTLIERS = 'none'  # no baseline sees pasted objects or learns from void labels


def measure(
    name: str, seed: int, data: Path, pasted: Path, runs: Path, schedule: Config = SCHEDULE
) -> Figures:
    """Figures of one of ROWS with one seed; a finished one is read from its folder in `runs`.

    {'row', 'seed', 'scores': {name: {'ap', 'fpr95'}}, 'miou' (None for a density), 'outliers'};
    `data`: folder of the data sets, `pasted`: the anomaly folder to judge on. Raises FolderError
    for missing data.
    """
    run = run_folder(runs, name, seed)
    config = dataclasses.replace(schedule, **OFF, name=name, seed=seed)

    def make() -> Figures:
        run.mkdir(parents=True, exist_ok=True)
        write_config(config, run)
        if name == DENSITY:
            return density_figures(config, data, pasted)
        return head_figures(config, HEADS[name], data, pasted)

    return {'row': name, 'seed': seed, **kept_figures(run, make)}


def head_figures(
    config: Config, head: Callable[[Config], Head], data: Path, pasted: Path
) -> Figures:
    """Train a head and judge it."""
    net = fit(
        config, data, lambda: BaselineNet(head(config), config.channels, config.fine_channels)
    )
    size = config.input_size
    return {
        'scores': anomaly_figures(pasted, size, lambda picture: net.judge(picture).anomaly),
        'miou': class_miou(data / 'camvid/val', config.classes, size, net),
        'outliers': OUTLIERS,
        'commit': commit(),
    }


def density_figures(config: Config, data: Path, pasted: Path) -> Figures:
    """Fit the density of the ImageNet backbone's features and judge it; it knows no classes."""
    backbone = EfficientNetLite0().eval()
    features = training_features(backbone, read_examples(config, data), config.input_size)
    density = FeatureDensity(features, seed=config.seed)

    def scores(picture: Tensor) -> Mapping[str, Tensor]:
        maps = coarse_features(backbone, picture)
        return {name: density.score(maps, which) for name, which in _DENSITIES.items()}

    return {
        'scores': anomaly_figures(pasted, config.input_size, scores),
        'miou': None,
        'outliers': OUTLIERS,
        'commit': commit(),
    }


def markdown(rows: Sequence[Figures]) -> str:
    """The table: a line for each score of each row, mean and half range over the seeds."""
    lines = [
        '| baseline | score | outlier data | seeds | AP | FPR95 | mIoU |',
        '|---|---|---|---|---|---|---|',
    ]
    for name, mine in by_row(rows).items():
        miou = '–' if mine[0]['miou'] is None else spread([row['miou'] for row in mine])
        for score in mine[0]['scores']:
            ap, fpr95 = (
                spread([row['scores'][score][key] for row in mine]) for key in ('ap', 'fpr95')
            )
            outliers = mine[0]['outliers']
            lines.append(
                f'| {name} | {score} | {outliers} | {len(mine)} | {ap} | {fpr95} | {miou} |'
            )
    return '\n'.join(lines) + '\n'
