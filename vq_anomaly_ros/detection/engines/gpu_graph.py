"""The graph for a GPU, derived from a model file: frames of a camera in, maps of its size out.

On a GPU the resizing costs next to nothing and the copies count, so that all of it stands in the
graph: `frames` uint8 [N, H, W, 3] RGB, stretched to the model's size inside. Outputs are those of
the model file at its score map's size, and besides

- `camera_score` float32 [N, H, W]: the raw score, upsampled linearly;
- `camera_labels` uint8 [N, H, W]: the labels, nearest-upsampled;
- `camera_labels_smooth` uint8 [N, H, W]: the argmax of the linearly upsampled class scores.

N, H and W are fixed. Precision is written into the graph, and TensorRT is asked to keep to it:
'fp32'; 'fp16', the convolutions of the encoder and what lies between them, norms, distances and
scores staying fp32; 'int8', as fp16 with some of those convolutions quantised (quantised.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.gpu_options import Precision
from vq_anomaly_ros.detection.model_file import ModelFile

CAMERA_OUTPUTS = {
    'camera_score': 'score',
    'camera_labels': 'labels',
    'camera_labels_smooth': 'class_scores',
}
# What makes large values or small differences: it and all that follows from it stays fp32.
_SENSITIVE = frozenset({
    'ReduceMean', 'ReduceSum', 'ReduceL2', 'ReduceLogSumExp', 'LpNormalization', 'Softmax',
    'LogSoftmax', 'TopK', 'ArgMax', 'Exp', 'Log', 'InstanceNormalization', 'LayerNormalization',
})  # fmt: skip
# Where an encoder begins: its convolutions, and weights that are kept in int8.
_OPENING = ('Conv', 'DequantizeLinear')
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def output_layouts(model: ModelFile, size: tuple[int, int]) -> dict[str, tuple[str, Any]]:
    """name -> (numpy dtype, shape without the batch) of all that a GPU graph can give."""
    layouts: dict[str, tuple[str, Any]] = dict(model.info.output_layouts())
    for name, source in CAMERA_OUTPUTS.items():
        if source in layouts:
            layouts[name] = ('float32' if name == 'camera_score' else 'uint8', size)
    return layouts


def derive(
    model: ModelFile,
    size: tuple[int, int],
    batch: int,
    outputs: Sequence[str],
    precision: Precision = 'fp32',
) -> onnx.ModelProto:
    """The graph for `batch` frames of `size` (H, W) with these outputs, in fp32 or fp16.

    For int8 it is in fp32: what becomes of it depends on frames (`quantised.quantised`).

    Raises EngineError for outputs that there are none of, ModelFileError for a damaged model.
    """
    known = output_layouts(model, size)
    if unknown := [name for name in outputs if name not in known]:
        raise EngineError(
            f'{model.path}: a GPU graph of it has no output {", ".join(unknown)}; '
            f'ask for some of {", ".join(known)}'
        )
    sources = list(dict.fromkeys(CAMERA_OUTPUTS.get(name, name) for name in outputs))
    core = onnx.ModelProto()
    core.ParseFromString(model_file.pruned(model.path, sources))
    _fix_batch(core, batch)
    fold_constants(core)
    _open_ends(core, outputs)
    whole = onnx.compose.merge_models(
        _front(model.info.input_size, size, batch, core), core, [('pictures', 'image')]
    )
    back, joints = _back(model, size, batch, outputs, core)
    if joints:
        whole = onnx.compose.merge_models(whole, back, joints, outputs=list(outputs))
    _order_outputs(whole, outputs)
    del whole.metadata_props[:]
    opsets = {one.domain: one.version for one in whole.opset_import}  # merging repeats them
    del whole.opset_import[:]
    whole.opset_import.extend(helper.make_opsetid(*one) for one in opsets.items())
    if precision == 'fp16':
        with_half_encoder(whole)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _fix_batch(model: onnx.ModelProto, batch: int) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute once what depends on constants alone (weights stored as fp16, bounds), in place."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        names = [name for name in node.input if name]
        if not all(name in constants for name in names) or not names:
            kept.append(node)
            continue
        values = {name: numpy_helper.to_array(constants[name]) for name in names}
        results = ReferenceEvaluator(node).run(None, values)
        for name, result in zip(node.output, results, strict=True):
            constants[name] = numpy_helper.from_array(np.asarray(result), name)
    used = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)


def _open_ends(core: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Take uint8 off where the core meets the new ends: TensorRT has it at the very edge only.

    The Cast behind `image` goes, and `labels` are cast by way of `label_index`, which is handed on.
    """
    graph = core.graph
    for node in [node for node in graph.node if 'image' in node.input]:
        if node.op_type != 'Cast':
            raise EngineError(f'`image` goes into {node.op_type} before it is cast to float')
        _rename_input(graph, node.output[0], 'image')
        graph.node.remove(node)
    graph.input[0].type.tensor_type.elem_type = _FLOAT
    labels = next((node for node in graph.node if 'labels' in node.output), None)
    if labels is None:
        return
    if labels.op_type != 'Cast':
        raise EngineError(f'`labels` come out of {labels.op_type}, not of a Cast to uint8')
    # By way of float32: TensorRT documents uint8 from and to floats alone.
    graph.node.insert(
        list(graph.node).index(labels),
        helper.make_node('Cast', [labels.input[0]], ['label_index'], to=_FLOAT),
    )
    labels.input[0] = 'label_index'
    if 'camera_labels' in outputs:
        value = next(value for value in graph.output if value.name == 'labels')
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        graph.output.append(helper.make_tensor_value_info('label_index', _FLOAT, shape))
        if 'labels' not in outputs:
            graph.node.remove(labels)
            graph.output.remove(value)


