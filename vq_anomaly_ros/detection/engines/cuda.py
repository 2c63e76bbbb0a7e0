"""The few calls of the CUDA runtime that an engine needs, by ctypes on libcudart.

No package for it: libcudart comes with every TensorRT, its C interface is the same in CUDA 12 and
13, and twenty functions are all of it. Every return code is checked and named.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_RUNTIMES = ('libcudart.so.13', 'libcudart.so.12', 'libcudart.so')
_MAPPED, _PORTABLE = 0x02, 0x01  # cudaHostAllocMapped, cudaHostAllocPortable
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking: no implicit waiting for the default stream
_RELAXED_CAPTURE = 2  # cudaStreamCaptureModeRelaxed: other threads may allocate meanwhile
_NAME, _MAJOR, _MINOR, _INTEGRATED = 256, 75, 76, 18  # cuDeviceGetName, CUdevice_attribute


class CudaError(RuntimeError):
    """A call of CUDA that failed; names the call and what CUDA says of it."""


@dataclass(frozen=True)
class Device:
    """A GPU: its name, compute capability and whether it shares the memory of the CPU (Jetson)."""

    name: str
    compute_capability: tuple[int, int]
    integrated: bool


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked host memory: its address, the GPU's address of it (0: none) and an array."""

    address: int
    device_address: int
    array: np.ndarray  # uint8 [bytes]


def find_device(driver: Any = None) -> Device:
    """The first GPU, without touching the CUDA runtime: a TensorRT runtime made without a driver
    crashes the process when it is used.

    Raises CudaError where there is no driver or no GPU.
    """
    if driver is None:
        try:
            driver = ctypes.CDLL('libcuda.so.1')
        except OSError as error:
            raise CudaError('no NVIDIA driver is installed (libcuda.so.1 not found)') from error
    count, handle = ctypes.c_int(), ctypes.c_int()
    _driver_call(driver, 'cuInit', 0)
    _driver_call(driver, 'cuDeviceGetCount', ctypes.byref(count))
    if count.value == 0:
        raise CudaError('the NVIDIA driver sees no GPU')
    _driver_call(driver, 'cuDeviceGet', ctypes.byref(handle), 0)
    name = ctypes.create_string_buffer(_NAME)
    _driver_call(driver, 'cuDeviceGetName', name, _NAME, handle)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _driver_call(driver, 'cuDeviceGetAttribute', ctypes.byref(value), number, handle)
        return value.value

    capability = (attribute(_MAJOR), attribute(_MINOR))
    return Device(name.value.decode(errors='replace'), capability, bool(attribute(_INTEGRATED)))


def _driver_call(driver: Any, name: str, *arguments: Any) -> None:
    code = getattr(driver, name)(*arguments)
    if code:
        raise CudaError(f'the NVIDIA driver does not work: {name} returned {code}')


def load_runtime() -> Any:
    """libcudart: of the system, else of NVIDIA's wheels. Raises CudaError, naming the places."""
    wheels = Path(sysconfig.get_path('purelib')) / 'nvidia'
    found = sorted((str(path) for path in wheels.glob('*/lib/libcudart.so.*')), reverse=True)
    for name in (*_RUNTIMES, *found):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        if library.cudaFree(None) == 0:  # else it is newer than the driver: the next may not be
            return library
    raise CudaError(
        f'the CUDA runtime is not installed (looked for {", ".join(_RUNTIMES)} and in {wheels}); '
        'or what there is is newer than the driver; install cuda-cudart of your CUDA version, or '
        '`pip install nvidia-cuda-runtime-cu12`'
    )


