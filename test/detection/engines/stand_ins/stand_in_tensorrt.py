"""Stands in for TensorRT: the same calls, but ONNX Runtime computes. Importable in a child process.

A plan is a header of 32 bytes with the version where TensorRT has its own (bytes 24 to 27), then
the ONNX. Work enters the stream of the stand-in for CUDA and happens when that one is waited for.
"""

from __future__ import annotations

import enum
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get('STAND_IN_VERSION', '10.3.0.30')
MAGIC = b'ptrt' + bytes(20)
GPU: Any = None  # the stand-in for CUDA of the test
LIVE: list[str] = []  # objects that exist, in the order in which they were made


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class Logger:
    WARNING = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


class IProgressMonitor:
    pass


class Network:
    def __init__(self, flags: int) -> None:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.graph = b''


class OnnxParser:
    def __init__(self, network: Network, logger: Logger) -> None:
        self.network = network
        self.errors: list[str] = []

    def parse(self, graph: bytes) -> bool:
        try:
            onnx.checker.check_model(onnx.load_from_string(graph))
        except Exception as error:
            self.errors = [' '.join(str(error).split())[:80] or 'broken', 'second error']
            return False
        self.network.graph = graph
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> str:
        return self.errors[index]


class BuilderFlag(enum.Enum):
    TF32 = 0


class Config:
    progress_monitor: Any = None

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}  # as TensorRT does

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = size


class Builder:
    def __init__(self, logger: Logger) -> None:
        assert isinstance(logger, Logger)

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        if os.environ.get('STAND_IN_CRASH'):
            os.abort()
        assert not config.flags, 'fp32 is to be fp32'
        if config.workspace < 1 << 20:
            return None
        steps = int(os.environ.get('STAND_IN_STEPS', '4'))
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start('tactics', None, steps)
            for step in range(steps):
                time.sleep(float(os.environ.get('STAND_IN_STEP_S', '0')))
                config.progress_monitor.step_complete('tactics', step)
            config.progress_monitor.phase_finish('tactics')
        if log := os.environ.get('STAND_IN_LOG'):
            with Path(log).open('a') as file:
                file.write('built\n')
        return header() + network.graph


def header() -> bytes:
    return MAGIC + bytes(int(part) for part in __version__.split('.')) + bytes(4)


class Counted:
    """Something that TensorRT's reference counting would complain about."""

    def __init__(self) -> None:
        LIVE.append(type(self).__name__)

    def __del__(self) -> None:
        if type(self).__name__ in LIVE:
            LIVE.remove(type(self).__name__)


class Runtime(Counted):
    def __init__(self, logger: Logger) -> None:
        if GPU.no_runtime:
            raise TypeError('pybind11::init(): factory function returned nullptr')
        super().__init__()
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if plan[:32] != header() or GPU.no_engine:
            return None
        return Engine(self, plan[32:])


class Engine(Counted):
    def __init__(self, runtime: Runtime, graph: bytes) -> None:
        super().__init__()
        self.runtime = runtime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options)

    def create_execution_context(self) -> Context | None:
        return None if GPU.no_context else Context(self)


class Context(Counted):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        session = engine.session
        self.values = {value.name: value for value in session.get_inputs() + session.get_outputs()}
        self.addresses: dict[str, int] = {}
        self.runs = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0, f'{name} at {address:#x} is not aligned'
        self.addresses[name] = address
        return name in self.values

    def execute_async_v3(self, stream: int) -> bool:
        assert set(self.addresses) == set(self.values), 'every tensor has an address'
        addresses = dict(self.addresses)
        GPU.enqueue(stream, lambda: self.compute(addresses))
        return not GPU.refuse_work

    def compute(self, addresses: dict[str, int]) -> None:
        (given,) = self.engine.session.get_inputs()
        results = self.engine.session.run(None, {given.name: GPU.array(addresses, given)})
        self.runs += 1
        for value, result in zip(self.engine.session.get_outputs(), results, strict=True):
            target = GPU.array(addresses, value)
            assert target.dtype == result.dtype and target.shape == result.shape
            np.copyto(target, result)
