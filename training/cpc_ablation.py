"""What each part of CPC brings: one change a row, two categories, a small budget.

`python -m training.cpc_ablation --data DATA --out RUNS --json docs/benchmarks/cpc_ablation.json
--page docs/cpc.md`; a row is trained on each of CATEGORIES. Scores of one network (the loss, beyond
its expectation, kNN on z, the bank whole) stand side by side in a row.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.cpc_industrial import bank_size, judged_row, plain_scores, shipped
from training.cpc_judging import Bank, Figures, PatchScore, category_figures
from training.judging import Study, by_row, kept_figures, run_folder, spread
from training.methods.cpc.losses import info_nce
from training.methods.cpc.model import patch_scores
from training.methods.cpc.task import Config

CATEGORIES = ('screw', 'fibre_mat')
STEPS = 100
_WHOLE = 4096  # patches of the bank that is not condensed
# What differs from the shipped configuration, the rows that matter most first. The control, a
# random encoder, stands in the table of training.cpc_industrial.
ROWS: dict[str, dict[str, Any]] = {
    'shipped': {},
    'one direction': {'directions': 1},
    'batch norm': {'batch_norm': True},
    'N = 64': {'negatives': 64},
    'no skip, K = 3': {'skip': 0, 'steps': 3},
    'patch 64': {'patch': 64, 'stride': 32, 'input_size': (512, 512), 'crop': (256, 256)},
    'context': {'context': True},
    'without mean light': {'centre': True},
    'crops at fixed places': {'fixed_crops': True},
    'K = 2': {'steps': 2},
    'N = 256': {'negatives': 256},
    'ImageNet encoder': {'imagenet_encoder': True},
    'states of a camera': {'camera': 0.5},
    'patch 128': {'patch': 128, 'stride': 64, 'input_size': (768, 768), 'crop': (512, 512)},
}
# Scores of one network; those that only ask what the bank is for stand in the first row alone.
SCORES = {
    'loss': 'loss',
    'excess': 'beyond expectation',
    'whole': f'loss, {_WHOLE} patches',
    'batch': 'loss, negatives of the picture',
    'nearest': 'kNN on z',
}
_OF_THE_BANK = ('whole', 'batch')


def own_negatives(bank: Bank) -> PatchScore:
    """The loss as in training: N negatives drawn from the patches of the picture itself.

    What the bank is for: such a score depends on chance and on what else is in the picture.
    """

    def score(z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        patches = z[0].flatten(1)
        losses = []
        for number, step, said, target in bank.net.predictions(z):
            products = torch.einsum('bdrc,dn->brcn', said, patches)
            shape = (*products.shape[:3], bank.config.negatives)
            chosen = torch.randint(patches.shape[1], shape, generator=generator)
            loss = info_nce((said * target).sum(dim=1), products.gather(-1, chosen))
            losses.append((bank.net.directions[number], bank.net.distances[step], loss))
        return patch_scores(losses, (z.shape[2], z.shape[3]))

    return score


def scores_of(bank: Bank, all_of_them: bool) -> dict[str, PatchScore]:
    """The scores that are compared on one network."""
    scores = plain_scores(bank)
    if all_of_them:
        scores |= {'whole': bank.scorer(most=_WHOLE).grid_losses, 'batch': own_negatives(bank)}
    return scores


def measure(
    name: str,
    seed: int,
    data: Path,
    runs: Path,
    config: Config | None = None,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Train and judge one row on all categories; a finished one is read from its folder."""
    run = run_folder(runs, name.replace('=', ''), seed)
    changes: Mapping[str, Any] = {**ROWS[name], 'seed': seed}
    chosen = dataclasses.replace(config or shipped(), **changes)

    def of(category: str) -> Figures:
        root = f'industrial/{category}'
        own = dataclasses.replace(chosen, datasets=(root,))

        def judge(bank: Bank) -> Figures:
            scores = scores_of(bank, not ROWS[name])
            found = category_figures(bank, scores, data / root)
            return {'scores': found, 'bank': bank_size(bank)}

        make = partial(judged_row, own, steps, data, run / category, judge)
        return kept_figures(run / category, make)

    def every() -> Figures:
        return {'categories': {category: of(category) for category in CATEGORIES}}

    return {'row': name, 'seed': seed, **kept_figures(run, every)}


def markdown(rows: Sequence[Figures]) -> str:
    """The table: image AUROC (mean of the patches) / pixel AUROC of the score, by category."""
    titles = [f'{score}, {name}' for name in CATEGORIES for score in ('image', 'pixel')]
    lines = [f'| row, score | seeds | {" | ".join(titles)} |', '|---|---|' + '---|' * len(titles)]
    for name, seeds in by_row(rows).items():
        for score, title in SCORES.items():
            if score in _OF_THE_BANK and ROWS[name]:
                continue
            cells = []
            for category in CATEGORIES:
                found = [one['categories'][category]['scores'][score] for one in seeds]
                cells.append(spread([one['image_auroc']['mean'] for one in found]))
                cells.append(spread([one['pixel_auroc'] for one in found]))
            lines.append(f'| {name}, {title} | {len(seeds)} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    folders = {'data': 'folder of the data sets, with industrial/ in it'}
    study = Study(
        'cpc_ablation', list(ROWS), measure, markdown, lines=3, folders=folders, seeds=(0,)
    )
    return study.run(__doc__, argv)


if __name__ == '__main__':
    sys.exit(main())
