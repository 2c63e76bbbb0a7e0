"""Frames through a GPU: page-locked memory, one or two lanes, work captured as CUDA graphs.

On a discrete GPU a batch goes through two lanes, each a context with a stream and device memory of
its own, so that one lane copies while the other computes; after two plain runs the work of a lane
is a CUDA graph that one call launches. On a Jetson the GPU works on the host's memory, and nothing
is copied.

What does the work is a plan: something that makes contexts which are told the address of each of
their tensors and put their work into a stream, as TensorRT's engines do.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.cuda import Cuda, CudaError, Device, HostBuffer
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions

_ALIGNED = 256  # bytes; what cudaMalloc gives and TensorRT asks for
_WARM_UP = 2  # plain runs before a graph is captured: the first ones allocate


class Context(Protocol):
    """What computes one chunk of frames, with memory of its own for what lies between."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Where a tensor lies from now on; False where there is none of that name."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put the work into a stream; False where that fails."""


class Plan(Protocol):
    """What makes contexts; TensorRT's engine is one."""

    def create_execution_context(self) -> Context | None:
        """A new context; None where memory is lacking."""


@dataclass
class _Lane:
    """One context with its stream and device memory; chunks of a batch take turns on the lanes."""

    context: Context
    stream: int
    addresses: dict[str, int]  # on the device, of the input and the outputs; empty on a Jetson
    graphs: dict[int, int] = field(default_factory=dict)  # by the first frame of the chunk
    runs: dict[int, int] = field(default_factory=dict)


class Lanes:
    """Memory and work for frames of one size."""

    def __init__(
        self,
        cuda: Cuda,
        device: Device,
        plan: Plan,
        size: tuple[int, int],
        outputs: dict[str, tuple[str, Any]],
        options: GpuOptions,
    ) -> None:
        """size: (H, W) of the frames; outputs: see gpu_graph.output_layouts, those of the plan."""
        self._cuda, self._device, self._plan, self._options = cuda, device, plan, options
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
                    self._cuda.launch(lane.graphs[first], lane.stream)
                else:
                    self._run(lane, first)
                    lane.runs[first] = lane.runs.get(first, 0) + 1
        except BaseException:
            self._settle()  # what the other lane does must not outlive its memory
            raise
        for lane in self._lanes:
            self._cuda.wait_for_stream(lane.stream)
        return {
            name: self._array(name, batch, dtype, shape)
            for name, (dtype, shape) in self._outputs.items()
        }

    def stage_times(self) -> tuple[float, float, float]:
        """Time on the GPU of one chunk alone: copying in, work, copying back; milliseconds.

        By events between plain launches, after warming up.
        """
        self._reserve(self._options.batch)
        lane, cuda = self._lanes[0], self._cuda
        for _ in range(_WARM_UP):
            self._run(lane, 0)
        cuda.wait_for_stream(lane.stream)
        with cuda.temporary_events(4) as events:
            cuda.record(events[0], lane.stream)
            for stage, event in zip(self._stages(lane, 0), events[1:], strict=True):
                stage()
                cuda.record(event, lane.stream)
            cuda.wait_for_stream(lane.stream)
            inward, work, back = (cuda.milliseconds(*pair) for pair in pairwise(events))
        return inward, work, back

    def close(self) -> None:
        """Release everything; the plan last, which its contexts need."""
        self._release()
        del self._plan

    def _settle(self) -> None:
        """Wait for all lanes, whatever they say."""
        for lane in self._lanes:
            with contextlib.suppress(CudaError):
                self._cuda.wait_for_stream(lane.stream)

    def _release(self) -> None:
        """Release memory, lanes and graphs, the contexts before what they use.

        As far as the GPU lets us: after some errors it refuses every call of the process.
        """
        self._settle()
        cuda = self._cuda
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
        mapped = self._device.integrated and (aligned or frames == step)
        try:
            for name, size in self._frame_bytes.items():
                self._host[name] = self._cuda.host_memory(frames * size, mapped)
            for _ in range(1 if mapped else min(2, frames // step)):
                self._add_lane(mapped)
        except BaseException:
            self._release()
            raise
        self._capacity = frames

    def _add_lane(self, mapped: bool) -> None:
        cuda, step = self._cuda, self._options.batch
        context = self._plan.create_execution_context()
        if context is None:
            raise CudaError('no execution context: not enough GPU memory')
        lane = _Lane(context, cuda.stream(), {})
        self._lanes.append(lane)  # before its memory, so that what fails half-way is released
        for name, size in () if mapped else self._frame_bytes.items():
            lane.addresses[name] = cuda.device_memory(_aligned(step * size))

    def _capture_when_warm(self, lane: _Lane, first: int) -> None:
        """Make the chunk that begins with frame `first` a graph, while its stream is idle."""
        if first in lane.graphs or lane.runs.get(first, 0) < _WARM_UP or not self._use_graphs:
            return
        try:
            graph = self._cuda.captured(lane.stream, lambda: self._run(lane, first))
            lane.graphs[first] = graph
        except (CudaError, EngineError) as error:
            self._use_graphs = False
            self._options.report(f'CUDA graphs are not used: {error}')

    def _run(self, lane: _Lane, first: int) -> None:
        for stage in self._stages(lane, first):
            stage()

    def _stages(self, lane: _Lane, first: int) -> tuple[Callable[[], None], ...]:
        """What puts a chunk into the lane's stream: frames to the device, work, results back."""
        return (
            partial(self._to_device, lane, first),
            partial(self._work, lane, first),
            partial(self._to_host, lane, first),
        )

    def _to_device(self, lane: _Lane, first: int) -> None:
        if lane.addresses:
            size = self._frame_bytes['frames']
            source = self._host['frames'].address + first * size
            moved = self._options.batch * size
            self._cuda.to_device(lane.addresses['frames'], source, moved, lane.stream)

    def _work(self, lane: _Lane, first: int) -> None:
        for name, size in self._frame_bytes.items():
            address = lane.addresses.get(name) or (self._host[name].device_address + first * size)
            if not lane.context.set_tensor_address(name, address):
                raise EngineError(f'the address of {name} is refused: the plan has no such tensor')
        if not lane.context.execute_async_v3(lane.stream):
            raise EngineError('the GPU could not enqueue the work of a frame')

    def _to_host(self, lane: _Lane, first: int) -> None:
        for name in self._outputs if lane.addresses else ():
            size = self._frame_bytes[name]
            target = self._host[name].address + first * size
            moved = self._options.batch * size
            self._cuda.to_host(target, lane.addresses[name], moved, lane.stream)


def _aligned(size: int) -> int:
    return math.ceil(size / _ALIGNED) * _ALIGNED
