"""detector.launch.py under a real `ros2 launch`; runs where the package is built and sourced."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE = 120.0


def test_ros2_launch_starts_the_node_and_ends_it(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip('launch_testing', reason='ROS is not sourced: no launch, no ros2')
    packages = pytest.importorskip('ament_index_python.packages')
    try:
        packages.get_package_prefix('vq_anomaly_ros')
    except packages.PackageNotFoundError:
        pytest.skip('the package is not built and sourced: colcon build, then source install/')
    log = tmp_path / 'launch.log'
    with log.open('wb') as output:
        process = subprocess.Popen(
            [
                'ros2',
                'launch',
                'vq_anomaly_ros',
                'detector.launch.py',
                f'model:={tiny_model}',
                "cameras:=['/left','/right']",
                'target_fpr:=0.01',
            ],
            env={**os.environ, 'ROS_DOMAIN_ID': str(random.randint(1, 100))},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + PATIENCE
        while 'active: listening to /left/image_raw, /right/image_raw' not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert 'Traceback' not in log.read_text()
    assert 'process has finished cleanly' in log.read_text()