def _rename_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new


def _front(
    network: tuple[int, int], size: tuple[int, int], batch: int, like: onnx.ModelProto
) -> onnx.ModelProto:
    """`frames` uint8 [N, H, W, 3] -> `pictures` float32 [N, h, w, 3]."""
    nodes = [helper.make_node('Cast', ['frames'], ['front_float'], to=_FLOAT)]
    constants = []
    if size == network:
        nodes.append(helper.make_node('Identity', ['front_float'], ['pictures']))
    else:
        nodes.append(
            helper.make_node('Transpose', ['front_float'], ['front_planes'], perm=[0, 3, 1, 2])
        )
        resize, sizes = _resize('front_planes', 'front_small', (batch, 3, *network), 'linear')
        nodes += [
            resize,
            # To whole grey levels with halves upwards, as uint8 pictures are resized on the CPU:
            # else labels at borders and scores by up to a hundredth of their range differ.
            helper.make_node('Add', ['front_small', 'front_half'], ['front_more']),
            helper.make_node('Floor', ['front_more'], ['front_levels']),
            helper.make_node('Transpose', ['front_levels'], ['pictures'], perm=[0, 2, 3, 1]),
        ]
        constants += [sizes, numpy_helper.from_array(np.array([0.5], np.float32), 'front_half')]
    graph = helper.make_graph(
        nodes,
        'camera',
        [helper.make_tensor_value_info('frames', TensorProto.UINT8, (batch, *size, 3))],
        [helper.make_tensor_value_info('pictures', _FLOAT, (batch, *network, 3))],
        constants,
    )
    return _model(graph, like)


def _back(
    model: ModelFile,
    size: tuple[int, int],
    batch: int,
    outputs: Sequence[str],
    like: onnx.ModelProto,
) -> tuple[onnx.ModelProto, list[tuple[str, str]]]:
    """The maps of the camera's size that are asked for, and which outputs of the core they take."""
    rows, columns = model.info.map_size
    classes = len(model.info.classes)
    parts: dict[str, tuple[str, tuple[int, ...], str]] = {
        'camera_score': ('score', (batch, rows, columns), 'linear'),
        'camera_labels': ('label_index', (batch, rows, columns), 'nearest'),
        'camera_labels_smooth': ('class_scores', (batch, classes, rows, columns), 'linear'),
    }
    nodes, constants, inputs, results, joints = [], [], [], [], []
    for name in [name for name in outputs if name in parts]:
        source, shape, mode = parts[name]
        given = f'{name}_from'
        made, tensors = _upsampled(name, given, shape, size, mode)
        nodes += made
        constants += tensors
        inputs.append(helper.make_tensor_value_info(given, _FLOAT, shape))
        kind = _FLOAT if name == 'camera_score' else TensorProto.UINT8
        results.append(helper.make_tensor_value_info(name, kind, (batch, *size)))
        joints.append((source, given))
    return _model(helper.make_graph(nodes, 'back', inputs, results, constants), like), joints


