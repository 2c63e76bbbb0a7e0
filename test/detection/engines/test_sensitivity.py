"""Which convolutions stay int8: the cheap ones to round first, none that changes what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.sensitivity import partly, tolerable

SIZE = (24, 32)
GOOD, BAD = 1 / 60, 1.5  # scales: of 7 bit, and of hardly one


def fp32_graph(labels: bool = False) -> onnx.ModelProto:
    """frames -> two 1x1 convolutions by identities, each added to what went in -> score.

    labels: also the score in steps of 0.1, where little changes much.
    """
    eye = np.eye(3, dtype=np.float32)[..., None, None]
    constants = [numpy_helper.from_array(eye, name) for name in ('w0', 'w1')]
    constants += [
        numpy_helper.from_array(np.float32(255.0), 'most'),
        numpy_helper.from_array(np.float32(0.1), 'step'),
        numpy_helper.from_array(np.array([1], np.int64), 'channels'),
    ]
    nodes = [
        helper.make_node('Cast', ['frames'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('Transpose', ['float'], ['planes'], perm=[0, 3, 1, 2]),
        helper.make_node('Div', ['planes', 'most'], ['x0']),
        helper.make_node('Conv', ['x0', 'w0'], ['y0'], name='encoder_0'),
        helper.make_node('Add', ['x0', 'y0'], ['x1']),
        helper.make_node('Conv', ['x1', 'w1'], ['y1'], name='encoder_1'),
        helper.make_node('Add', ['x1', 'y1'], ['x2']),
        helper.make_node('ReduceMean', ['x2', 'channels'], ['score'], keepdims=0),
        helper.make_node('Div', ['score', 'step'], ['steps']),
        helper.make_node('Floor', ['steps'], ['whole']),
        helper.make_node('Cast', ['whole'], ['labels'], to=TensorProto.UINT8),
    ]
    given = helper.make_tensor_value_info('frames', TensorProto.UINT8, (1, *SIZE, 3))
    results = [
        helper.make_tensor_value_info('score', TensorProto.FLOAT, (1, *SIZE)),
        helper.make_tensor_value_info('labels', TensorProto.UINT8, (1, *SIZE)),
    ]
    graph = helper.make_graph(nodes, 'g', [given], results[: 1 + labels], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)


def rounded(scales: dict[str, float], labels: bool = False) -> onnx.ModelProto:
    """As the quantiser makes it: a Q/DQ pair on the input of each convolution, for all who use it.

    scales: of the tensors x0 and x1.
    """
    model = fp32_graph(labels)
    graph = model.graph
    nodes = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in scales:
                node.input[place] = f'{name}_rounded'
        nodes.append(node)
        for name in node.output:
            if name in scales:
                pair = [f'{name}_scale', f'{name}_zero']
                nodes += [
                    helper.make_node('QuantizeLinear', [name, *pair], [f'{name}_int8']),
                    helper.make_node(
                        'DequantizeLinear', [f'{name}_int8', *pair], [f'{name}_rounded']
                    ),
                ]
    for name, scale in scales.items():
        graph.initializer.append(numpy_helper.from_array(np.float32(scale), f'{name}_scale'))
        graph.initializer.append(numpy_helper.from_array(np.int8(0), f'{name}_zero'))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return model


def in_int8(model: onnx.ModelProto) -> set[str]:
    pairs = {n.output[0] for n in model.graph.node if n.op_type == 'DequantizeLinear'}
    return {n.name for n in model.graph.node if n.op_type == 'Conv' and n.input[0] in pairs}


@pytest.fixture
def batches(picture: Any) -> list[np.ndarray]:
    return [picture(seed, *SIZE)[None] for seed in range(3)]


def score(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(['score'], {'frames': batch})[0])


def test_what_is_rounded_is_the_convolutions_input_alone(batches) -> None:
    graph, every = fp32_graph(), rounded({'x0': BAD, 'x1': GOOD})
    one = partly(graph, every, {'encoder_0'})
    onnx.checker.check_model(one, full_check=True)
    x = batches[0].astype(np.float32) / 255
    y = np.clip(np.rint(x / BAD), -128, 127) * BAD
    expected = (2 * (x + y)).mean(axis=-1)
    np.testing.assert_allclose(score(one, batches[0]), expected, atol=1e-5)
    assert in_int8(one) == {'encoder_0'} and in_int8(every) == {'encoder_0', 'encoder_1'}
    names = {tensor.name for tensor in one.graph.initializer}
    assert 'x0_scale' in names and 'x1_scale' not in names
    np.testing.assert_array_equal(
        score(partly(graph, every, set()), batches[0]), score(graph, batches[0])
    )


def test_what_disturbs_is_left_out(batches) -> None:
    names = ['encoder_0', 'encoder_1']
    for scales, expected in (
        ({'x0': GOOD, 'x1': GOOD}, set(names)),
        ({'x0': BAD, 'x1': GOOD}, {'encoder_1'}),
        ({'x0': GOOD, 'x1': BAD}, {'encoder_0'}),
    ):
        chosen = tolerable(fp32_graph(), rounded(scales), names, batches)
        assert in_int8(chosen) == expected, scales


def test_labels_count_as_well(batches) -> None:
    scales, names = {'x0': GOOD, 'x1': GOOD}, ['encoder_0', 'encoder_1']
    with pytest.raises(EngineError, match='without changing what the model says'):
        tolerable(fp32_graph(labels=True), rounded(scales, labels=True), names, batches)


def test_where_nothing_is_tolerable_it_is_said(batches) -> None:
    with pytest.raises(EngineError, match='use the precision fp16'):
        tolerable(
            fp32_graph(), rounded({'x0': BAD, 'x1': BAD}), ['encoder_0', 'encoder_1'], batches
        )
