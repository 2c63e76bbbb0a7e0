"""A trained CCL run as the parts of a model file: teacher, projections and base in one graph."""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from training.exporting import (
    Exported,
    commit,
    normal_scores,
    parity_choice,
    run_network,
    terms,
    trained_state,
)
from training.graph import folded, to_onnx, with_half_weights
from training.methods.ccl.data import read_pictures
from training.methods.ccl.scorer import MAP_STRIDE, SCORE_RANGE, CclScorer
from training.methods.ccl.task import CclTask, Config
from vq_anomaly_ros.detection.model_file import ModelInfo

OUTPUTS = ('score',)
# Nearly all weights as fp16, or the file is larger than 12 MB; the gate of parity says whether that
# is too coarse (a cosine's range is wide).
_SMALL = 2048


def load_task(run: Path, config: Config) -> CclTask:
    """A run's trained task in evaluation mode; ExportError where it has no checkpoint."""
    task = CclTask(config, pretrained=False)
    task.load_state_dict(trained_state(run))
    return task.eval()


def scorer_of(task: CclTask) -> CclScorer:
    """The scorer of a trained task, its batch norms folded."""
    scorer = folded(CclScorer(task.net).eval())
    assert isinstance(scorer, CclScorer)  # noqa: S101 - for mypy: a copy is of the same class
    return scorer


def describe(config: Config) -> ModelInfo:
    """The metadata of a CCL model, still without calibration, parity and hash."""
    height, width = (int(side) for side in config.input_size)
    contrast = ' + '.join(
        name
        for name, weight in (('local', config.local_weight), ('global', config.global_weight))
        if weight
    )
    return ModelInfo(
        name=config.name,
        method='ccl',
        classes=(),
        palette=(),
        input_size=(height, width),
        stride=MAP_STRIDE,
        score_kind=(
            f'1 - cosine to maps of {config.teacher} at strides '
            f'{", ".join(str(stride) for stride in config.strides)}; base {config.base}, '
            f'{contrast or "no"} contrast by {config.labels}'
        ),
        score_range=SCORE_RANGE,
        codevectors_per_class=0,
        calibration=None,
        training_data=tuple(config.datasets),
        outlier_data=(),
        terms=terms(config.datasets),
        commit=commit(),
        weights_sha256='0' * 64,
        parity={},
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def graph_of(scorer: CclScorer, config: Config) -> onnx.ModelProto:
    """The ONNX graph of a scorer, large weights stored as fp16."""
    height, width = (int(side) for side in config.input_size)
    picture = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    return with_half_weights(to_onnx(scorer, picture, OUTPUTS), _SMALL)


def exported(run: Path, config: Config, data: Path) -> Exported:
    """The parts of a run's model file; `data`: folder of the data sets."""
    scorer = scorer_of(load_task(run, config))
    pictures = [pixels for one in read_pictures(config, data) for pixels in one.pixels]
    return Exported(
        info=describe(config),
        graph=graph_of(scorer, config),
        pictures=np.stack([pictures[index] for index in parity_choice(len(pictures))]),
        network=partial(run_network, scorer, names=OUTPUTS),
        normal_scores=partial(normal_scores, pictures),
    )
