"""A model file on ONNX Runtime, CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile
from vq_anomaly_ros.machine import usable_cores

_QUIET = 4  # not even errors: they come back as exceptions


@dataclass(frozen=True)
class _Batch:
    """One batch size: the binding holds addresses only, this object keeps the arrays alive."""

    binding: Any
    image: np.ndarray
    results: dict[str, np.ndarray]


def _session(graph: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _QUIET
    return ort.InferenceSession(graph, options, providers=['CPUExecutionProvider'])


class OnnxRuntimeEngine:
    """ONNX Runtime's CPU provider in fp32, inputs and outputs bound to arrays of ours."""

    name = 'onnxruntime'
    takes_frames = False

    def __init__(
        self,
        model: ModelFile,
        outputs: Sequence[str],
        threads: int = 0,
        streams: int = 1,
        session: Any = None,
    ) -> None:
        """See engines.open_engine; session: of the engine whose twin this is."""
        self._model = model
        self._outputs = tuple(outputs)
        self._batches: dict[int, _Batch] = {}
        if streams > 1:  # each runs on its caller's thread and its share of the others
            threads = max(1, (threads or usable_cores()) // streams)
        try:
            self._session = session or _session(model_file.pruned(model.path, outputs), threads)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise self._failure('cannot load the graph', error) from error
        used = f'{threads or "default"} threads{"" if streams == 1 else " a stream"}'
        self.description = f'ONNX Runtime {ort.__version__}, CPU, f32, {used}'

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """See Engine.input_buffer."""
        return self._prepare(batch).image

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer."""
        prepared = self._prepare(batch)
        try:
            self._session.run_with_iobinding(prepared.binding)
        except Exception as error:
            raise self._failure('failed on a frame', error) from error
        return prepared.results

    def twin(self) -> OnnxRuntimeEngine:
        """See StreamEngine.twin."""
        return OnnxRuntimeEngine(self._model, self._outputs, session=self._opened())

    def close(self) -> None:
        """See Engine.close."""
        self._batches.clear()
        self._session = None

    def _opened(self) -> Any:
        if self._session is None:
            raise EngineError(f'{self._model.path}: the engine was closed, open another')
        return self._session

    def _prepare(self, batch: int) -> _Batch:
        self._opened()
        if batch not in self._batches:
            self._batches[batch] = self._bind(batch)
        return self._batches[batch]

    def _bind(self, batch: int) -> _Batch:
        info = self._model.info
        image = np.zeros((batch, *info.input_size, 3), np.uint8)
        layouts = info.output_layouts()
        results = {
            name: np.zeros((batch, *layouts[name][1]), layouts[name][0]) for name in self._outputs
        }
        binding = self._session.io_binding()
        binding.bind_input('image', 'cpu', 0, np.uint8, image.shape, image.ctypes.data)
        for name, array in results.items():
            binding.bind_output(name, 'cpu', 0, array.dtype, array.shape, array.ctypes.data)
        return _Batch(binding, image, results)

    def _failure(self, what: str, error: Exception) -> EngineError:
        cause = ' '.join(str(error).split())[-300:]
        return EngineError(
            f'{self._model.path}: ONNX Runtime {what} ({cause}): export the model again with '
            '`python -m training.export` or try backend openvino'
        )
