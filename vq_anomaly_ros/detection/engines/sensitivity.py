"""Which convolutions may be int8: those that disturb the outputs least for what they save.

Each quantised convolution is first run alone, all others in fp32, on a few frames. In the order of
the error that it causes over the operations that become int8, as many are taken as together keep
what the graph says: the score of 99 of 100 positions within SCORE_LIMIT of its range on the frames,
labels in LABEL_LIMIT of the positions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.gpu_graph import operations

SCORE_LIMIT = 0.01
# Stricter than what is asked for in the end: frames of another drive change more.
LABEL_LIMIT = 0.997


def tolerable(
    graph: onnx.ModelProto,
    quantised: onnx.ModelProto,
    names: Collection[str],
    batches: Sequence[np.ndarray],
) -> onnx.ModelProto:
    """`quantised` with the tolerable ones of its int8 convolutions, the others as in `graph`.

    graph: in fp32; names: of the convolutions, the same in both graphs; batches: uint8
    [N, H, W, 3] each. Raises EngineError where none is tolerable.
    """
    probe = _Probe(graph, batches)
    costs = dict(zip((node.name for node in graph.graph.node), operations(graph), strict=True))
    alone = {name: probe.error(partly(graph, quantised, {name})) for name in names}
    order = sorted(names, key=lambda name: alone[name].mean_square / costs[name])
    few, many = 0, len(order) + 1  # tolerable, not tolerable
    while many - few > 1:
        middle = (few + many) // 2
        if probe.error(partly(graph, quantised, set(order[:middle]))).tolerable:
            few = middle
        else:
            many = middle
    if not few:
        raise EngineError(
            'no convolution of the encoder can be int8 without changing what the model says: use '
            'the precision fp16'
        )
    return partly(graph, quantised, set(order[:few]))


def partly(
    graph: onnx.ModelProto, quantised: onnx.ModelProto, names: Collection[str]
) -> onnx.ModelProto:
    """`quantised` with the convolutions of these names in int8, all else as in `graph`.

    What is not a convolution in int8 takes its inputs as they were, not as they are after rounding:
    the sums of residual blocks, for instance, which would add up the errors.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    own = {node.name: node for node in graph.graph.node if node.name}
    before = _before_rounding(quantised.graph)
    for node in result.graph.node:
        if node.name in names or node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            continue
        inputs = (
            own[node.name].input if node.name in own else [before.get(i, i) for i in node.input]
        )
        node.input[:] = list(inputs)
    _prune(result.graph, {tensor.name: tensor for tensor in graph.graph.initializer})
    return result


def _before_rounding(graph: onnx.GraphProto) -> dict[str, str]:
    """Name of a rounded tensor -> that of the tensor before its Q/DQ pair."""
    sources = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == 'QuantizeLinear'
    }
    return {
        node.output[0]: sources[node.input[0]]
        for node in graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] in sources
    }


def _prune(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Drop nodes and constants that nothing uses any more; add constants that are used again."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors = {**constants, **tensors}
    copies = [
        onnx.TensorProto.FromString(tensor.SerializeToString())
        for name, tensor in tensors.items()
        if name in needed
    ]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(copies)


class _Error:
    """By how much outputs differ from those of the fp32 graph."""

    def __init__(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
        self.mean_square, self.tolerable = 0.0, True
        for one, other in zip(found, expected, strict=True):
            if one.dtype == np.uint8:
                self.tolerable &= bool(np.mean(one == other) >= LABEL_LIMIT)
                continue
            span = float(other.max() - other.min()) or 1.0
            difference = np.abs(one - other) / span
            self.mean_square += float(np.mean(difference**2))
            self.tolerable &= bool(np.quantile(difference, 0.99) <= SCORE_LIMIT)


class _Probe:
    """Frames, and what the fp32 graph says of them: floats and labels, all outputs but codes."""

    def __init__(self, graph: onnx.ModelProto, batches: Sequence[np.ndarray]) -> None:
        self._batches = batches
        kinds = {value.name: value.type.tensor_type.elem_type for value in graph.graph.output}
        wanted = (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
        self._outputs = [name for name, kind in kinds.items() if kind in wanted]
        self._expected = self._run(graph)

    def error(self, graph: onnx.ModelProto) -> _Error:
        """That of a graph with the same inputs and outputs."""
        return _Error(self._run(graph), self._expected)

    def _run(self, graph: onnx.ModelProto) -> list[np.ndarray]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        parts = [session.run(self._outputs, {'frames': batch}) for batch in self._batches]
        return [np.concatenate(some) for some in zip(*parts, strict=True)]
