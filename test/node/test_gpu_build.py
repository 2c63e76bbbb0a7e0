"""The node builds its plan when the first frame comes: it says so, and a deactivation ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
pytest.importorskip('onnxruntime')
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image

STAND_INS = Path(__file__).resolve().parents[1] / 'detection' / 'engines' / 'stand_ins'
FRAME = np.full((40, 60, 3), 100, np.uint8)


@pytest.fixture
def gpu_node(
    start_module: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The node on stand-ins for TensorRT and a GPU, whose builds take half a minute."""
    monkeypatch.setenv('PYTHONPATH', str(STAND_INS))
    monkeypatch.setenv('VQ_ANOMALY_PLANS', str(tmp_path / 'plans'))
    monkeypatch.setenv('STAND_IN_STEPS', '600')
    monkeypatch.setenv('STAND_IN_STEP_S', '0.05')
    values = {'model': tiny_model, 'backend': 'tensorrt', 'diagnostics_period': 0.1}
    arguments = [part for name, value in values.items() for part in ('-p', f'{name}:={value}')]
    program = start_module('stand_in_node', '--ros-args', *arguments)
    program.wait_for('active: listening')
    return program


def test_a_build_is_told_and_ends_with_the_deactivation(
    gpu_node: Any, peer: Any, image_message: Callable[..., Any], tmp_path: Path
) -> None:
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics', depth=100)
    camera = peer.publisher(Image, '/front/image_raw')
    camera.publish(image_message(FRAME))

    def reports() -> list[str]:
        return [
            value.value
            for message in diagnostics
            for status in message.status
            for value in status.values
            if value.key == 'engine report'
        ]

    assert peer.spin_until(lambda: any('building the plan: tactics' in said for said in reports()))
    assert 'building the plan: tactics' in gpu_node.output

    response = peer.call(
        ChangeState,
        '/anomaly_detector/change_state',
        transition=Transition(id=Transition.TRANSITION_DEACTIVATE),
    )
    assert response.success
    plans = tmp_path / 'plans'
    assert not [*plans.glob('*.plan'), *plans.glob('*.json')], 'given up, not finished'
    assert 'Traceback' not in gpu_node.output, gpu_node.output
