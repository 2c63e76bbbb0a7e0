"""What contrast by class brings to one model for several categories of products.

`python -m training.ccl_industrial --data DATA --out RUNS --json docs/benchmarks/ccl_industrial.json
--page docs/ccl.md` trains each row of ROWS with each seed on a schedule of so many steps, judges
the last epoch, and writes rows (one a category and seed) and tables. What is finished in RUNS is
taken from there, and a run that was killed goes on, so the command can be stopped and started
again; `--finished` trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from training.backbones import BackboneError
from training.card import CardError
from training.ccl_judging import (
    Curve,
    Tested,
    judge,
    judge_neighbours,
    pseudo_agreement,
    tested,
)
from training.ccl_tables import markdown
from training.cpc_judging import brightness_auroc
from training.data.folders import FolderError, read_mvtec_category
from training.exporting import commit
from training.graph import ExportError
from training.judging import Figures, is_finished, kept_figures, run_folder
from training.methods.ccl.export import load_task
from training.methods.ccl.task import Config
from training.studies import add_result_options, keep_results
from training.train import keep_freed_memory, train
from vq_anomaly_ros.machine import cpu_name
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.demo import DRIVE, TOPIC
from vq_anomaly_ros.replay.interruption import interruptible

NAME = 'ccl_industrial'
CATEGORIES = ('industrial/screw', 'industrial/magnetic_tile', 'industrial/fibre_mat')
STEPS = 243  # of every run, whatever its pictures: three passes over all three categories
SCHEDULE = Config(name='ccl-industrial', datasets=CATEGORIES, batch_size=12, widest=256)
NEIGHBOURS = 'nearest neighbours'
LONG = 15  # passes of the rows that say so
CURVES = ('control', 'CCL', f'control, {LONG} passes', f'CCL, {LONG} passes')  # epochs are judged

OFF: dict[str, Any] = {'local_weight': 0.0, 'global_weight': 0.0}
BARE: dict[str, Any] = {**OFF, 'projected': False, 'noise': 0.0}


def _without(name: str) -> dict[str, Any]:
    return {'datasets': tuple(one for one in CATEGORIES if one != f'industrial/{name}')}


def _alone(name: str) -> dict[str, Any]:
    return {**OFF, 'datasets': (f'industrial/{name}',)}


# A third category comes to what was trained on two, for as many steps, at a tenth of the rates.
GENTLY: dict[str, Any] = {'learning_rate': 5e-4, 'projection_rate': 1e-4}
ADDED = {
    f'CCL, {name} added': f'CCL without {name}' for name in ('screw', 'magnetic_tile', 'fibre_mat')
}
# What differs from the schedule, which is CCL in full by true categories.
ROWS: dict[str, dict[str, Any]] = {
    NEIGHBOURS: {},  # in one bank of all categories; nothing is trained
    'RD': BARE,
    'RD + projection': {**OFF, 'noise': 0.0},
    'control': OFF,
    'control + local': {'global_weight': 0.0},
    'control + global': {'local_weight': 0.0},
    'CCL': {},
    'CCL, widest 128': {'widest': 128},
    'CCL, pseudo-classes': {'labels': 'pseudo'},
    'CCL, random labels': {'labels': 'random'},
    'CCL, same position': {'matched': False},
    'CCL, eight negatives': {'negatives': 8},
    'CCL, smoothed global': {'smoothing': 0.1},
    'CCL, tau = 0.1': {'temperature': 0.1},
    'CCL without screw': _without('screw'),
    'CCL without magnetic_tile': _without('magnetic_tile'),
    'CCL without fibre_mat': _without('fibre_mat'),
    **dict.fromkeys(ADDED, GENTLY),
    'screw alone': _alone('screw'),
    'magnetic_tile alone': _alone('magnetic_tile'),
    'fibre_mat alone': _alone('fibre_mat'),
    'reconstruction': {**OFF, 'base': 'reconstruct'},
    'reconstruction + CCL': {'base': 'reconstruct'},
    f'control, {LONG} passes': {**OFF, 'epochs': LONG},
    f'CCL, {LONG} passes': {'epochs': LONG},
    f'CCL without fibre_mat, {LONG} passes': {**_without('fibre_mat'), 'epochs': LONG},
}


def schedule(row: str, seed: int, data: Path, cache: Path) -> Config:
    """The configuration of a row: its passes, or as many as make STEPS batches of its pictures."""
    config = dataclasses.replace(SCHEDULE, seed=seed, feature_cache=str(cache), **ROWS[row])
    if 'epochs' in ROWS[row]:
        return config
    pictures = sum(len(read_mvtec_category(data / name).train) for name in config.datasets)
    passes = STEPS / (pictures // config.batch_size)
    return dataclasses.replace(config, epochs=max(1, round(passes)))


def folder_of(runs: Path, row: str, seed: int) -> Path:
    """Where the run of a row with a seed is kept."""
    return run_folder(runs, row.replace(',', '').replace('=', ''), seed)


def measure(row: str, seed: int, data: Path, runs: Path, tests: Mapping[str, Tested]) -> Figures:
    """The figures of a row with a seed; trained and judged where RUNS does not have it."""
    run = folder_of(runs, row, seed)

    def make() -> Figures:
        config = schedule(row, seed, data, runs / 'features')
        if row in ADDED:
            measure(ADDED[row], seed, data, runs, tests)
            before = folder_of(runs, ADDED[row], seed)
            config = dataclasses.replace(config, start_from=str(before / 'last.ckpt'))
        if row == NEIGHBOURS:
            return _about(config, 0) | judge_neighbours(config, data, tests)
        known = {name: one for name, one in tests.items() if name in config.datasets}
        curve = Curve(known)
        train(config, data, run, progress=False, callbacks=[curve] if row in CURVES else [])
        found = judge(load_task(run, config), data, tests)
        return {**_about(config, config.epochs), 'curve': curve.found, **found}

    return {'row': row, 'seed': seed, **kept_figures(run, make)}


def _about(config: Config, epochs: int) -> Figures:
    """What a row's figures were made with."""
    budget = {'epochs': epochs, 'batch': config.batch_size}
    kept = {'commit': commit(), 'teacher': config.teacher, 'strides': list(config.strides)}
    return {**kept, 'budget': budget}


