"""A trained CPC run as the parts of a model file: the bank of normal patches is in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from training.exporting import (
    Exported,
    Image,
    describe_score_only,
    exported_score_only,
    trained_state,
)
from training.graph import ExportError
from training.methods.cpc.model import CpcNet
from training.methods.cpc.scorer import (
    MAP_STRIDE,
    CpcScorer,
    FrameTerm,
    condensed,
    grids_of,
    of_the_bank,
    patches_of,
)
from training.methods.cpc.task import Config, CpcTask, read_pictures
from vq_anomaly_ros.detection.model_file import ModelInfo

# The score ends at so many times the highest score of a patch of the bank's pictures.
_HEADROOM = 4.0
_FEWEST = 8  # pictures that say what is typical
_LEAST_SPREAD = 1e-4  # of their mean losses, nats: a loss is rounded to some 1e-6


def load_task(run: Path, config: Config) -> CpcTask:
    """A run's trained task in evaluation mode; ExportError where it has no checkpoint."""
    task = CpcTask(config)
    task.load_state_dict(trained_state(run))
    return task.eval()


def scorer_of(task: CpcTask, pictures: Sequence[Image]) -> CpcScorer:
    """The scorer of a trained network with the bank of `pictures`, uint8 RGB [h, w, 3] each.

    ExportError where the term of the picture is asked for and cannot be had.
    """
    config = task.config
    grids = grids_of(task.net, track(of_the_bank(pictures, config), 'collecting the bank'))
    centres, log_counts = condensed(patches_of(grids), config.bank_centres, config.seed)
    if config.frame_term and config.context:
        raise ExportError(
            'frame_term: the contexts of a bank are those of single patches; use context=False'
        )
    frame = frame_term(task.net, centres, log_counts, grids) if config.frame_term else None
    scorer = CpcScorer(
        task.net, centres, log_counts, config.negatives, float('inf'), -float('inf'),
        excess=config.excess, frame=frame,
    ).eval()  # fmt: skip
    with torch.inference_mode():
        scores = [scorer.grid_scores(grid) for grid in grids]
    scorer.most = round(max(1.0, _HEADROOM * max(float(one.max()) for one in scores)), 3)
    lowest = min(float(one.min()) for one in scores)
    scorer.least = round(min(0.0, _HEADROOM * lowest), 3)
    return scorer


def frame_term(
    net: CpcNet, centres: Tensor, log_counts: Tensor, grids: Sequence[Tensor]
) -> FrameTerm:
    """The term of whole pictures, with what is typical of normal ones learnt.

    grids: z of normal pictures, [1, D, rows, columns] each. ExportError where they are too few, or
    too much alike for single precision.
    """
    if len(grids) < _FEWEST:
        raise ExportError(
            f'frame_term: {len(grids)} pictures do not say what is typical; train on {_FEWEST} '
            'or more, or use frame_term=False'
        )
    frame = FrameTerm(net, centres, log_counts)
    with torch.inference_mode():
        profiles = torch.cat([frame.profile(grid) for grid in grids])
    widest = float(profiles.std(dim=0).max())
    if widest < _LEAST_SPREAD:
        raise ExportError(
            f'frame_term: the losses of whole pictures differ by {widest:.1g} only, no more than '
            'they are rounded: the network has learnt too little; train longer'
        )
    frame.learn(profiles)
    return frame


def describe(config: Config, scorer: CpcScorer) -> ModelInfo:
    """The metadata of a CPC model, still without calibration, parity and hash."""
    patches = int(scorer.log_counts.exp().sum().round())
    return describe_score_only(
        config.name,
        'cpc',
        config.input_size,
        MAP_STRIDE,
        config.datasets,
        score_kind=(
            f'InfoNCE loss of patches of {config.patch} against {patches} normal ones in '
            f'{len(scorer.centres)} centres'
            + (', beyond its expectation' if config.excess else '')
            + (', plus how untypical the picture is' if config.frame_term else '')
        ),
        score_range=(scorer.least, scorer.most),
    )


def exported(run: Path, config: Config, data: Path) -> Exported:
    """The parts of a run's model file; `data`: folder of the data sets."""
    task = load_task(run, config)
    pictures = list(read_pictures(config, data))
    scorer = scorer_of(task, pictures)
    return exported_score_only(describe(config, scorer), scorer, pictures)
