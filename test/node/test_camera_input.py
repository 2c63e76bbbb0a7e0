"""What is subscribed to leaves nothing with the node when it is destroyed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
import rclpy

from vq_anomaly_ros.node.camera_input import CameraInput
from vq_anomaly_ros.node.parameters import Settings


def test_the_node_forgets_subscriptions_that_were(ros: SimpleNamespace) -> None:
    node = rclpy.create_node('forgetful', context=ros.context)
    before = len(node.default_callback_group.entities)
    for _ in range(3):
        made = CameraInput(node, '/front', Settings(), lambda _: None, lambda _: None)
        made.destroy()
    assert len(node.default_callback_group.entities) == before
    node.destroy_node()