def rows_of(found: Figures) -> list[Figures]:
    """A run's figures as rows of the benchmark, one a category."""
    return [
        {
            'model': found['row'],
            'data': category.rpartition('/')[2],
            'protocol': 'industrial',
            'images': one['images'],
            'outliers': 'none',
            'seed': found['seed'],
            'commit': found['commit'],
            'metrics': one['metrics'],
            'provenance': {
                'method': 'ccl',
                'trained_on': [name.rpartition('/')[2] for name in found['categories']],
                'teacher': found['teacher'],
                'strides': found['strides'],
                'epochs': found['budget']['epochs'],
                **({'begun_with': ADDED[found['row']]} if found['row'] in ADDED else {}),
                'batch': found['budget']['batch'],
            },
        }
        for category, one in found['categories'].items()
    ]


def study(
    found: Sequence[Figures], data: Path, cache: Path, speed: Figures | None = None
) -> Figures:
    """All that the page is made of, of the figures of finished runs; cache: of teacher maps."""
    pseudo = {
        str(seed): pseudo_agreement(schedule('CCL', seed, data, cache), data)
        for seed in sorted({one['seed'] for one in found})
    }
    ordered = sorted(found, key=lambda one: (list(ROWS).index(one['row']), one['seed']))
    light = {name.rpartition('/')[2]: brightness_auroc(data / name) for name in CATEGORIES}
    kept = ('row', 'seed', 'v_measure', 'unseen')
    runs = [
        {key: one[key] for key in kept if key in one}
        | ({'curve': one['curve']} if one['row'] in CURVES else {})
        for one in ordered
    ]
    rows = [row for one in ordered for row in rows_of(one)]
    about = {'steps': STEPS, 'brightness': light, 'pseudo_v_measure': pseudo, 'speed': speed}
    return {**about, 'rows': rows, 'runs': runs}


def speed_of(demo: Path) -> Figures:
    """Frames a second of a model in the node, of the folder of a demo that sent more than it could.

    `python -m vq_anomaly_ros.replay.demo --model M --size 256x256 --rate 30 --out DIR`
    """
    summary = json.loads((demo / 'summary.json').read_text())
    rate = bags.frame_rate(demo / DRIVE, TOPIC)
    answered = summary['frames'] - summary['frames_dropped']
    return {
        'sent': summary['frames'],
        'answered': answered,
        'sent_a_second': round(rate, 2),
        'frames_per_second': round(rate * answered / summary['frames'], 2),
        'latency_ms': summary['latency_ms'],
        'cpu': cpu_name(),
        'cores': os.cpu_count(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(argv)
    keep_freed_memory()
    cv2.setNumThreads(0)
    try:
        with interruptible():
            found = _finished_or_made(options)
            if not found:
                raise FolderError(f'{options.out}: no row of these is finished there')
            speed = speed_of(options.demo) if options.demo else None
            result = study(found, options.data, options.out / 'features', speed)
            _keep(found, result, options)
    except (BackboneError, CardError, ExportError, OSError, ValueError) as error:
        print(f'training.{NAME}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'training.{NAME}: interrupted; the same command goes on', file=sys.stderr)
        return 130
    print(markdown(result))
    return 0


def _finished_or_made(options: argparse.Namespace) -> list[Figures]:
    tests: dict[str, Tested] = {}
    found = []
    for seed in options.seeds:
        for row in options.rows:
            if options.finished and not is_finished(folder_of(options.out, row, seed)):
                continue
            if not tests and not options.finished:
                cached = dataclasses.replace(SCHEDULE, feature_cache=str(options.out / 'features'))
                tests = tested(cached, options.data, CATEGORIES)
            found.append(measure(row, seed, options.data, options.out, tests))
            print(_line(found[-1]), flush=True)
    return found


def _line(found: Figures) -> str:
    metrics = [one['metrics'] for one in found['categories'].values()]
    images = ' '.join(f'{100 * one["image_auroc"]:.1f}' for one in metrics)
    pixels = ' '.join(f'{100 * one["pixel_auroc"]:.1f}' for one in metrics)
    return f'{found["row"]}, seed {found["seed"]}: image AUROC {images}, pixel AUROC {pixels}'


def _keep(found: Sequence[Figures], result: Figures, options: argparse.Namespace) -> None:
    keep_results(result, markdown(result), NAME, options)
    if options.pictures is not None:
        from training.ccl_pictures import draw_confusion, draw_curves

        draw_confusion(found, options.pictures / 'ccl_confusion.png')
        draw_curves(found, options.pictures / 'ccl_epochs.png')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f'training.{NAME}',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, known = parser.add_argument, list(ROWS)
    add('--data', type=Path, required=True, help='folder of the data sets')
    add('--out', type=Path, required=True, help='folder of the runs')
    add('--rows', nargs='+', choices=known, default=known, metavar='NAME', help='; '.join(known))
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    add('--finished', action='store_true', help='train nothing: tables of what --out has')
    add('--demo', type=Path, metavar='DIR', help='what the demo made with a model, for its speed')
    add_result_options(parser, 'write rows and runs there')
    add('--pictures', type=Path, metavar='DIR', help='folder of the two charts')
    return parser


if __name__ == '__main__':
    torch.set_num_threads(1)
    sys.exit(main())
