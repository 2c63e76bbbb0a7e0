"""Calls of the CUDA runtime: what they are given, what their errors say, what stays held."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection.engines.cuda import Cuda, CudaError, Device, find_device


@pytest.fixture
def cuda(cudart: Any) -> Cuda:
    return Cuda(cudart)


def test_bytes_go_to_the_device_and_back(cuda: Cuda) -> None:
    size = 1000
    first, second = (cuda.host_memory(size, mapped=False) for _ in range(2))
    first.array[:] = np.arange(size) % 251
    device, stream = cuda.device_memory(size), cuda.stream()
    cuda.to_device(device, first.address, size, stream)
    cuda.to_host(second.address, device, size, stream)
    assert not np.array_equal(first.array, second.array), 'not before it is waited for'
    cuda.wait_for_stream(stream)
    assert np.array_equal(first.array, second.array)
    assert second.device_address == 0
    cuda.destroy_stream(stream)
    cuda.free_device(device)
    cuda.free_host(first)
    cuda.free_host(second)
    assert not any(cuda.held.values())


def test_mapped_memory_has_an_address_on_the_device(cuda: Cuda) -> None:
    buffer = cuda.host_memory(64, mapped=True)
    assert buffer.device_address and buffer.array.shape == (64,)


def test_a_captured_graph_does_its_work_at_each_launch(cuda: Cuda) -> None:
    source, target = (cuda.host_memory(4, mapped=False) for _ in range(2))
    device, stream = cuda.device_memory(4), cuda.stream()

    def work() -> None:
        cuda.to_device(device, source.address, 4, stream)
        cuda.to_host(target.address, device, 4, stream)

    graph = cuda.captured(stream, work)
    for value in (3, 7):
        source.array[:] = value
        assert not (target.array == value).any(), 'capturing does nothing'
        cuda.launch(graph, stream)
        cuda.wait_for_stream(stream)
        assert (target.array == value).all()
    cuda.destroy_graph(graph)
    assert not cuda.held['graph']


def test_what_fails_while_it_is_captured_ends_the_capture(cuda: Cuda, cudart: Any) -> None:
    stream = cuda.stream()

    def work() -> None:
        raise RuntimeError('broken')

    with pytest.raises(RuntimeError, match='broken'):
        cuda.captured(stream, work)
    assert not cudart.capturing
    cuda.wait_for_stream(stream)


def test_events_tell_the_time_between_them(cuda: Cuda) -> None:
    stream, first, second = cuda.stream(), cuda.event(), cuda.event()
    cuda.record(first, stream)
    cuda.record(second, stream)
    cuda.wait_for_event(second)
    assert cuda.milliseconds(first, second) == pytest.approx(1.5)
    cuda.destroy_event(first)
    cuda.destroy_event(second)
    assert not cuda.held['event']


def test_errors_name_the_call_and_its_cause(cuda: Cuda, cudart: Any) -> None:
    cudart.fail['cudaMalloc'] = 2
    with pytest.raises(CudaError, match=r'cudaMalloc failed: out of memory \(CUDA error 2\)'):
        cuda.device_memory(10)
    assert not cuda.held['device memory']


def test_nothing_is_released_twice(cuda: Cuda, cudart: Any) -> None:
    stream = cuda.stream()
    cuda.destroy_stream(stream)
    calls = len(cudart.calls)
    with pytest.raises(CudaError, match='released already'):
        cuda.destroy_stream(stream)
    assert len(cudart.calls) == calls, 'CUDA was not asked'


def test_a_device_is_found_before_the_runtime_is_touched(driver: Any) -> None:
    assert find_device(driver()) == Device('Stand-in Orin', (8, 7), integrated=False)
    assert find_device(driver(integrated=True)).integrated
    with pytest.raises(CudaError, match='sees no GPU'):
        find_device(driver(count=0))
    with pytest.raises(CudaError, match='cuInit returned 999'):
        find_device(driver(code=999))


def test_without_a_driver_it_is_said() -> None:
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        with pytest.raises(CudaError, match='no NVIDIA driver is installed'):
            find_device()
    else:
        pytest.skip('an NVIDIA driver is installed here')
