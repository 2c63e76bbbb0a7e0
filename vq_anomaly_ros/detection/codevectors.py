"""The codevectors of a model and the features that are compared with them, out of its graph.

A model file gives, for every position, the nearest codevector (`codes`) and no more. Where an
explanation asks for distances, the graph is cut open: `codes` goes back to a 1x1 convolution whose
weights are the codevectors and whose input are the features, up to their length. Which channel of
it is which codevector is found by running what follows on as many unit vectors.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import CPU_BACKENDS, EngineError
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.images import TO_RGB, Frame

CODES = 'codes'
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class FeatureGraph:
    """A model cut open.

    codevectors: float32 [K, D], unit vectors in the order of `codes`; graph: serialised, from
    `image` to `name`, float32 [N, D, h, w].
    """

    codevectors: np.ndarray
    graph: bytes
    name: str


def feature_graph(model: ModelFile) -> FeatureGraph:
    """Cut a model of the method codebook open; raises ModelFileError where that cannot be done."""
    whole = onnx.load(model.path)
    info = model.info
    count = len(info.classes) * info.codevectors_per_class
    conv = _codebook_convolution(whole.graph, count)
    if conv is None:
        raise ModelFileError(
            f'{model.path}: its codevectors are not found in its graph, so nothing can be said of '
            'distances; export it again with `python -m training.export`'
        )
    node, weights = conv
    order = _codes_of_channels(whole, node.output[0], count, info.map_size)
    codevectors = np.empty((count, weights.shape[1]), np.float32)
    codevectors[order] = weights[:, :, 0, 0]
    name = str(node.input[0])
    return FeatureGraph(unit(codevectors, 1), _cut(whole, 'image', name), name)


def unit(vectors: np.ndarray, axis: int) -> np.ndarray:
    """Vectors of length 1 along an axis; float32 as they come in."""
    length = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return np.asarray(vectors / np.maximum(length, _SMALLEST), np.float32)


def _codebook_convolution(
    graph: onnx.GraphProto, count: int
) -> tuple[onnx.NodeProto, np.ndarray] | None:
    """The last 1x1 convolution before `codes` with a channel a codevector, and its weights."""
    producers = {name: node for node in graph.node for name in node.output}
    open_names, seen = [CODES], set()
    while open_names:
        node = producers.get(name := open_names.pop(0))
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == 'Conv':
            weights = _constant(graph, producers, node.input[1])
            if weights is not None and weights.shape[0] == count and weights.shape[2:] == (1, 1):
                return node, weights
            continue
        open_names += node.input
    return None


def _constant(
    graph: onnx.GraphProto, producers: dict[str, onnx.NodeProto], name: str
) -> np.ndarray | None:
    """The values of an initializer, stored as they are or cast from half precision."""
    node = producers.get(name)
    if node is not None and node.op_type == 'Cast':
        name = node.input[0]
    found = [tensor for tensor in graph.initializer if tensor.name == name]
    return numpy_helper.to_array(found[0]).astype(np.float32) if found else None


def _codes_of_channels(
    whole: onnx.ModelProto, similarity: str, count: int, map_size: tuple[int, int]
) -> np.ndarray:
    """int64 [K]: the codevector, as `codes` counts, that each channel of the convolution is."""
    tail = onnx.load_from_string(_cut(whole, similarity, CODES, [1, count, *map_size]))
    positions = map_size[0] * map_size[1]
    order = np.empty(count, np.int64)
    for first in range(0, count, positions):
        channels = np.arange(first, min(first + positions, count))
        peaks = np.zeros((1, count, positions), np.float32)
        peaks[0, channels, channels - first] = 1
        given = {similarity: peaks.reshape(1, count, *map_size)}
        found: Any = ReferenceEvaluator(tail).run(None, given)
        order[channels] = np.asarray(found[0]).ravel()[: len(channels)]
    if sorted(order) != list(range(count)):
        raise ModelFileError(
            f'the codes of the graph are not one a codevector ({len(set(order))} of {count}); '
            'export the model again with `python -m training.export`'
        )
    return order


def _cut(whole: onnx.ModelProto, first: str, last: str, shape: list[int] | None = None) -> bytes:
    """The serialised part of a model from one tensor to another; shape: of a first that is none.

    The model's own input stays as it is described.
    """
    part = onnx.ModelProto()
    part.CopyFrom(whole)
    graph = part.graph
    if shape is not None:
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info(first, TensorProto.FLOAT, shape))
        producers = [node for node in graph.node if first in node.output]
        for node in producers:
            graph.node.remove(node)
    kept = [value for value in graph.output if value.name == last]
    kept = kept or [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]
    model_file.keep_outputs(graph, kept)
    return bytes(part.SerializeToString())


class FeatureSession:
    """A model cut open, on the first CPU runtime that works."""

    def __init__(self, model: ModelFile, threads: int = 0) -> None:
        """Open it; raises ModelFileError, EngineError."""
        self.graph = feature_graph(model)
        self.codevectors = self.graph.codevectors
        self._size = size = model.info.input_size
        causes = []
        for backend in CPU_BACKENDS:
            if importlib.util.find_spec(backend) is None:
                causes.append(f'{backend} is not installed')
                continue
            try:
                self._run = _RUNTIMES[backend](self.graph, size, threads)
                return
            except Exception as error:  # the runtimes' exceptions have no common base
                causes.append(f'{backend}: {" ".join(str(error).split())[-300:]}')
        raise EngineError(f'{model.path}: cannot be cut open for distances ({"; ".join(causes)})')

    def cosines(self, frame: Frame) -> np.ndarray:
        """float32 [K, h, w]: the cosine of every position to every codevector, -1..1."""
        features = unit(self._run(network_input(frame, self._size)[None])[0], 0)
        flat = self.codevectors @ features.reshape(len(features), -1)
        return np.asarray(flat.reshape(-1, *features.shape[1:]))


def network_input(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] RGB: a frame stretched to the network's size as the detector does it."""
    small = frame.pixels
    if frame.size != size:
        small = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    return small if frame.order == 'rgb' else cv2.cvtColor(small, TO_RGB[frame.order])


def _on_openvino(
    graph: FeatureGraph, size: tuple[int, int], threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    from vq_anomaly_ros.detection.engines.openvino import shared_core

    core = shared_core()
    network = core.read_model(io.BytesIO(graph.graph))
    network.reshape({'image': [1, *size, 3]})
    settings: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    if threads:
        settings['INFERENCE_NUM_THREADS'] = threads
    request = core.compile_model(network, 'CPU', settings).create_infer_request()
    return lambda image: request.infer({'image': image})[0].copy()


def _on_onnxruntime(
    graph: FeatureGraph, size: tuple[int, int], threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(graph.graph, options, providers=['CPUExecutionProvider'])
    return lambda image: np.asarray(session.run([graph.name], {'image': image})[0])


_RUNTIMES: dict[
    str, Callable[[FeatureGraph, tuple[int, int], int], Callable[[np.ndarray], np.ndarray]]
] = {'openvino': _on_openvino, 'onnxruntime': _on_onnxruntime}
