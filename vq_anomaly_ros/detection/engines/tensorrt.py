"""A model file on TensorRT: frames of a camera's size in page-locked memory, maps back.

One static plan a frame size and batch, built at the first frame of that size and kept on disk
(plan_cache.py). How frames go through it: lanes.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from vq_anomaly_ros.detection.engines import EngineError, build, gpu_graph
from vq_anomaly_ros.detection.engines.cuda import Cuda, CudaError, Device, find_device
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.engines.lanes import Lanes
from vq_anomaly_ros.detection.engines.plan_cache import PlanCache, PlanError, PlanKey
from vq_anomaly_ros.detection.engines.tensorrt_api import TensorRt
from vq_anomaly_ros.detection.model_file import ModelFile

if TYPE_CHECKING:
    import tensorrt as trt

BUILDING = 'building the plan'  # how reports of progress begin
_REPORT_EVERY_S = 3.0


@dataclass(frozen=True)
class Runtime:
    """What runs plans: the library (TensorRT or what answers as it), CUDA and the device."""

    library: TensorRt
    cuda: Cuda
    device: Device


def find_runtime() -> Runtime:
    """TensorRT with a GPU to run on; EngineError says what is missing."""
    library = build.find_library()
    try:
        # Before anything of TensorRT: a runtime made without a driver crashes when it is used.
        device = find_device()
        return Runtime(library, Cuda(), device)
    except CudaError as error:
        raise EngineError(
            f'{build.library_name(library)} has no GPU to run on: {error}; use backend openvino'
        ) from error


class TensorRtEngine:
    """A model on one GPU, in fp32, fp16 or int8 as the plan was built.

    Takes frames of any size (`takes_frames`): see `input_buffer`. Results of `labels` come also as
    `camera_labels` at the frame's size; where class scores are asked for, as
    `camera_labels_smooth`.
    """

    name = 'tensorrt'
    takes_frames = True

    def __init__(
        self,
        model: ModelFile,
        outputs: Sequence[str],
        options: GpuOptions | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """See engines.open_engine; plans are loaded or built when a frame size first comes."""
        self._model = model
        self._outputs = camera_outputs(outputs)
        self._options = options or GpuOptions()
        self._runtime = runtime or find_runtime()
        library = self._runtime.library
        try:
            self._loader: trt.Runtime | None = library.Runtime(build.logger(library))
        except TypeError as error:  # what its binding makes of no runtime: no memory, old driver
            raise EngineError(
                f'{build.library_name(library)} cannot start on {self._runtime.device.name}: free '
                'memory of the GPU, or install a driver that is new enough for it'
            ) from error
        self._sizes: dict[tuple[int, int], Lanes] = {}
        self._refused: dict[tuple[int, int], str] = {}

    @property
    def description(self) -> str:
        """Library, version, GPU, precision, batch."""
        device, options = self._runtime.device, self._options
        return (
            f'{build.library_name(self._runtime.library)}, {device.name}, {options.precision}, '
            f'batch {options.batch}'
        )

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [batch, H, W, 3] RGB, page-locked, to be filled before `infer`.

        size: (H, W) of the frames, the model's input size where not given. The first call with a
        size loads or builds its plan. Raises EngineError.
        """
        frames = self._frames(size)
        try:
            return frames.input_buffer(batch)
        except CudaError as error:
            height, width = frames.size
            raise EngineError(
                f'{self._model.path}: no memory on {self._runtime.device.name} for {batch} frames '
                f'of {width}x{height} ({error}); lower the batch, use the precision fp16 or stop '
                'what else runs there'
            ) from error

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer; what the GPU complains of comes out here as EngineError."""
        try:
            return self._frames(size).infer(batch)
        except CudaError as error:
            raise EngineError(
                f'{self._model.path}: {self.description} failed on a frame ({error}); if this '
                'repeats, restart the process: an error of the GPU stays with it'
            ) from error

    def stage_times(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """See Lanes.stage_times, for frames of `size`."""
        return self._frames(size).stage_times()

    def close(self) -> None:
        """See Engine.close."""
        for frames in self._sizes.values():
            frames.close()
        self._sizes.clear()
        self._loader = None

    def _frames(self, size: tuple[int, int] | None) -> Lanes:
        if self._loader is None:
            raise EngineError(f'{self._model.path}: the engine was closed, open another')
        size = size or self._model.info.input_size
        if size in self._refused:  # a build takes minutes: not at every frame
            raise EngineError(self._refused[size])
        if size not in self._sizes:
            try:
                engine = self._deserialised(self._loader, size)
            except build.BuildCancelledError:
                raise
            except Exception as error:  # also of the disk, of onnx: none may come at every frame
                self._refused[size] = str(error)
                if isinstance(error, EngineError):
                    raise
                raise EngineError(
                    f'{self._model.path}: no plan for {size[1]}x{size[0]} ({error}); see that '
                    'there is space in the temporary folder, or use backend openvino'
                ) from error
            layouts = gpu_graph.output_layouts(self._model, size)
            wanted = {name: layouts[name] for name in self._outputs}
            self._sizes[size] = Lanes(
                self._runtime.cuda, self._runtime.device, engine, size, wanted, self._options
            )
        return self._sizes[size]

    def _deserialised(self, loader: trt.Runtime, size: tuple[int, int]) -> trt.ICudaEngine:
        """The plan as an engine; one that TensorRT refuses is built once more.

        The one before is kept until there is another: TensorRT also refuses for want of memory.
        """
        options, runtime = self._options, self._runtime
        for fresh in (False, True):
            if fresh and options.precision == 'int8' and options.quantise is None:
                break
            plan, _ = plan_of(self._model, size, self._outputs, options, runtime, fresh=fresh)
            engine = loader.deserialize_cuda_engine(plan)
            if engine is not None:
                return engine
            options.report('TensorRT refuses the plan')
        raise EngineError(
            f'{self._model.path}: {build.library_name(runtime.library)} refuses the plan, also '
            f'after it was built again where that is possible; see that {runtime.device.name} has '
            'memory left, install TensorRT again, or use backend openvino'
        )


def camera_outputs(outputs: Sequence[str]) -> tuple[str, ...]:
    """The outputs of a GPU graph for those of a model file that are asked for."""
    wanted = [name for name in outputs if name != 'class_scores']
    if 'labels' in outputs:
        wanted.append('camera_labels_smooth' if 'class_scores' in outputs else 'camera_labels')
    return tuple(wanted)


def plan_of(
    model: ModelFile,
    size: tuple[int, int],
    outputs: Sequence[str],
    options: GpuOptions,
    runtime: Runtime,
    fresh: bool = False,
) -> tuple[bytes, PlanKey]:
    """The plan of a model for frames of `size`, from the cache or built, and its key.

    fresh: build it whatever the cache holds. A cache that cannot be used costs the next start a
    build and stops nothing: `options.report` says why. Raises EngineError where the graph cannot
    be built.
    """
    graph = gpu_graph.derive(model, size, options.batch, outputs, options.precision)
    key = _key(model, graph, size, outputs, options, runtime)
    cache, say = PlanCache(options.folder), options.report
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(cache.locked(key, lambda s: _wait(options, s)))
            kept = True
        except PlanError as error:  # of another user, say: there may be a plan to read all the same
            say(f'plans are not kept: {error}')
            kept = False
        plan = None if fresh else _loaded(cache, key, say)
        if plan is None:
            plan = _built(model, graph, options, runtime)
            if kept:
                _keep(cache, key, plan, say)
    return plan, key


def _keep(cache: PlanCache, key: PlanKey, plan: bytes, say: Callable[[str], None]) -> None:
    try:
        cache.store(key, plan, {})
        say('the plan is built and kept')
    except PlanError as error:
        say(f'the plan is built, but not kept: {error}')


def _loaded(cache: PlanCache, key: PlanKey, say: Callable[[str], None]) -> bytes | None:
    try:
        return cache.load(key)
    except PlanError as error:
        say(f'a kept plan is dropped: {error}')
        return None


def _wait(options: GpuOptions, seconds: float) -> None:
    options.alive()
    if options.cancelled is not None and options.cancelled.is_set():
        raise build.BuildCancelledError('waiting for the plan of another process was cancelled')
    if math.isclose(seconds % 10.0, 0.0, abs_tol=0.2):
        options.report(f'another process builds this plan, waiting ({seconds:.0f} s)')


def _built(
    model: ModelFile, graph: onnx.ModelProto, options: GpuOptions, runtime: Runtime
) -> bytes:
    if options.precision == 'int8':
        if options.quantise is None:
            raise EngineError(
                f'{model.path}: int8 needs frames to calibrate on: build the plan with '
                '`build_engine --precision int8 --bag BAG` first, or use fp16'
            )
        options.report('calibrating int8 on the frames')
        graph = options.quantise(graph)
    said = [-math.inf]

    def progress(phase: str, done: float) -> None:
        options.progress(phase, done)
        now = time.monotonic()
        if now - said[0] >= _REPORT_EVERY_S:  # phases nest, and there are thousands of steps
            said[0] = now
            options.report(f'{BUILDING}: {phase} {100 * done:.0f} %')

    return build.build_plan(
        graph.SerializeToString(deterministic=True),
        runtime.library,
        options.workspace_mb,
        progress,
        options.cancelled,
        options.alive,
    )


def _key(
    model: ModelFile,
    graph: onnx.ModelProto,
    size: tuple[int, int],
    outputs: Sequence[str],
    options: GpuOptions,
    runtime: Runtime,
) -> PlanKey:
    return PlanKey(
        model=model.sha256,
        graph_sha256=hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest(),
        library=build.library_name(runtime.library),
        device=runtime.device.name,
        compute_capability=runtime.device.compute_capability,
        size=size,
        batch=options.batch,
        outputs=tuple(outputs),
        precision=options.precision,
        settings=build.settings(options.workspace_mb),
    )
