"""A model file on OpenVINO, CPU."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Self

import numpy as np
import openvino as ov

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.cpu import CpuEngine
from vq_anomaly_ros.detection.model_file import ModelFile


@cache
def shared_core() -> Any:
    """OpenVINO's core, one for the process.

    Its CPU plugin gives the thread that loads it an alternate stack for signals and takes the stack
    away with itself (openvinotoolkit/openvino#11894): of two cores, closed in the order in which
    they were opened, the second puts the unmapped stack of the first back, and the next signal,
    be it SIGINT, is a segmentation fault. Graphs are released with their engine all the same.
    """
    return ov.Core()


_Key = tuple[str, tuple[str, ...], int, int]


class _Graphs:
    """The compiled graphs of a model, one a batch size; twins share them."""

    def __init__(self, model: ModelFile, key: _Key) -> None:
        """Read the model; nothing is compiled yet."""
        self.key = key
        self.users = 0
        self.sound = True
        _, outputs, threads, streams = key
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


class _Shelf:
    """The graphs of the engine that was closed last: the next one of that kind compiles nothing.

    OpenVINO (2026.4) loses about 5 kB of what a graph was compiled with, and leaves holes of 20 to
    40 kB more in the heap, so a node that is configured and cleaned up for ever would grow for
    ever. Graphs of an engine that hangs are never closed, and those that failed are not kept:
    what comes after them is compiled anew.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self._kept: _Graphs | None = None
        self._lock = threading.Lock()

    def take(self, model: ModelFile, outputs: Sequence[str], threads: int, streams: int) -> _Graphs:
        """The graphs for a first user: kept ones where all is the same, for nobody else then."""
        key = (model.sha256, tuple(outputs), threads, streams)
        with self._lock:
            # What is not asked for now will hardly be next: two models never lie in memory here.
            kept, self._kept = self._kept, None
        graphs = kept if kept is not None and kept.key == key else _Graphs(model, key)
        graphs.users = 1
        return graphs

    def share(self, graphs: _Graphs) -> None:
        """Count one more user."""
        with self._lock:
            graphs.users += 1

    def give_back(self, graphs: _Graphs) -> None:
        """Count one user less; keep what nobody uses any more."""
        with self._lock:
            graphs.users -= 1
            if not graphs.users and graphs.sound:
                self._kept = graphs


_SHELF = _Shelf()


class OpenVinoEngine(CpuEngine[_Graphs]):
    """OpenVINO in f32, one static graph a batch size, for the lowest latency of one stream.

    One graph of dynamic batch would do as well: for a MobileNet of 1024x512 on two cores, paired
    runs gave static / dynamic = 1.00 of the time at batch 1, 0.96 at batch 2, 0.95 where the two
    alternate, and the same memory. Static graphs let OpenVINO refuse a map of another size than
    the metadata promises before the first frame; each takes 0.1 to 0.3 s at its first use.

    Threads that work on one frame wait for one another after every layer, and for any that lost its
    core to another process; streams do not.
    """

    name = 'openvino'
    title = 'OpenVINO'
    other = 'onnxruntime'
    errors = RuntimeError

    def __init__(
        self, model: ModelFile, outputs: Sequence[str], threads: int = 0, streams: int = 1
    ) -> None:
        """See engines.open_engine."""
        graphs = _SHELF.take(model, outputs, threads, streams)
        try:
            compiled = graphs.of(1)
        except RuntimeError as error:
            raise self.failure(model, 'cannot compile the graph', error) from error
        used = compiled.get_property('INFERENCE_NUM_THREADS')
        shared = '' if streams == 1 else f' in {compiled.get_property("NUM_STREAMS")} streams'
        version = ov.__version__.split('-')[0]
        description = f'OpenVINO {version}, CPU, f32, {used} threads{shared}'
        super().__init__(model, outputs, graphs, description)
        self._prepare(1)

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer."""
        try:
            return super().infer(batch, size)
        except EngineError:
            if self._graph is not None:
                self._graph.sound = False
            raise

    def twin(self) -> Self:
        """See StreamEngine.twin."""
        twin = super().twin()
        _SHELF.share(twin._opened())
        return twin

    def close(self) -> None:
        """See Engine.close; the graphs stay for the next engine of the same kind."""
        graphs = self._graph
        super().close()
        if graphs is not None:
            _SHELF.give_back(graphs)

    def _bind(
        self, graph: _Graphs, batch: int, image: np.ndarray, results: Mapping[str, np.ndarray]
    ) -> Callable[[], Any]:
        request = graph.of(batch).create_infer_request()
        for name, array in {'image': image, **results}.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        infer: Callable[[], Any] = request.infer
        return infer
