"""The launch files in the Python of ROS, which has none of the packages of .venv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('ament_index_python.packages', reason='no ament_index_python')
ROOT = Path(__file__).resolve().parents[2]
# What apt installs with ROS's launch: its own packages and PyYAML. Nothing else may be imported.
ONLY_IN_THE_ENVIRONMENT = (
    'cv2', 'jinja2', 'matplotlib', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'rclpy', 'rich',
    'rosbags',
)  # fmt: skip
LAUNCHED = """
import importlib.util, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}} in the Python of ROS')

sys.meta_path.insert(0, Absent())

def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

stand_in = load('stand_in', 'test/launch/conftest.py')
sys.modules.update(stand_in._modules())
launched = load('launched', 'launch/' + sys.argv[1])
given = dict(word.split(':=') for word in sys.argv[2:])
found = stand_in._execute(launched.generate_launch_description().args[0], given)
print([type(node).__name__ for node in found.nodes])
"""
# Stands for the installed command: the point is that the launch file needs no more than its answer.
ANSWER = '{"cameras": ["/front"], "transport": "raw", "remap": [], "topics": ["/front/image_raw"]}'


def launch(*arguments: str, **environment: str) -> str:
    script = LAUNCHED.format(blocked=ONLY_IN_THE_ENVIRONMENT)
    done = subprocess.run(
        [sys.executable, '-c', script, *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_detectors_launch_file() -> None:
    made = launch('detector.launch.py', "cameras:=['/front']", 'rviz:=true')
    assert made == "['Node', 'Node', 'RegisterEventHandler']"


def test_the_replays_launch_file(tmp_path: Path) -> None:
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'vq_anomaly_ros').touch()
    program = tmp_path / 'lib' / 'vq_anomaly_ros' / 'drive_cameras'
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{ANSWER}'\n")
    program.chmod(0o755)
    made = launch('replay.launch.py', 'bag:=drive', AMENT_PREFIX_PATH=str(tmp_path))
    assert made == "['IncludeLaunchDescription', 'TimerAction', 'RegisterEventHandler']"
