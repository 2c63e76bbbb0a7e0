"""A trained codebook run as the parts of a model file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from training.data.street import Example
from training.exporting import (
    Exported,
    commit,
    parity_pictures,
    run_model,
    run_network,
    stretched,
    terms,
    today,
    trained_state,
)
from training.graph import SMALL, folded, rounded, to_onnx, with_half_weights
from training.methods.codebook.coarse import KINDS
from training.methods.codebook.model import OUTPUTS, CodebookNet
from training.methods.codebook.task import (
    SAMPLE_DRIVE,
    CodebookTask,
    Config,
    read_examples,
    usage,
)
from vq_anomaly_ros.detection.model_file import ModelFile, ModelInfo

_TINY = 1000  # values of a tensor whose storage as fp16 would save nothing


def load_task(run: Path, config: Config) -> CodebookTask:
    """A run's task with all that it trained, in evaluation mode.

    Raises ExportError where the run has no checkpoint.
    """
    state = trained_state(run)
    task = CodebookTask(config, pretrained=False)
    task.load_state_dict(state)
    return task.eval()


def describe(config: Config) -> ModelInfo:
    """The metadata of a codebook model, still without calibration, parity and hash."""
    outliers = [
        name
        for name, used in (
            ('void labels', config.void_labels or config.void_soft_weight),
            ('pasted objects', config.outlier_objects),
            ('noise textures', config.outlier_objects and config.outlier_textures),
        )
        if used
    ]
    data = [*config.datasets] + ([SAMPLE_DRIVE] if config.sample_drive_pictures else [])
    height, width = config.input_size
    pasted = ['cut-outs of COCO instances (CC BY 4.0)'] if config.outlier_objects else []
    return ModelInfo(
        name=config.name,
        method='codebook',
        classes=tuple(config.classes),
        palette=config.palette,
        input_size=(int(height), int(width)),
        stride=4,
        score_kind=score_kind(config),
        score_range=(-1.0, 1.0),
        codevectors_per_class=config.codevectors,
        calibration=None,
        training_data=tuple(data),
        outlier_data=tuple(outliers),
        terms=terms(config.datasets, pasted),
        commit=commit(),
        weights_sha256='0' * 64,
        parity={},
        created=today(),
    )


def score_kind(config: Config) -> str:
    """In words, what the exported score is."""
    each = f'weighted top-{config.top_k} cosine'
    kind = f'minus the best {each} to a class'
    if config.evidence:
        kind = f'minus the evidence of all classes (t = {config.evidence:g}) by their {each}'
    if config.smooth > 1:
        kind += f', mean of {config.smooth}x{config.smooth} positions'
    if config.coarse:
        kind = mixed_kind(kind, KINDS[config.coarse_distance], config.coarse_share)
    return kind


def mixed_kind(kind: str, coarse: str, share: float) -> str:
    """In words, a score of which a share is that of a coarse codebook."""
    return f'{1 - share:.2f} of: {kind}; {share:.2f} of: {coarse}'


def ready(net: nn.Module, config: Config) -> nn.Module:
    """A copy of a trained network as its graph computes: batch norms folded, rounded if asked."""
    plain = folded(net)
    if isinstance(plain, CodebookNet):
        plain.features.centre()
    return rounded(plain) if config.round_weights else plain


def graph_of(plain: nn.Module, config: Config) -> onnx.ModelProto:
    """The ONNX graph of a network made `ready`, weights stored as fp16 (rounded ones: all)."""
    height, width = config.input_size
    picture = torch.zeros((2, int(height), int(width), 3), dtype=torch.uint8)
    graph = to_onnx(plain, picture, OUTPUTS)
    return with_half_weights(graph, _TINY if config.round_weights else SMALL)


@dataclass
class CodeCounts:
    """How many labelled positions each codevector of each class is nearest to, int64 [C, M]."""

    counts: NDArray[np.int64]

    def add(self, codes: NDArray[np.int32]) -> None:
        """Count indices c * M + m of any shape."""
        found = np.bincount(codes.ravel(), minlength=self.counts.size)
        self.counts += found.reshape(self.counts.shape)

    def usage(self, classes: Sequence[str]) -> dict[str, Any]:
        """`ModelInfo.codebook_usage`; empty where nothing was counted."""
        if not self.counts.any():
            return {}
        unused, perplexity = usage(torch.from_numpy(self.counts))
        found = zip(classes, perplexity.tolist(), strict=True)
        return {'unused': unused, 'perplexity': {name: round(value, 2) for name, value in found}}


def normal_scores(
    examples: Sequence[Example], codes: CodeCounts, model: ModelFile
) -> Iterator[NDArray[np.float32]]:
    """Raw scores of the labelled positions of each example, at the map's size; counts `codes`."""
    rows, columns = model.info.map_size
    pictures = (
        stretched(example.image, model.info.input_size)
        for example in track(examples, description='calibrating')
    )
    found = run_model(model, pictures, ['score', 'codes'])
    for example, outputs in zip(examples, found, strict=True):
        labels = cv2.resize(example.labels, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
        known = labels < len(model.info.classes)
        codes.add(outputs['codes'][known])
        yield outputs['score'][known]


def exported(run: Path, config: Config, data: Path) -> Exported:
    """The parts of a run's model file; `data`: folder of the data sets.

    Where weights are rounded, the gate of parity compares with the rounded network: what the
    rounding costs is for the benchmark to say.
    """
    net = load_task(run, config).net
    plain = ready(net, config)
    examples = [one.load() for one in read_examples(replace(config, repeats=()), data)]
    codes = CodeCounts(np.zeros((len(config.classes), config.codevectors), np.int64))
    return Exported(
        info=describe(config),
        graph=graph_of(plain, config),
        pictures=parity_pictures([one.image for one in examples], config.input_size),
        network=partial(run_network, plain if config.round_weights else net, names=OUTPUTS),
        normal_scores=partial(normal_scores, examples, codes),
        facts=lambda: {'codebook_usage': codes.usage(config.classes)},
    )
