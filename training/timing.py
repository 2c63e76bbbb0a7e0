"""How long a model takes for a frame, against the bare trunk of the same backbone in the same run.

Milliseconds depend on the machine and on what else it does; the ratio to a known network, measured
in turns with the model, can be compared. `python -m training.timing M.onnx --threads 1 --json F`
writes what it measures of each file, by the model's name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.backbones import BackboneError, EfficientNetLite0, normalise
from training.graph import ExportError, folded, to_onnx
from training.measurement import BenchmarkError, Measurement
from training.predictor import Predictor
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import Engine, EngineError, open_engine
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError, ModelInfo
from vq_anomaly_ros.machine import cpu_name
from vq_anomaly_ros.metrics import find_protocol
from vq_anomaly_ros.replay.files import OutputError, write_text
from vq_anomaly_ros.timing import in_turns

TRUNK_SIZE = (512, 1024)
FRAME_SIZE = (720, 1280)  # of the camera
_TRUNK = 'trunk'


class BareTrunk(nn.Module):
    """All 16 blocks of EfficientNet-lite0: uint8 [N, h, w, 3] -> float32 [N, h/32, w/32].

    The output is the mean of the last map's channels: what `score` of a model file is in shape, so
    that the trunk runs on the very engine that models run on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.backbone(normalise(pictures, self.backbone))[-1].mean(dim=1)


def write_trunk(folder: Path, size: tuple[int, int]) -> ModelFile:
    """Export the bare trunk of an input size (h, w), multiples of 32, as folder/trunk.onnx.

    Raises BackboneError where backbone or weights are not installed, ExportError.
    """
    graph = to_onnx(folded(BareTrunk()), torch.zeros((2, *size, 3), dtype=torch.uint8), ['score'])
    info = ModelInfo(
        name='EfficientNet-lite0',
        method='codebook',
        classes=(),
        palette=(),
        input_size=size,
        stride=32,
        score_kind='mean of the last map',
        score_range=(-1.0, 1.0),
        codevectors_per_class=0,
        calibration=None,
        training_data=('ImageNet',),
        outlier_data=(),
        terms='only timed, never shipped',
        commit='',
        weights_sha256='0' * 64,
        parity={},
        created='',
    )
    return model_file.write(graph, info, folder / 'trunk.onnx')


def time_models(
    models: Sequence[ModelFile], backend: str, threads: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Time each model and the bare trunk in turns: what `provenance.timing` of its rows says.

    By the model's sha256: `ms`, the median time of a frame of FRAME_SIZE, stretched, run, its score
    upsampled; `trunk_ms`, that of the trunk at TRUNK_SIZE, OpenVINO f32, without anything around
    it; `time_over_trunk`, the ratio of the two; `load`, how many processes wanted to run in the
    minute before: much more than none, and the times are those of a busy machine. threads: of
    either engine, 0 = the runtime's choice. Raises BenchmarkError where the trunk cannot be made,
    EngineError.
    """
    load = os.getloadavg()[0]
    measurement = Measurement(find_protocol('pooled'), backend, threads)
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME_SIZE, 3), np.uint8)
    with ExitStack() as opened:
        trunk = _open_trunk(threads)
        opened.callback(trunk.close)
        predictors = {}
        for model in models:
            predictors[model.sha256] = Predictor(model, measurement)
            opened.callback(predictors[model.sha256].engine.close)
        ways = {name: partial(one.score, frame, FRAME_SIZE) for name, one in predictors.items()}
        times = in_turns({_TRUNK: partial(trunk.infer, 1), **ways}, rounds)
    trunk_ms = median(times[_TRUNK])
    return {
        name: {
            'ms': median(times[name]),
            'trunk_ms': trunk_ms,
            'time_over_trunk': median(times[name]) / trunk_ms,
            'frame': list(FRAME_SIZE),
            'frames': len(times[name]),
            'engine': predictors[name].engine.description,
            'trunk': _trunk_title(trunk.description),
            'cpu': cpu_name(),
            'threads': threads,
            'load': round(load, 2),
        }
        for name in predictors
    }


def _open_trunk(threads: int) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        try:
            trunk = write_trunk(Path(folder), TRUNK_SIZE)
        except (BackboneError, ExportError) as error:
            raise BenchmarkError(f'the trunk to compare with cannot be made: {error}') from error
        return open_engine(trunk, 'openvino', ['score'], threads)


def _trunk_title(engine: str) -> str:
    height, width = TRUNK_SIZE
    return f'EfficientNet-lite0, 16 blocks, {width}x{height}, {engine}'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser('training.timing', description=__doc__)
    parser.add_argument('model', nargs='+', help='model files, or names of shipped ones')
    parser.add_argument('--backend', default='openvino', help='openvino (default) or onnxruntime')
    parser.add_argument('--threads', type=int, default=2, help='of the engine (default: 2)')
    parser.add_argument('--rounds', type=int, default=5, help='of turns (default: 5)')
    parser.add_argument('--json', type=Path, metavar='F', help='write the figures there')
    options = parser.parse_args(argv)
    try:
        models = [model_file.read(model_file.find_model(name)) for name in options.model]
        found = time_models(models, options.backend, options.threads, options.rounds)
        rows = [
            {'model': one.info.name, 'input_size': list(one.info.input_size), **found[one.sha256]}
            for one in models
        ]
        text = json.dumps(rows, indent=1) + '\n'
        if options.json is not None:
            write_text(options.json, text)
    except (BenchmarkError, EngineError, ModelFileError, OutputError) as error:
        print(f'training.timing: {error}', file=sys.stderr)
        return 2
    print(text, end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
