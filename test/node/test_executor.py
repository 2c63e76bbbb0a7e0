"""A message that cannot be taken is lost; everything else goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from vq_anomaly_ros.node.executor import SturdyExecutor


@pytest.mark.parametrize('error', [MemoryError, RuntimeError])
def test_what_cannot_be_taken_stops_neither_topic_nor_timer(
    ros: SimpleNamespace, peer: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    node = rclpy.create_node('sturdy', context=ros.context)
    executor = SturdyExecutor(context=ros.context)
    executor.add_node(node)
    heard: list[str] = []
    ticks: list[int] = []
    node.create_subscription(String, '/words', lambda message: heard.append(message.data), 10)
    node.create_timer(0.01, lambda: ticks.append(1))
    take = SingleThreadedExecutor._take_subscription

    def fail_once(self: Any, sub: Any) -> Any:
        if sub.topic_name != '/words':
            return take(self, sub)
        found = take(self, sub)
        if not failed:
            failed.append(True)
            raise error('no memory')
        return found

    failed: list[bool] = []
    monkeypatch.setattr(SingleThreadedExecutor, '_take_subscription', fail_once)
    publisher = peer.publisher(String, '/words')
    for word in ('lost', 'heard', 'too'):
        publisher.publish(String(data=word))
        before = len(ticks)
        while len(ticks) < before + 10:
            executor.spin_once(timeout_sec=0.1)
    assert failed and heard == ['heard', 'too']
    executor.shutdown()
    node.destroy_node()
