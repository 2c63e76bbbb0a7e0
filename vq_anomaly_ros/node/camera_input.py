"""The topics that the node subscribes to for one camera."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vq_anomaly_ros.node.messages import message_name, stream_qos
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.topic_qos import topic_qos
from vq_anomaly_ros.node.topic_watch import TopicWatch


class CameraInput:
    """Image and CameraInfo of a camera; counts what DDS says was lost on the way."""

    def __init__(
        self, node: Node, camera: str, settings: Settings, on_image: Callable[[Any], None]
    ) -> None:
        """Subscribe; `on_image` is called with each message on the executor's thread.

        Raises ValueError for a QoS override that makes no sense, and what rclpy raises for a topic
        that exists with another type.
        """
        self.camera_info: CameraInfo | None = None
        self.lost = 0
        self._release = ExitStack()
        kind = Image if settings.transport == 'raw' else CompressedImage
        self.topic = node.resolve_topic_name(settings.input_topic(camera))
        default = stream_qos(settings.input_reliability, settings.input_depth)
        qos = topic_qos(node, self.topic, True, default)
        self.watch = TopicWatch(node, self.topic, message_name(kind), qos, True)
        # The watch names both sides of a misfit, rclpy's own callbacks only the topic.
        counting = SubscriptionEventCallbacks(
            message_lost=self._on_lost, use_default_callbacks=False
        )
        with self._release:
            image = node.create_subscription(
                kind, self.topic, on_image, qos, event_callbacks=counting
            )
            self._release.callback(node.destroy_subscription, image)
            info = node.create_subscription(
                CameraInfo, f'{camera}/{settings.camera_info_topic}', self._on_info, default
            )
            self._release.callback(node.destroy_subscription, info)
            self._release = self._release.pop_all()

    def destroy(self) -> None:
        """Listen no more."""
        self._release.close()

    def _on_info(self, message: CameraInfo) -> None:
        self.camera_info = message

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change
