"""The encoder of a GPU graph in int8: explicit Q/DQ pairs, calibrated on frames.

ONNX Runtime's quantiser does the work. What NVIDIA's parser takes: symmetric int8 activations and
weights, no quantised bias. What of the encoder cannot be int8 without changing what the model says
(sensitivity.py) is fp16; norms, distances and scores stay fp32.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.gpu_graph import encoder_nodes, with_half_encoder
from vq_anomaly_ros.detection.engines.sensitivity import tolerable

LEAST_FRAMES = 8
_PROBES = 4  # batches that convolutions are tried on
_OPSET = 19  # the first whose Q/DQ pairs take fp16


def quantised(graph: onnx.ModelProto, frames: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The fp32 graph of gpu_graph.derive with its encoder in int8 and fp16.

    frames: uint8 [H, W, 3] RGB of the graph's size, LEAST_FRAMES at least; those that do not fill
    a batch are left out. Raises EngineError.
    """
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise EngineError(
            'int8 needs the quantiser of ONNX Runtime: `pip install onnxruntime`'
        ) from error
    (given,) = graph.graph.input
    batch, height, width, _ = (dim.dim_value for dim in given.type.tensor_type.shape.dim)
    if len(frames) < max(LEAST_FRAMES, batch):
        raise EngineError(
            f'{len(frames)} frames are too few to calibrate int8 on: give {LEAST_FRAMES} or more'
        )
    if any(frame.shape != (height, width, 3) for frame in frames):
        raise EngineError(f'the frames to calibrate on must be of {width}x{height}, as the plan')
    named = onnx.ModelProto()
    named.CopyFrom(graph)
    convolutions = _name_convolutions(named)
    if not convolutions:
        raise EngineError('the encoder has no convolutions to quantise: use the precision fp16')
    batches = _batches(frames, batch)
    reader = _Frames(given.name, batches)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / 'fp32.onnx', Path(folder) / 'int8.onnx'
        onnx.save(named, source)
        quantization.quantize_static(
            str(source),
            str(target),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=convolutions,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={
                'ActivationSymmetric': True,
                'WeightSymmetric': True,
                'QuantizeBias': False,
                'OpTypesToExcludeOutputQuantization': ['Conv'],
            },
        )
        every = onnx.load(target)
    small = tolerable(named, every, convolutions, batches[:: max(1, len(batches) // _PROBES)])
    result = onnx.version_converter.convert_version(small, _OPSET)
    with_half_encoder(result)
    _keep_scales_positive(result.graph)
    onnx.checker.check_model(result, full_check=True)
    return result


def _keep_scales_positive(graph: onnx.GraphProto) -> None:
    """Scales that fp16 rounds to 0 (of channels without weights) become its smallest number."""
    pairs = ('QuantizeLinear', 'DequantizeLinear')
    scales = {node.input[1] for node in graph.node if node.op_type in pairs}
    for tensor in graph.initializer:
        if tensor.name in scales:
            values = numpy_helper.to_array(tensor)
            least = np.finfo(values.dtype).smallest_subnormal
            tensor.CopyFrom(numpy_helper.from_array(np.maximum(values, least), tensor.name))


def _batches(frames: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    whole = len(frames) // batch * batch
    return [np.stack(frames[first : first + batch]) for first in range(0, whole, batch)]


def _name_convolutions(model: onnx.ModelProto) -> list[str]:
    """Give the convolutions to be quantised names of their own; returns them.

    The dense ones of the encoder without the first and the last. Depthwise ones gain nothing in
    int8 and lose most (EfficientNet-lite0: 4 of 100 labels change instead of 2), the ends see the
    picture and make the features.
    """
    encoder = encoder_nodes(model.graph)
    dense = [
        node
        for position, node in enumerate(model.graph.node)
        if position in encoder and node.op_type == 'Conv' and _groups(node) == 1
    ]
    for number, node in enumerate(dense):
        node.name = f'encoder_{number}'
    return [node.name for node in dense[1:-1]]


def _groups(node: onnx.NodeProto) -> int:
    return next((int(one.i) for one in node.attribute if one.name == 'group'), 1)


class _Frames:
    """What the quantiser reads: one batch a call, None at the end."""

    def __init__(self, name: str, batches: Sequence[np.ndarray]) -> None:
        self._name = name
        self._batches: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises a preprocessing that is done here already; say nothing of it."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
