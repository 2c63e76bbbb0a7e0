"""A model file on OpenVINO, CPU."""

from __future__ import annotations

import io
import threading
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


class _Graphs:
    """The compiled graphs of a model, one a batch size; twins share them."""

    def __init__(
        self, model: ModelFile, outputs: Sequence[str], threads: int, streams: int
    ) -> None:
        """Read the model; nothing is compiled yet."""
        self._input_size = model.info.input_size
        self._graph = io.BytesIO(model_file.pruned(model.path, outputs))
        self._settings: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32'}
        if streams == 1:
            self._settings['PERFORMANCE_HINT'] = 'LATENCY'
        else:
            self._settings |= {'PERFORMANCE_HINT': 'THROUGHPUT', 'NUM_STREAMS': streams}
        if threads:
            self._settings['INFERENCE_NUM_THREADS'] = threads
        self._compiled: dict[int, Any] = {}
        self._lock = threading.Lock()

    def of(self, batch: int) -> Any:
        """The graph of a batch size, compiled at the first call; RuntimeError where it cannot."""
        with self._lock:
            if batch not in self._compiled:
                self._graph.seek(0)
                graph = shared_core().read_model(self._graph)
                graph.reshape({'image': [batch, *self._input_size, 3]})
                self._compiled[batch] = shared_core().compile_model(graph, 'CPU', self._settings)
            return self._compiled[batch]


class OpenVinoEngine:
    """OpenVINO in f32, one static graph a batch size, for the lowest latency of one stream.

    One graph of dynamic batch would do as well: for a MobileNet of 1024x512 on two cores, paired
    runs gave static / dynamic = 1.00 of the time at batch 1, 0.96 at batch 2, 0.95 where the two
    alternate, and the same memory. Static graphs let OpenVINO refuse a map of another size than
    the metadata promises before the first frame; each takes 0.1 to 0.3 s at its first use.

    Threads that work on one frame wait for one another after every layer, and for any that lost its
    core to another process; streams do not.
    """

    name = 'openvino'
    takes_frames = False

    def __init__(
        self,
        model: ModelFile,
        outputs: Sequence[str],
        threads: int = 0,
        streams: int = 1,
        graphs: _Graphs | None = None,
    ) -> None:
        """See engines.open_engine; graphs: of the engine whose twin this is."""
        self._model = model
        self._outputs = tuple(outputs)
        self._batches: dict[int, _Batch] = {}
        self._graphs: _Graphs | None = graphs or _Graphs(model, outputs, threads, streams)
        compiled = self._prepare(1).request.get_compiled_model()
        used = compiled.get_property('INFERENCE_NUM_THREADS')
        shared = '' if streams == 1 else f' in {compiled.get_property("NUM_STREAMS")} streams'
        version = ov.__version__.split('-')[0]
        self.description = f'OpenVINO {version}, CPU, f32, {used} threads{shared}'

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

    def twin(self) -> OpenVinoEngine:
        """See StreamEngine.twin."""
        return OpenVinoEngine(self._model, self._outputs, graphs=self._opened())

    def close(self) -> None:
        """See Engine.close."""
        self._batches.clear()
        self._graphs = None

    def _opened(self) -> _Graphs:
        if self._graphs is None:
            raise EngineError(f'{self._model.path}: the engine was closed, open another')
        return self._graphs

    def _prepare(self, batch: int) -> _Batch:
        graphs = self._opened()
        if batch not in self._batches:
            try:
                self._batches[batch] = self._request(batch, graphs.of(batch))
            except RuntimeError as error:
                raise self._failure('cannot compile the graph', error) from error
        return self._batches[batch]

    def _request(self, batch: int, compiled: Any) -> _Batch:
        info = self._model.info
        request = compiled.create_infer_request()
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
