"""CPC on products: trained on good pictures, judged on defects, against a random encoder and kNN.

`python -m training.cpc_industrial --data DATA --out RUNS --json docs/benchmarks/cpc_industrial.json
--page docs/cpc.md` trains the shipped configuration on each category of DATA/industrial with each
seed, and the control: an encoder that stays as it was drawn at random, whose predictions are
trained as long. `kNN on z` uses the same trained patches without the loss. A row that is finished
in RUNS is read from there, so a run that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from training.cpc_judging import (
    AGGREGATIONS,
    Bank,
    Figures,
    PatchScore,
    bank_of,
    brightness_auroc,
    category_figures,
)
from training.exporting import commit, trained_state
from training.judging import Study, kept_figures, run_folder, spread
from training.methods.cpc.task import Config, CpcTask, Image, read_pictures
from training.train import read_any_config, train

CATEGORIES = ('screw', 'magnetic_tile', 'fibre_mat')
KINDS: dict[str, dict[str, Any]] = {'trained': {}, 'random': {'random_encoder': True}}
ROWS = [f'{kind} {category}' for kind in KINDS for category in CATEGORIES]
STEPS = 200
# Scores of one network in the table: what they are called there.
SCORES = {'loss': 'loss', 'excess': 'loss beyond expectation', 'nearest': 'kNN on z'}


def shipped() -> Config:
    """The configuration that the table is about; training/configs/cpc.yaml."""
    return cast(Config, read_any_config('cpc', []))


def scheduled(config: Config, pictures: int, steps: int) -> Config:
    """The configuration with the epochs that make about so many steps."""
    a_pass = max(1, pictures // min(config.batch_size, pictures))
    return dataclasses.replace(config, epochs=max(1, round(steps / a_pass)), workers=0)


def trained_row(
    config: Config, steps: int, data: Path, run: Path
) -> tuple[CpcTask, list[Image], Figures]:
    """Train a row, or go on with it: the task, its normal pictures, and its budget."""
    pictures = list(read_pictures(config, data))
    config = scheduled(config, len(pictures), steps)
    started = time.perf_counter()
    train(config, data, run, progress=False)
    seconds = time.perf_counter() - started
    task = CpcTask(config)
    task.load_state_dict(trained_state(run))
    done = config.epochs * max(1, len(pictures) // min(config.batch_size, len(pictures)))
    budget = {'pictures': len(pictures), 'steps': done, 'batch': config.batch_size}
    return task.eval(), pictures, {**budget, 'seconds': round(seconds)}


def judged_row(
    config: Config, steps: int, data: Path, run: Path, judge: Callable[[Bank], Figures]
) -> Figures:
    """What `judge` says of a trained row's bank, and what it was trained with."""
    task, pictures, budget = trained_row(config, steps, data, run)
    return {
        **judge(bank_of(task.net, task.config, pictures)),
        'budget': budget,
        'config': plain_config(task.config),
        'commit': commit(),
    }


def bank_size(bank: Bank) -> Figures:
    """How large a bank is, and what it was condensed to."""
    return {'patches': len(bank.patches), 'centres': len(bank.centres)}


def plain_scores(bank: Bank) -> dict[str, PatchScore]:
    """The loss, what of it is beyond expectation, and nearest neighbours on the same z."""
    return {
        'loss': bank.scorer().grid_losses,
        'excess': bank.scorer(excess=True).grid_losses,
        'nearest': bank.nearest(),
    }


def plain_config(config: Config) -> Figures:
    """A configuration as JSON holds it."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def measure(
    name: str,
    seed: int,
    data: Path,
    runs: Path,
    config: Config | None = None,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Train and judge one row with one seed; a finished one is read from its folder."""
    run = run_folder(runs, name, seed)
    kind, category = name.split(' ', 1)
    root = f'industrial/{category}'
    changes: Mapping[str, Any] = {**KINDS[kind], 'datasets': (root,), 'seed': seed}
    chosen = dataclasses.replace(config or shipped(), **changes)

    def judge(bank: Bank) -> Figures:
        return {
            'kind': kind,
            'category': category,
            'scores': category_figures(bank, plain_scores(bank), data / root),
            'brightness_auroc': brightness_auroc(data / root),
            'bank': bank_size(bank),
        }

    make = partial(judged_row, chosen, steps, data, run, judge)
    return {'row': name, 'seed': seed, **kept_figures(run, make)}


def markdown(rows: Sequence[Figures]) -> str:
    """The table: each score of each category, per cent, ± half the range over seeds; the means."""
    head = ['category', 'encoder, score', 'seeds', *(f'image, {how}' for how in AGGREGATIONS)]
    head += ['image, peak', 'pixel', 'PRO']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for category in dict.fromkeys(row['category'] for row in rows):
        for kind in KINDS:
            mine = [row for row in rows if (row['category'], row['kind']) == (category, kind)]
            for score, title in SCORES.items() if mine else ():
                found = [row['scores'][score] for row in mine]
                lines.append(_line(category, f'{kind}, {title}', len(mine), _columns(found)))
    for kind in KINDS:
        for score, title in SCORES.items():
            means = _means(rows, kind, score)
            if means:
                columns = _columns(means)
                lines.append(_line('**mean**', f'{kind}, {title}', len(means), columns))
    light = {row['category']: row['brightness_auroc'] for row in rows}
    said = ', '.join(f'{name} {100 * value:.0f}' for name, value in light.items())
    lines += ['', f'Mean light of a picture alone, image AUROC: {said}.']
    return '\n'.join(lines) + '\n'


def _means(rows: Sequence[Figures], kind: str, score: str) -> list[Figures]:
    """Of each seed that has all categories, the mean of a score's figures over them."""
    means = []
    for seed in sorted({row['seed'] for row in rows}):
        mine = [r['scores'][score] for r in rows if (r['seed'], r['kind']) == (seed, kind)]
        if len(mine) == len(CATEGORIES):
            images = [one['image_auroc'] for one in mine]
            means.append(
                {
                    'image_auroc': {
                        how: float(np.mean([one[how] for one in images])) for how in images[0]
                    },
                    'pixel_auroc': float(np.mean([one['pixel_auroc'] for one in mine])),
                    'pro': float(np.mean([one['pro'] for one in mine])),
                }
            )
    return means


def _columns(found: Sequence[Figures]) -> list[str]:
    cells = [spread([one['image_auroc'][how] for one in found]) for how in (*AGGREGATIONS, 'peak')]
    return cells + [spread([one[key] for one in found]) for key in ('pixel_auroc', 'pro')]


def _line(category: str, title: str, seeds: int, cells: Sequence[str]) -> str:
    return f'| {category} | {title} | {seeds} | {" | ".join(cells)} |'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    folders = {'data': 'folder of the data sets, with industrial/ in it'}
    study = Study('cpc_industrial', ROWS, measure, markdown, lines=3, folders=folders)
    return study.run(__doc__, argv)


if __name__ == '__main__':
    sys.exit(main())