class Cuda:
    """Memory, streams, events and graphs of the current device.

    Addresses and handles are plain integers. What was made here and not released yet is counted in
    `held`, by kind.
    """

    def __init__(self, library: Any = None) -> None:
        """`library`: libcudart, or what answers as it."""
        self._library = load_runtime() if library is None else library
        self.held: dict[str, set[int]] = {
            kind: set() for kind in ('device memory', 'host memory', 'stream', 'event', 'graph')
        }

    def device_memory(self, size: int) -> int:
        """Address of `size` bytes on the GPU, aligned to 256."""
        return self._made('device memory', 'cudaMalloc', ctypes.c_size_t(size))

    def free_device(self, address: int) -> None:
        """Release `device_memory`."""
        self._release('device memory', address, 'cudaFree')

    def host_memory(self, size: int, mapped: bool) -> HostBuffer:
        """Page-locked memory of `size` bytes; `mapped`: visible to the GPU at `device_address`."""
        flags = _PORTABLE | (_MAPPED if mapped else 0)
        address = self._made('host memory', 'cudaHostAlloc', ctypes.c_size_t(size), flags)
        seen = ctypes.c_void_p()
        if mapped:
            try:
                self._call(
                    'cudaHostGetDevicePointer', ctypes.byref(seen), ctypes.c_void_p(address), 0
                )
            except CudaError:
                self._release('host memory', address, 'cudaFreeHost')
                raise
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return HostBuffer(address, seen.value or 0, array)

    def free_host(self, buffer: HostBuffer) -> None:
        """Release `host_memory`; its array must not be used any more."""
        self._release('host memory', buffer.address, 'cudaFreeHost')

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy `size` bytes in the order of the stream; the host memory must be page-locked."""
        self._copy(device, host, size, _TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy `size` bytes back, as `to_device`."""
        self._copy(host, device, size, _TO_HOST, stream)

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from device memory to device memory, as `to_device`."""
        self._copy(target, source, size, _ON_DEVICE, stream)

    def stream(self) -> int:
        """A new stream that waits for no other."""
        return self._made('stream', 'cudaStreamCreateWithFlags', _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Release a stream."""
        self._release('stream', stream, 'cudaStreamDestroy')

    def wait_for_stream(self, stream: int) -> None:
        """Block until all of the stream's work is done; its errors come out here."""
        self._call('cudaStreamSynchronize', ctypes.c_void_p(stream))

    def event(self) -> int:
        """A new event that keeps the time."""
        return self._made('event', 'cudaEventCreate')

    def record(self, event: int, stream: int) -> None:
        """Let the event happen when the stream gets here."""
        self._call('cudaEventRecord', ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def wait_for_event(self, event: int) -> None:
        """Block until the event has happened."""
        self._call('cudaEventSynchronize', ctypes.c_void_p(event))

    def milliseconds(self, first: int, second: int) -> float:
        """Time on the GPU between two events that have happened."""
        value = ctypes.c_float()
        self._call(
            'cudaEventElapsedTime',
            ctypes.byref(value),
            ctypes.c_void_p(first),
            ctypes.c_void_p(second),
        )
        return value.value

    def destroy_event(self, event: int) -> None:
        """Release an event."""
        self._release('event', event, 'cudaEventDestroy')

    def captured(self, stream: int, work: Callable[[], None]) -> int:
        """The work that `work` puts into the stream, as a graph that one call launches.

        Nothing of it is executed. An error in `work` ends the capture before it is passed on.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        handle = ctypes.c_void_p(stream)
        self._call('cudaStreamBeginCapture', handle, _RELAXED_CAPTURE)
        try:
            work()
        except BaseException:
            self._library.cudaStreamEndCapture(handle, ctypes.byref(graph))
            if graph.value:
                self._library.cudaGraphDestroy(graph)
            raise
        self._call('cudaStreamEndCapture', handle, ctypes.byref(graph))
        try:
            self._call(
                'cudaGraphInstantiateWithFlags', ctypes.byref(executable), graph, ctypes.c_ulong(0)
            )
        finally:
            self._call('cudaGraphDestroy', graph)
        self.held['graph'].add(int(executable.value or 0))
        return int(executable.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        """Put a captured graph into the stream."""
        self._call('cudaGraphLaunch', ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Release a captured graph."""
        self._release('graph', graph, 'cudaGraphExecDestroy')

    @contextmanager
    def temporary_events(self, count: int) -> Iterator[list[int]]:
        """So many events for the length of a with block."""
        with ExitStack() as held:
            events = []
            for _ in range(count):
                events.append(self.event())
                held.callback(self.destroy_event, events[-1])
            yield events

    @contextmanager
    def temporary_stream(self) -> Iterator[int]:
        """A stream for the length of a with block."""
        stream = self.stream()
        try:
            yield stream
        finally:
            self.destroy_stream(stream)

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            'cudaMemcpyAsync',
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            kind,
            ctypes.c_void_p(stream),
        )

    def _made(self, kind: str, name: str, *arguments: Any) -> int:
        handle = ctypes.c_void_p()
        self._call(name, ctypes.byref(handle), *arguments)
        value = int(handle.value or 0)
        self.held[kind].add(value)
        return value

    def _release(self, kind: str, handle: int, name: str) -> None:
        if handle not in self.held[kind]:
            raise CudaError(
                f'{name}: {handle:#x} is no {kind} of this process, or released already'
            )
        self.held[kind].remove(handle)
        self._call(name, ctypes.c_void_p(handle))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if not code:
            return
        text = self._library.cudaGetErrorString(code)
        said = text.decode(errors='replace') if isinstance(text, bytes) else 'unknown error'
        raise CudaError(f'{name} failed: {said} (CUDA error {code})')
