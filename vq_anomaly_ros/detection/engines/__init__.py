"""One contract for the runtimes that execute a model file; one module a runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vq_anomaly_ros.detection.model_file import ModelFile

BACKENDS = ('openvino', 'onnxruntime')


class EngineError(RuntimeError):
    """A runtime that is missing or fails; the message names model, cause and remedy."""


class Engine(Protocol):
    """A loaded model that owns its input and output memory."""

    name: str
    """'openvino' or 'onnxruntime'."""
    description: str
    """Runtime version, device, precision and threads, for diagnostics."""

    def input_buffer(self, batch: int) -> np.ndarray:
        """uint8 [batch, h, w, 3] RGB, the same memory at every call: to be filled before infer."""

    def infer(self, batch: int) -> dict[str, np.ndarray]:
        """Run on input_buffer(batch); output name -> array [batch, ...], valid until the next."""

    def close(self) -> None:
        """Release the runtime's memory; the engine cannot be used any more."""


def open_engine(model: ModelFile, backend: str, outputs: Sequence[str], threads: int = 0) -> Engine:
    """The engine of a backend ('openvino', 'onnxruntime', or 'auto': the first that works).

    outputs: names of the outputs that infer returns; the others are pruned and cost nothing.
    threads: 0 leaves their number to the runtime. Raises EngineError.
    """
    if backend == 'tensorrt':
        raise EngineError(
            'the backend tensorrt is not in this version: use auto, openvino or onnxruntime'
        )
    if backend not in ('auto', *BACKENDS):
        raise EngineError(f'the backend {backend!r} is unknown: use auto, {" or ".join(BACKENDS)}')
    if unknown := set(outputs) - set(model.info.output_layouts()):
        raise EngineError(
            f'{model.path}: the model has no output {", ".join(sorted(unknown))}: '
            f'ask for some of {", ".join(model.info.output_layouts())}'
        )
    causes = []
    for name in BACKENDS if backend == 'auto' else (backend,):
        try:
            return _open(name, model, outputs, threads)
        except EngineError as error:
            causes.append(str(error))
    raise EngineError('; '.join(causes))


def _open(name: str, model: ModelFile, outputs: Sequence[str], threads: int) -> Engine:
    if importlib.util.find_spec(name) is None:
        raise EngineError(
            f'the runtime {name} is not installed: `pip install {name}` or choose another backend'
        )
    # imported here: a vehicle has the one runtime that it uses
    if name == 'openvino':
        from vq_anomaly_ros.detection.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, outputs, threads)
    from vq_anomaly_ros.detection.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model, outputs, threads)
