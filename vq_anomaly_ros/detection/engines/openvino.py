"""A model file on OpenVINO, CPU."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import openvino as ov

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile


@dataclass(frozen=True)
class _Batch:
    """One batch size. OpenVINO's shared tensors do not keep the arrays alive: this object does."""

    request: Any
    image: np.ndarray
    results: dict[str, np.ndarray]


@cache
def shared_core() -> Any:
    """OpenVINO's core, one for the process.

    Its CPU plugin gives the thread that loads it an alternate stack for signals and takes the stack
    away with itself (openvinotoolkit/openvino#11894): of two cores, closed in the order in which
    they were opened, the second puts the unmapped stack of the first back, and the next signal,
    be it SIGINT, is a segmentation fault. Graphs are released with their engine all the same.
    """
    return ov.Core()


class OpenVinoEngine:
    """OpenVINO in f32 with the LATENCY hint, one static graph and request a batch size.

    One graph of dynamic batch would do as well: for a MobileNet of 1024x512 on two cores, paired
    runs gave static / dynamic = 1.00 of the time at batch 1, 0.96 at batch 2, 0.95 where the two
    alternate, and the same memory. Static graphs let OpenVINO refuse a map of another size than
    the metadata promises before the first frame; each takes 0.1 to 0.3 s at its first use.
    """

    name = 'openvino'
    takes_frames = False

    def __init__(self, model: ModelFile, outputs: Sequence[str], threads: int = 0) -> None:
        """See engines.open_engine."""
        self._model = model
        self._outputs = tuple(outputs)
        self._threads = threads
        self._batches: dict[int, _Batch] = {}
        self._core: Any = shared_core()
        self._graph = io.BytesIO(model_file.pruned(model.path, outputs))
        compiled = self._prepare(1).request.get_compiled_model()
        used = compiled.get_property('INFERENCE_NUM_THREADS')
        self.description = f'OpenVINO {ov.__version__.split("-")[0]}, CPU, f32, {used} threads'

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [batch, h, w, 3]; the first call of a batch size compiles the graph for it."""
        return self._prepare(batch).image

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer."""
        prepared = self._prepare(batch)
        try:
            prepared.request.infer()
        except RuntimeError as error:
            raise self._failure('failed on a frame', error) from error
        return prepared.results

    def close(self) -> None:
        """See Engine.close."""
        self._batches.clear()
        self._core = None

    def _prepare(self, batch: int) -> _Batch:
        if self._core is None:
            raise EngineError(f'{self._model.path}: the engine was closed, open another')
        if batch not in self._batches:
            try:
                self._batches[batch] = self._compile(batch)
            except RuntimeError as error:
                raise self._failure('cannot compile the graph', error) from error
        return self._batches[batch]

    def _compile(self, batch: int) -> _Batch:
        info = self._model.info
        self._graph.seek(0)
        graph = self._core.read_model(self._graph)
        graph.reshape({'image': [batch, *info.input_size, 3]})
        settings: dict[str, Any] = {
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
        }
        if self._threads:
            settings['INFERENCE_NUM_THREADS'] = self._threads
        request = self._core.compile_model(graph, 'CPU', settings).create_infer_request()
        layouts = info.output_layouts()
        image = np.zeros((batch, *info.input_size, 3), np.uint8)
        request.set_tensor('image', ov.Tensor(image, shared_memory=True))
        results = {}
        for name in self._outputs:
            dtype, shape = layouts[name]
            results[name] = np.zeros((batch, *shape), dtype)
            request.set_tensor(name, ov.Tensor(results[name], shared_memory=True))
        return _Batch(request, image, results)

    def _failure(self, what: str, error: Exception) -> EngineError:
        cause = ' '.join(str(error).split())[-300:]
        return EngineError(
            f'{self._model.path}: OpenVINO {what} ({cause}): export the model again with '
            '`python -m training.export` or try backend onnxruntime'
        )