def _upsampled(
    name: str, given: str, shape: tuple[int, ...], size: tuple[int, int], mode: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and constants from the map `given` to the output `name` of the camera's size."""
    first, one = f'{name}_planes', f'{name}_axis'
    many = len(shape) == 4
    nodes, constants = [], [numpy_helper.from_array(np.array([1], np.int64), one)]
    channels = shape[1] if many else 1
    if not many:
        nodes.append(helper.make_node('Unsqueeze', [given, one], [first]))
    resize, sizes = _resize(
        given if many else first, f'{name}_large', (shape[0], channels, *size), mode
    )
    nodes.append(resize)
    constants.append(sizes)
    large = f'{name}_large'
    if many:
        nodes.append(helper.make_node('ArgMax', [large], [f'{name}_best'], axis=1, keepdims=0))
        # By way of float32: TensorRT documents uint8 from and to floats alone.
        nodes.append(helper.make_node('Cast', [f'{name}_best'], [f'{name}_flat'], to=_FLOAT))
        nodes.append(helper.make_node('Cast', [f'{name}_flat'], [name], to=TensorProto.UINT8))
        return nodes, constants[1:]
    if mode == 'linear':
        nodes.append(helper.make_node('Squeeze', [large, one], [name]))
        return nodes, constants
    nodes.append(helper.make_node('Squeeze', [large, one], [f'{name}_flat']))
    nodes.append(helper.make_node('Cast', [f'{name}_flat'], [name], to=TensorProto.UINT8))
    return nodes, constants


def _resize(
    given: str, result: str, shape: tuple[int, ...], mode: str
) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """Resize to `shape` with half-pixel centres; nearest as OpenCV's INTER_NEAREST_EXACT."""
    sizes = numpy_helper.from_array(np.array(shape, np.int64), f'{result}_sizes')
    node = helper.make_node(
        'Resize',
        [given, '', '', sizes.name],
        [result],
        mode=mode,
        coordinate_transformation_mode='half_pixel',
        nearest_mode='round_prefer_ceil',
    )
    return node, sizes


def _model(graph: onnx.GraphProto, like: onnx.ModelProto) -> onnx.ModelProto:
    opsets = [one for one in like.opset_import if one.domain in ('', 'ai.onnx')]
    return helper.make_model(graph, opset_imports=opsets, ir_version=like.ir_version)


def _order_outputs(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    by_name = {value.name: value for value in model.graph.output}
    ordered = [onnx.ValueInfoProto() for _ in outputs]
    for copy, name in zip(ordered, outputs, strict=True):
        copy.CopyFrom(by_name[name])
    del model.graph.output[:]
    model.graph.output.extend(ordered)


def encoder_nodes(graph: onnx.GraphProto) -> set[int]:
    """Positions of the nodes of the encoder: the convolutions that no sensitive operation stands
    before, and what lies between them.
    """
    after_sensitive, after_conv = set[str](), set[str]()
    candidates = []
    for position, node in enumerate(graph.node):
        if node.op_type in _SENSITIVE or not after_sensitive.isdisjoint(node.input):
            after_sensitive.update(node.output)
        elif node.op_type in _OPENING or not after_conv.isdisjoint(node.input):
            after_conv.update(node.output)
            candidates.append(position)
    chosen, needed = set[int](), set[str]()
    for position in reversed(candidates):
        node = graph.node[position]
        if node.op_type == 'Conv' or not needed.isdisjoint(node.output):
            chosen.add(position)
            needed.update(node.input)
    return chosen


def with_half_encoder(model: onnx.ModelProto) -> None:
    """Compute the encoder in fp16, in place: its constants become fp16, its edges get Casts.

    Raises EngineError for a weight beyond fp16.
    """
    graph = model.graph
    half = encoder_nodes(graph)
    kinds = _element_types(model)
    nodes: list[onnx.NodeProto] = []
    cast: dict[tuple[str, int], str] = {}  # what was cast to what already
    produced = {name for position in half for name in graph.node[position].output}
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def as_kind(name: str, kind: int) -> str:
        if (name, kind) not in cast:
            cast[name, kind] = f'{name}_{"half" if kind == _HALF else "float"}'
            if name in constants:
                graph.initializer.append(_half(constants[name], cast[name, kind]))
            else:
                nodes.append(helper.make_node('Cast', [name], [cast[name, kind]], to=kind))
        return cast[name, kind]

    for position, node in enumerate(graph.node):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if not name or kinds.get(name) != _FLOAT:
                continue
            if position in half and name not in produced and not _stays_float(node, place):
                copy.input[place] = as_kind(name, _HALF)
            elif position not in half and name in produced:
                copy.input[place] = as_kind(name, _FLOAT)
        nodes.append(copy)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _drop_unused_constants(graph)


def operations(model: onnx.ModelProto) -> list[int]:
    """Multiplications and additions of each node of a graph of fixed shapes, in its order.

    Of convolutions and matrix products; all else counts as 0.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in _values(graph):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    counts = []
    for node in graph.node:
        each = 0  # of an output
        if node.op_type == 'Conv':
            each = math.prod(shapes[node.input[1]][1:])  # channels x window
        elif node.op_type in ('MatMul', 'Gemm'):
            each = shapes[node.input[0]][-1]
        counts.append(2 * each * math.prod(shapes[node.output[0]]) if each else 0)
    return counts


def _stays_float(node: onnx.NodeProto, place: int) -> bool:
    """Scales and the region of a Resize are float32 whatever it resizes."""
    return node.op_type == 'Resize' and place > 0


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over='ignore'):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise EngineError(
            f'the weight {tensor.name} has values up to {np.abs(values).max():.3g}, beyond fp16: '
            'build with the precision fp32'
        )
    return numpy_helper.from_array(half, name)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in _values(graph):
        kinds[value.name] = value.type.tensor_type.elem_type
    return kinds


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    return (*graph.input, *graph.value_info, *graph.output)


def _drop_unused_constants(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
