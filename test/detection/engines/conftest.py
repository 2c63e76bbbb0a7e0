"""How the engine on stand-ins is asked to work."""

from __future__ import annotations

from pathlib import Path

import pytest

from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions


@pytest.fixture
def options(tmp_path: Path) -> GpuOptions:
    return GpuOptions(precision='fp32', folder=tmp_path / 'plans')
