"""TensorRT and CUDA that are not there: stand-ins that check how they are used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vq_anomaly_ros.detection.engines.cuda import Cuda, find_device
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.engines.tensorrt import Runtime

STAND_INS = Path(__file__).parent / 'stand_ins'


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in for TensorRT, importable by name in this process and its children."""
    pytest.importorskip('onnxruntime')
    monkeypatch.syspath_prepend(str(STAND_INS))
    module = importlib.import_module('stand_in_tensorrt')
    module.LIVE.clear()
    yield module
    sys.modules.pop('stand_in_tensorrt', None)


@pytest.fixture
def cudart(library: Any) -> Any:
    """The stand-in for libcudart."""
    library.GPU = importlib.import_module('stand_in_cuda').Cudart()
    return library.GPU


@pytest.fixture
def driver(library: Any) -> Any:
    """The class that stands in for libcuda."""
    return importlib.import_module('stand_in_cuda').Driver


@pytest.fixture
def runtime(library: Any, cudart: Any, driver: Any) -> Runtime:
    return Runtime(library, Cuda(cudart), find_device(driver()))


@pytest.fixture
def options(tmp_path: Path) -> GpuOptions:
    return GpuOptions(precision='fp32', folder=tmp_path / 'plans')
