"""A model file on ONNX Runtime, CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines.cpu import CpuEngine
from vq_anomaly_ros.detection.model_file import ModelFile
from vq_anomaly_ros.machine import usable_cores

_QUIET = 4  # not even errors: they come back as exceptions


def _session(graph: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _QUIET
    return ort.InferenceSession(graph, options, providers=['CPUExecutionProvider'])


class OnnxRuntimeEngine(CpuEngine[Any]):
    """ONNX Runtime's CPU provider in fp32."""

    name = 'onnxruntime'
    title = 'ONNX Runtime'
    other = 'openvino'
    errors = Exception  # ONNX Runtime's exceptions have no common base

    def __init__(
        self, model: ModelFile, outputs: Sequence[str], threads: int = 0, streams: int = 1
    ) -> None:
        """See engines.open_engine."""
        if streams > 1:  # each runs on its caller's thread and its share of the others
            threads = max(1, (threads or usable_cores()) // streams)
        graph = model_file.pruned(model.path, outputs)
        try:
            session = _session(graph, threads)
        except Exception as error:
            raise self.failure(model, 'cannot load the graph', error) from error
        used = f'{threads or "default"} threads{"" if streams == 1 else " a stream"}'
        description = f'ONNX Runtime {ort.__version__}, CPU, f32, {used}'
        super().__init__(model, outputs, session, description)

    def _bind(
        self, graph: Any, batch: int, image: np.ndarray, results: Mapping[str, np.ndarray]
    ) -> Callable[[], Any]:
        binding = graph.io_binding()
        binding.bind_input('image', 'cpu', 0, np.uint8, image.shape, image.ctypes.data)
        for name, array in results.items():
            binding.bind_output(name, 'cpu', 0, array.dtype, array.shape, array.ctypes.data)
        return partial(graph.run_with_iobinding, binding)
