"""What the export of every method needs: its parts, a run's weights, provenance and terms."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

from training.graph import SMALL, ExportError, to_onnx, with_half_weights
from vq_anomaly_ros.detection.engines import open_engine
from vq_anomaly_ros.detection.model_file import ModelFile, ModelInfo
from vq_anomaly_ros.detection.model_info import Method

Image = NDArray[np.uint8]
Outputs = Mapping[str, NDArray[Any]]

_PARITY_PICTURES = 24
_SCORE_ONLY = ('score',)  # outputs of a model that knows no classes
# Terms of the data that weights inherit, by the first parts of a data set's name.
_TERMS = {
    'camvid': 'CamVid (CC BY-NC, via the SegNet copy)',
    'idd_lite': 'IDD-Lite (research use)',
    'cityscapes': 'Cityscapes (non-commercial)',
    'industrial/screw': 'MVTec-AD screw (CC BY-NC-SA 4.0)',
    'industrial/magnetic_tile': 'magnetic tile defects (Huang et al. 2018, research use)',
}


@dataclass(frozen=True)
class Exported:
    """A trained run as the parts of a model file, still without calibration, parity and hash.

    pictures: uint8 RGB [n, h, w, 3] at the input size, for the gate of parity; network: all outputs
    of the trained network by name, of such pictures; normal_scores: raw scores of normal positions
    that the draft of the model file gives, for its calibration; facts: further fields of ModelInfo,
    asked for after all `normal_scores` are through.
    """

    info: ModelInfo
    graph: onnx.ModelProto
    pictures: Image
    network: Callable[[Image], Outputs]
    normal_scores: Callable[[ModelFile], Iterator[NDArray[np.float32]]]
    facts: Callable[[], dict[str, Any]] = dict


def describe_score_only(
    name: str,
    method: Method,
    input_size: Sequence[int],
    stride: int,
    datasets: Sequence[str],
    *,
    score_kind: str,
    score_range: tuple[float, float],
) -> ModelInfo:
    """Metadata of a model without classes, still without calibration, parity and hash."""
    height, width = (int(side) for side in input_size)
    return ModelInfo(
        name=name,
        method=method,
        classes=(),
        palette=(),
        input_size=(height, width),
        stride=stride,
        score_kind=score_kind,
        score_range=score_range,
        codevectors_per_class=0,
        calibration=None,
        training_data=tuple(datasets),
        outlier_data=(),
        terms=terms(datasets),
        commit=commit(),
        weights_sha256='0' * 64,
        parity={},
        created=today(),
    )


def exported_score_only(
    info: ModelInfo, scorer: nn.Module, pictures: Sequence[Image], small: int = SMALL
) -> Exported:
    """The parts of the model file of a scorer, uint8 RGB [N, h, w, 3] -> score.

    pictures: the normal ones at the input size; small: see `graph.with_half_weights`.
    """
    example = torch.zeros((2, *info.input_size, 3), dtype=torch.uint8)
    return Exported(
        info=info,
        graph=with_half_weights(to_onnx(scorer, example, _SCORE_ONLY), small),
        pictures=parity_pictures(pictures, info.input_size),
        network=partial(run_network, scorer, names=_SCORE_ONLY),
        normal_scores=partial(normal_scores, pictures),
    )


def require_checkpoint(run: Path) -> Path:
    """The last checkpoint of a run; ExportError where it has none."""
    checkpoint = run / 'last.ckpt'
    if not checkpoint.exists():
        raise ExportError(f'{run}: no last.ckpt in it; train first or name the folder of a run')
    return checkpoint


def trained_state(run: Path) -> dict[str, Any]:
    """The weights of a run's last checkpoint; ExportError where it has none."""
    # A checkpoint of Lightning holds more than tensors; it is the user's own.
    state: dict[str, Any] = torch.load(  # nosec B614
        require_checkpoint(run), map_location='cpu', weights_only=False
    )
    return dict(state['state_dict'])


def parity_pictures(pictures: Sequence[Image], size: Sequence[int]) -> Image:
    """What the gate of parity sees, [n, h, w, 3]: about two dozen, evenly taken, at (h, w)."""
    chosen = pictures[:: max(1, len(pictures) // _PARITY_PICTURES)]
    return np.stack([stretched(picture, size) for picture in chosen])


def stretched(picture: Image, size: Sequence[int]) -> Image:
    """A picture uint8 [H, W, 3] at the input size (h, w), as on the vehicle."""
    height, width = (int(side) for side in size)
    return np.asarray(
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8
    )


def run_network(net: nn.Module, pictures: Image, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Outputs of a network by name, one picture at a time."""
    parts = []
    with torch.inference_mode():
        for picture in pictures:
            found = net(torch.from_numpy(picture[None]))
            found = found if isinstance(found, (tuple, list)) else (found,)
            parts.append([output.numpy() for output in found])
    return {
        name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)
    }


def run_model(
    model: ModelFile, pictures: Iterator[Image] | Sequence[Image], names: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Outputs of a model file for each picture uint8 RGB [h, w, 3] at its input size.

    The arrays belong to the engine and are valid until the next picture.
    """
    engine = open_engine(model, 'openvino', list(names))
    try:
        for picture in pictures:
            engine.input_buffer(1)[0] = picture
            yield {name: found[0] for name, found in engine.infer(1).items()}
    finally:
        engine.close()


def normal_scores(pictures: Sequence[Image], model: ModelFile) -> Iterator[NDArray[np.float32]]:
    """Raw scores of training pictures, uint8 RGB [h, w, 3] at the input size: maps."""
    shown = track(pictures, description='calibrating')
    for outputs in run_model(model, iter(shown), ['score']):
        yield outputs['score']


def terms(datasets: Sequence[str], outliers: Sequence[str] = ()) -> str:
    """What the weights of a run inherit from the data sets, named as in its configuration."""
    known = [_terms_of(name) for name in datasets] + list(outliers)
    return (
        'Research and non-commercial use: the weights were trained on '
        f'{", ".join(dict.fromkeys(known))}, and inherit their terms.'
    )


def _terms_of(name: str) -> str:
    folder = name.split('/')[0]
    return _TERMS.get(name) or _TERMS.get(folder) or f'{folder} (see its own terms)'


def today() -> str:
    """The date (UTC) of an export, ISO."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def commit() -> str:
    """The commit that the exporter ran from, with '+' behind where files were changed."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ['git', 'rev-parse', '--short=12', 'HEAD'],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ['git', 'status', '--porcelain', '--untracked-files=no'],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return head + ('+' if changed else '')
