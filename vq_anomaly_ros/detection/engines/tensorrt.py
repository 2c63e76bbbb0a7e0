"""A model file on TensorRT: frames of a camera's size in page-locked memory, maps back.

One static plan a frame size and batch, built at the first frame of that size and kept on disk
(plan_cache.py). On a discrete GPU a batch goes through two lanes, each a context with a stream and
device memory of its own, so that one lane copies while the other computes; after two plain runs the
work of a lane is a CUDA graph that one call launches. On a Jetson the GPU works on the host's
memory, and nothing is copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from vq_anomaly_ros.detection.engines import EngineError, build, gpu_graph
from vq_anomaly_ros.detection.engines.cuda import Cuda, CudaError, Device, HostBuffer, find_device
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.engines.plan_cache import PlanCache, PlanError, PlanKey
from vq_anomaly_ros.detection.engines.tensorrt_api import TensorRt
from vq_anomaly_ros.detection.model_file import ModelFile

if TYPE_CHECKING:
    import tensorrt as trt

_ALIGNED = 256  # bytes; what cudaMalloc gives and TensorRT asks for
_REPORT_EVERY_S = 3.0
_WARM_UP = 2  # plain runs before a graph is captured: the first ones allocate


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
        self._sizes: dict[tuple[int, int], _Frames] = {}
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

    def close(self) -> None:
        """See Engine.close."""
        for frames in self._sizes.values():
            frames.close()
        self._sizes.clear()
        self._loader = None

    def _frames(self, size: tuple[int, int] | None) -> _Frames:
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
            self._sizes[size] = _Frames(self._runtime, engine, size, wanted, self._options)
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
        now = time.monotonic()
        if now - said[0] >= _REPORT_EVERY_S:  # phases nest, and there are thousands of steps
            said[0] = now
            options.report(f'building the plan: {phase} {100 * done:.0f} %')

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


@dataclass
class _Lane:
    """One context with its stream and device memory; chunks of a batch take turns on the lanes."""

    context: trt.IExecutionContext
    stream: int
    addresses: dict[str, int]  # on the device, of the input and the outputs; empty on a Jetson
    graphs: dict[int, int] = field(default_factory=dict)  # by the first frame of the chunk
    runs: dict[int, int] = field(default_factory=dict)


class _Frames:
    """Memory and work for frames of one size."""

    def __init__(
        self,
        runtime: Runtime,
        engine: trt.ICudaEngine,
        size: tuple[int, int],
        outputs: dict[str, tuple[str, Any]],
        options: GpuOptions,
    ) -> None:
        self._runtime, self._engine, self._options = runtime, engine, options
        self.size, self._outputs = size, outputs
        self._use_graphs = options.use_graphs
        self._capacity = 0
        self._host: dict[str, HostBuffer] = {}
        self._lanes: list[_Lane] = []
        self._frame_bytes = {'frames': size[0] * size[1] * 3} | {
            name: math.prod(shape) * np.dtype(dtype).itemsize
            for name, (dtype, shape) in outputs.items()
        }

    def input_buffer(self, batch: int) -> np.ndarray:
        """uint8 [batch, H, W, 3]."""
        self._reserve(batch)
        return self._array('frames', batch, 'uint8', (*self.size, 3))

    def infer(self, batch: int) -> dict[str, np.ndarray]:
        """Put the chunks into the streams of the lanes in turn, then wait for all."""
        self._reserve(batch)
        lanes = itertools.cycle(self._lanes)
        chunks = [(next(lanes), first) for first in range(0, batch, self._options.batch)]
        for lane, first in chunks:
            self._capture_when_warm(lane, first)
        try:
            for lane, first in chunks:
                if first in lane.graphs:
                    self._runtime.cuda.launch(lane.graphs[first], lane.stream)
                else:
                    self._run(lane, first)
                    lane.runs[first] = lane.runs.get(first, 0) + 1
        except BaseException:
            self._settle()  # what the other lane does must not outlive its memory
            raise
        for lane in self._lanes:
            self._runtime.cuda.wait_for_stream(lane.stream)
        return {
            name: self._array(name, batch, dtype, shape)
            for name, (dtype, shape) in self._outputs.items()
        }

    def close(self) -> None:
        """Release everything; the engine last, which its contexts need."""
        self._release()
        del self._engine

    def _settle(self) -> None:
        """Wait for all lanes, whatever they say."""
        for lane in self._lanes:
            with contextlib.suppress(CudaError):
                self._runtime.cuda.wait_for_stream(lane.stream)

    def _release(self) -> None:
        """Release memory, lanes and graphs, the contexts before what they use.

        As far as the GPU lets us: after some errors it refuses every call of the process.
        """
        self._settle()
        cuda = self._runtime.cuda
        steps: list[Callable[[], None]] = []
        for lane in self._lanes:
            steps += [partial(cuda.destroy_graph, graph) for graph in lane.graphs.values()]
            steps.append(partial(delattr, lane, 'context'))
            steps.append(partial(cuda.destroy_stream, lane.stream))
            steps += [partial(cuda.free_device, address) for address in lane.addresses.values()]
        steps += [partial(cuda.free_host, buffer) for buffer in self._host.values()]
        self._lanes, self._host, self._capacity = [], {}, 0
        for step in steps:
            with contextlib.suppress(CudaError):
                step()

    def _array(self, name: str, batch: int, dtype: str, shape: Any) -> np.ndarray:
        taken = self._host[name].array[: batch * self._frame_bytes[name]]
        return taken.view(dtype).reshape(batch, *shape)

    def _reserve(self, batch: int) -> None:
        """Host memory for whole chunks and a lane for each, two at most.

        What was there before goes first; arrays of it must not be used any more.
        """
        step = self._options.batch
        frames = math.ceil(batch / step) * step
        if frames <= self._capacity:
            return
        self._release()
        # The GPU works on the host's memory where it is one, if every chunk begins aligned.
        aligned = all(step * size % _ALIGNED == 0 for size in self._frame_bytes.values())
        mapped = self._runtime.device.integrated and (aligned or frames == step)
        try:
            for name, size in self._frame_bytes.items():
                self._host[name] = self._runtime.cuda.host_memory(frames * size, mapped)
            for _ in range(1 if mapped else min(2, frames // step)):
                self._add_lane(mapped)
        except BaseException:
            self._release()
            raise
        self._capacity = frames

    def _add_lane(self, mapped: bool) -> None:
        cuda, step = self._runtime.cuda, self._options.batch
        context = self._engine.create_execution_context()
        if context is None:
            raise CudaError('TensorRT could not make an execution context: not enough GPU memory')
        lane = _Lane(context, cuda.stream(), {})
        self._lanes.append(lane)  # before its memory, so that what fails half-way is released
        for name, size in () if mapped else self._frame_bytes.items():
            lane.addresses[name] = cuda.device_memory(_aligned(step * size))

    def _capture_when_warm(self, lane: _Lane, first: int) -> None:
        """Make the chunk that begins with frame `first` a graph, while its stream is idle."""
        if first in lane.graphs or lane.runs.get(first, 0) < _WARM_UP or not self._use_graphs:
            return
        try:
            graph = self._runtime.cuda.captured(lane.stream, lambda: self._run(lane, first))
            lane.graphs[first] = graph
        except (CudaError, EngineError) as error:
            self._use_graphs = False
            self._options.report(f'CUDA graphs are not used: {error}')

    def _run(self, lane: _Lane, first: int) -> None:
        cuda, step = self._runtime.cuda, self._options.batch
        for name, size in self._frame_bytes.items():
            address = lane.addresses.get(name) or (self._host[name].device_address + first * size)
            if not lane.context.set_tensor_address(name, address):
                raise EngineError(
                    f'TensorRT refuses the address of {name}: the plan has no such tensor'
                )
        if lane.addresses:
            size = self._frame_bytes['frames']
            source = self._host['frames'].address + first * size
            cuda.to_device(lane.addresses['frames'], source, step * size, lane.stream)
        if not lane.context.execute_async_v3(lane.stream):
            raise EngineError('TensorRT could not enqueue the work of a frame')
        for name in self._outputs if lane.addresses else ():
            size = self._frame_bytes[name]
            target = self._host[name].address + first * size
            cuda.to_host(target, lane.addresses[name], step * size, lane.stream)


def _aligned(size: int) -> int:
    return math.ceil(size / _ALIGNED) * _ALIGNED
