"""One contract for the runtimes that execute a model file; one module a runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from vq_anomaly_ros.detection.model_file import ModelFile

if TYPE_CHECKING:
    from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions

CPU_BACKENDS = ('openvino', 'onnxruntime')
BACKENDS = ('tensorrt', *CPU_BACKENDS)  # in the order in which 'auto' tries them


class EngineError(RuntimeError):
    """A runtime that is missing or fails; the message names model, cause and remedy."""


class Engine(Protocol):
    """A loaded model that owns its input and output memory."""

    name: str
    """'tensorrt', 'openvino' or 'onnxruntime'."""
    takes_frames: bool
    """Whether it resizes itself, so that pictures may have any size: then the results have, beside
    `labels`, `camera_labels` (or `camera_labels_smooth`) at the pictures' size."""

    @property
    def description(self) -> str:
        """Runtime version, device, precision and threads, for diagnostics."""

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [batch, h, w, 3] RGB, to be filled before infer; the same memory at every call.

        size: (h, w) of the pictures where the engine `takes_frames`; else, and by default, the
        model's input size.
        """

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """Run on input_buffer(batch, size); name -> array [batch, ...], valid until the next."""

    def close(self) -> None:
        """Release the runtime's memory; the engine cannot be used any more."""


@runtime_checkable
class StreamEngine(Engine, Protocol):
    """An engine that is not alone: as many as it has streams run at the same time."""

    def twin(self) -> Engine:
        """Another engine on the same graph, for another thread, with memory of its own."""


def open_cpu_engine(
    model: ModelFile, outputs: Sequence[str], threads: int = 0, streams: int = 1
) -> Engine:
    """The first of CPU_BACKENDS that works; see open_engine. Raises EngineError."""
    return _first_of(CPU_BACKENDS, model, outputs, None, threads, streams)


def open_engine(
    model: ModelFile,
    backend: str,
    outputs: Sequence[str],
    threads: int = 0,
    gpu: GpuOptions | None = None,
    streams: int = 1,
) -> Engine:
    """The engine of a backend (one of BACKENDS, or 'auto': the first of them that works).

    outputs: names of the outputs that infer returns; the others are pruned and cost nothing.
    threads: of a CPU, 0 leaves their number to the runtime; gpu: how TensorRT builds and runs;
    streams: of a CPU, itself and its twins, among which the threads are shared out.
    Raises EngineError.
    """
    if backend not in ('auto', *BACKENDS):
        raise EngineError(f'the backend {backend!r} is unknown: use auto, {" or ".join(BACKENDS)}')
    if unknown := set(outputs) - set(model.info.output_layouts()):
        raise EngineError(
            f'{model.path}: the model has no output {", ".join(sorted(unknown))}: '
            f'ask for some of {", ".join(model.info.output_layouts())}'
        )
    names = BACKENDS if backend == 'auto' else (backend,)
    return _first_of(names, model, outputs, gpu, threads, streams)


def _first_of(
    names: Sequence[str],
    model: ModelFile,
    outputs: Sequence[str],
    gpu: GpuOptions | None,
    threads: int,
    streams: int,
) -> Engine:
    causes = []
    for name in names:
        try:
            return _open(name, model, outputs, gpu, threads, streams)
        except EngineError as error:
            causes.append(str(error))
    raise EngineError('; '.join(causes))


def _open(
    name: str,
    model: ModelFile,
    outputs: Sequence[str],
    gpu: GpuOptions | None,
    threads: int,
    streams: int,
) -> Engine:
    # imported here: a vehicle has the one runtime that it uses
    if name == 'tensorrt':
        from vq_anomaly_ros.detection.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(model, outputs, gpu)
    if importlib.util.find_spec(name) is None:
        raise EngineError(
            f'the runtime {name} is not installed: `pip install {name}` or choose another backend'
        )
    if name == 'openvino':
        from vq_anomaly_ros.detection.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, outputs, threads, streams)
    from vq_anomaly_ros.detection.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model, outputs, threads, streams)
