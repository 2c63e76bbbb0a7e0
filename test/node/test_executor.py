"""A message that cannot be taken is lost; everything else goes on."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future
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
    publisher = peer.node.create_publisher(String, '/words', 10)
    assert peer.spin_until(publisher.get_subscription_count)
    for word in ('lost', 'heard', 'too'):
        publisher.publish(String(data=word))
        before = len(ticks)
        while len(ticks) < before + 10:
            executor.spin_once(timeout_sec=0.1)
    assert failed and heard == ['heard', 'too']
    executor.shutdown()
    node.destroy_node()


class Counting(Future):
    """A future that counts what waits for it."""

    waiting = 0

    def add_done_callback(self, callback: Any) -> None:
        self.waiting += 1
        super().add_done_callback(callback)


def test_spinning_until_a_future_is_done_keeps_nothing(ros: SimpleNamespace) -> None:
    node = rclpy.create_node('spinning', context=ros.context)
    executor = SturdyExecutor(context=ros.context)
    executor.add_node(node)
    end = Counting()
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 50:
            end.set_result('done')

    node.create_timer(0.001, tick)
    executor.spin_until_future_complete(end)
    assert len(ticks) == 50 and end.result() == 'done'
    assert end.waiting == 1, 'one wakes the executor; rclpy adds one a turn'
    executor.shutdown()
    node.destroy_node()


def test_another_thread_ends_the_spinning(ros: SimpleNamespace) -> None:
    """Nothing happens in the node: only the future's own callback can wake the executor."""
    node = rclpy.create_node('idle', context=ros.context)
    executor = SturdyExecutor(context=ros.context)
    executor.add_node(node)
    end: Future = Future()
    timer = threading.Timer(0.3, end.set_result, [None])
    timer.start()
    start = time.monotonic()
    executor.spin_until_future_complete(end, timeout_sec=120.0)
    assert end.done() and time.monotonic() < start + 60.0
    timer.join()
    executor.shutdown()
    node.destroy_node()
