"""Stands in for the driver and for libcudart, at the level of their C calls.

Device memory is memory of the process; what is put into a stream happens when that is waited for,
so that a result that was not waited for is not there.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

TYPES = {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32, 'tensor(int32)': np.int32}
ERRORS = {2: b'out of memory', 700: b'an illegal memory access was encountered', 901: b'not now'}


class Driver:
    """libcuda with one GPU, or as the arguments say."""

    def __init__(self, count: int = 1, code: int = 0, integrated: bool = False) -> None:
        self.count, self.code = count, code
        self.attributes = {75: 8, 76: 7, 18: int(integrated)}

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, handle: Any, number: int) -> int:
        handle._obj.value = number
        return 0

    def cuDeviceGetName(self, text: Any, size: int, handle: Any) -> int:
        text.value = b'Stand-in Orin'
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, handle: Any) -> int:
        value._obj.value = self.attributes[number]
        return 0


class Memory:
    """One allocation, aligned to 256."""

    def __init__(self, size: int) -> None:
        self.raw = (ctypes.c_uint8 * (size + 256))()
        self.address = (ctypes.addressof(self.raw) + 255) // 256 * 256
        self.size = size


class Cudart:
    """libcudart: what is done wrong is an AssertionError in the test."""

    def __init__(self) -> None:
        self.memory: dict[int, Memory] = {}
        self.mapped: set[int] = set()
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, float] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.handles = itertools.count(0x1000, 0x10)
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}  # name of a call -> the error that it returns
        self.budget: int | None = None  # bytes of device memory that are left
        self.no_context = self.refuse_work = self.no_runtime = self.no_engine = False
        self.broken = 0  # an error that stays with the process: every call returns it
        self.clock = 0.0

    # What the stand-in for TensorRT uses --------------------------------------------------

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        assert stream in self.streams, 'the stream was destroyed'
        self.capturing.get(stream, self.streams[stream]).append(work)

    def array(self, addresses: dict[str, int], value: Any) -> np.ndarray:
        dtype = np.dtype(TYPES[value.type])
        size = int(np.prod(value.shape)) * dtype.itemsize
        self.check(addresses[value.name], size)
        raw = (ctypes.c_uint8 * size).from_address(addresses[value.name])
        return np.ctypeslib.as_array(raw).view(dtype).reshape(value.shape)

    def check(self, address: int, size: int) -> None:
        """That so many bytes at an address belong to one living allocation."""
        assert any(
            one.address <= address and address + size <= one.address + one.size
            for one in self.memory.values()
        ), f'{size} bytes at {address:#x} are not allocated'

    # The C calls ---------------------------------------------------------------------------

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith('cuda') or name == 'cudaGetErrorString':
            return found

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if self.broken:
                return self.broken
            return self.fail.get(name) or found(*arguments) or 0

        return call

    def cudaGetErrorString(self, code: int) -> bytes:
        return ERRORS[code]

    def cudaMalloc(self, pointer: Any, size: Any) -> int:
        if self.budget is not None and size.value > self.budget:
            return 2
        one = Memory(size.value)
        self.memory[one.address] = one
        pointer._obj.value = one.address
        return 0

    def cudaFree(self, pointer: Any) -> None:
        assert not any(self.streams.values()), 'freed while work is in a stream'
        del self.memory[pointer.value]

    def cudaHostAlloc(self, pointer: Any, size: Any, flags: int) -> None:
        one = Memory(size.value)
        self.memory[one.address] = one
        if flags & 2:
            self.mapped.add(one.address)
        pointer._obj.value = one.address

    def cudaHostGetDevicePointer(self, pointer: Any, host: Any, flags: int) -> None:
        assert host.value in self.mapped
        pointer._obj.value = host.value

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, kind: int, stream: Any) -> None:
        def copy() -> None:
            self.check(target.value, size.value)
            self.check(source.value, size.value)
            ctypes.memmove(target.value, source.value, size.value)

        assert kind in (1, 2, 3)
        self.enqueue(stream.value, copy)

    def cudaStreamCreateWithFlags(self, pointer: Any, flags: int) -> None:
        assert flags == 1
        pointer._obj.value = next(self.handles)
        self.streams[pointer._obj.value] = []

    def cudaStreamDestroy(self, stream: Any) -> None:
        assert not self.streams.pop(stream.value), 'destroyed with work in it'

    def cudaStreamSynchronize(self, stream: Any) -> None:
        assert stream.value not in self.capturing
        work, self.streams[stream.value] = self.streams[stream.value], []
        for one in work:
            one()

    def cudaEventCreate(self, pointer: Any) -> None:
        pointer._obj.value = next(self.handles)
        self.events[pointer._obj.value] = -1.0

    def cudaEventRecord(self, event: Any, stream: Any) -> None:
        def happen() -> None:
            self.clock += 1.5
            self.events[event.value] = self.clock

        self.enqueue(stream.value, happen)

    def cudaEventSynchronize(self, event: Any) -> None:
        for stream in list(self.streams):
            self.cudaStreamSynchronize(ctypes.c_void_p(stream))

    def cudaEventElapsedTime(self, value: Any, first: Any, second: Any) -> None:
        value._obj.value = self.events[second.value] - self.events[first.value]

    def cudaEventDestroy(self, event: Any) -> None:
        del self.events[event.value]

    def cudaStreamBeginCapture(self, stream: Any, mode: int) -> None:
        assert mode == 2 and not self.streams[stream.value], 'captured while it works'
        self.capturing[stream.value] = []

    def cudaStreamEndCapture(self, stream: Any, graph: Any) -> None:
        graph._obj.value = next(self.handles)
        self.graphs[graph._obj.value] = self.capturing.pop(stream.value)

    def cudaGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> None:
        executable._obj.value = next(self.handles)
        self.graphs[executable._obj.value] = self.graphs[graph.value]

    def cudaGraphDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> None:
        self.streams[stream.value] += self.graphs[graph.value]
