"""A trained CCL run as the parts of a model file: teacher, projections and base in one graph."""

from __future__ import annotations

from pathlib import Path

from training.exporting import (
    Exported,
    describe_score_only,
    exported_score_only,
    trained_state,
)
from training.graph import folded
from training.methods.ccl.data import read_pictures
from training.methods.ccl.scorer import MAP_STRIDE, SCORE_RANGE, CclScorer
from training.methods.ccl.task import CclTask, Config
from vq_anomaly_ros.detection.model_file import ModelInfo

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
    contrast = ' + '.join(
        name
        for name, weight in (('local', config.local_weight), ('global', config.global_weight))
        if weight
    )
    return describe_score_only(
        config.name,
        'ccl',
        config.input_size,
        MAP_STRIDE,
        config.datasets,
        score_kind=(
            f'1 - cosine to maps of {config.teacher} at strides '
            f'{", ".join(str(stride) for stride in config.strides)}; base {config.base}, '
            f'{contrast or "no"} contrast by {config.labels}'
        ),
        score_range=SCORE_RANGE,
    )


def exported(run: Path, config: Config, data: Path) -> Exported:
    """The parts of a run's model file; `data`: folder of the data sets."""
    scorer = scorer_of(load_task(run, config))
    pictures = [pixels for one in read_pictures(config, data) for pixels in one.pixels]
    return exported_score_only(describe(config), scorer, pictures, _SMALL)
