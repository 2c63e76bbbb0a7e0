"""A model file whose network throws, returns NaN or never ends, as the frame asks for.

It runs in the real runtime, so what is tried is the real way of an error out of native code. A
frame of one grey value is a request (`Mood`), every other one is answered well. For ONNX Runtime:
OpenVINO does not complain of an index that is out of bounds.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.model_info import ModelInfo

SIZE = (64, 128)
STRIDE = 4
BACKEND = 'onnxruntime'
_FOREVER = 2**62


class Mood(IntEnum):
    """The grey value of a frame that asks for it; a mean within 5 of it is understood."""

    NAN = 235
    THROWS = 245
    HANGS = 255


def write_moody_model(path: Path) -> Path:
    """Write the model file; its score of a frame it answers is the mean brightness, 0..1."""
    table = Calibration.from_scores(
        [np.linspace(0.0, 1.0, 100_000)], 'training set', score_range=(0.0, 1.0), date='2026-01-01'
    )
    info = ModelInfo(
        name='moody',
        method='cpc',
        classes=(),
        palette=(),
        input_size=SIZE,
        stride=STRIDE,
        score_kind='brightness',
        score_range=(0.0, 1.0),
        codevectors_per_class=0,
        calibration=table.to_dict(),
        training_data=(),
        outlier_data=(),
        terms='no terms: no weights',
        commit='',
        weights_sha256='0' * 64,
        parity={},
        created='2026-01-01',
    )
    return model_file.write(_graph(), info, path).path


def _graph() -> onnx.ModelProto:
    height, width = SIZE[0] // STRIDE, SIZE[1] // STRIDE
    constants = {
        'zero': np.float32(0),
        'minus_one': np.float32(-1),
        'one': np.float32(1),
        'full': np.float32(255),
        'none': np.array([0], np.int64),
        'outside': np.array([1], np.int64),
        'never': np.int64(0),
        'forever': np.int64(_FOREVER),
        'table': np.zeros(1, np.float32),
        'go_on': np.bool_(True),
        'channels': np.array([1]),
        'nan_from': np.float32(Mood.NAN - 5),
        'throws_from': np.float32(Mood.THROWS - 5),
        'hangs_from': np.float32(Mood.HANGS - 5),
    }
    graph = helper.make_graph(
        [*_answer(), *_moods()],
        'moody',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, ['N', *SIZE, 3])],
        [helper.make_tensor_value_info('score', TensorProto.FLOAT, ['N', height, width])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)


def _answer() -> list[onnx.NodeProto]:
    """image -> `brightness` [N, h, w] in [0, 1], and the `mean` of all in grey values."""
    node = helper.make_node
    return [
        node('Cast', ['image'], ['pixels'], to=TensorProto.FLOAT),
        node('ReduceMean', ['pixels'], ['mean'], keepdims=0),
        node('Div', ['pixels', 'full'], ['shares']),
        node('Transpose', ['shares'], ['planes'], perm=[0, 3, 1, 2]),
        node('AveragePool', ['planes'], ['small'], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        node('ReduceMean', ['small', 'channels'], ['brightness'], keepdims=0),
    ]


def _moods() -> list[onnx.NodeProto]:
    """`brightness` and `mean` -> `score`, by way of what the mean asks for."""
    node = helper.make_node
    body = helper.make_graph(
        [node('Identity', ['cond'], ['cond_out']), node('Mul', ['value', 'one'], ['value_out'])],
        'wait',
        [
            helper.make_tensor_value_info('turn', TensorProto.INT64, []),
            helper.make_tensor_value_info('cond', TensorProto.BOOL, []),
            helper.make_tensor_value_info('value', TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info('cond_out', TensorProto.BOOL, []),
            helper.make_tensor_value_info('value_out', TensorProto.FLOAT, None),
        ],
    )
    return [
        *_between('nan', 'nan_from', 'throws_from'),
        node('Where', ['nan', 'minus_one', 'zero'], ['radicand']),
        node('Sqrt', ['radicand'], ['maybe_nan']),
        *_between('throws', 'throws_from', 'hangs_from'),
        node('Where', ['throws', 'outside', 'none'], ['index']),
        node('Gather', ['table', 'index'], ['looked_up']),
        node('ReduceSum', ['looked_up'], ['maybe_thrown'], keepdims=0),
        node('Greater', ['mean', 'hangs_from'], ['hangs']),
        node('Where', ['hangs', 'forever', 'never'], ['turns']),
        node('Loop', ['turns', 'go_on', 'brightness'], ['waited'], body=body),
        node('Add', ['waited', 'maybe_nan'], ['with_nan']),
        node('Add', ['with_nan', 'maybe_thrown'], ['score']),
    ]


def _between(name: str, low: str, high: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node('GreaterOrEqual', ['mean', low], [f'{name}_above']),
        node('Less', ['mean', high], [f'{name}_below']),
        node('And', [f'{name}_above', f'{name}_below'], [name]),
    ]
