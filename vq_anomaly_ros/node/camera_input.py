"""The topics that the node subscribes to for one camera."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from geometry_msgs.msg import PointStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vq_anomaly_ros.node.messages import message_name, stamp_ns, stream_qos
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.stamp_gaps import StampGaps
from vq_anomaly_ros.node.topic_qos import topic_qos
from vq_anomaly_ros.node.topic_watch import TopicWatch
from vq_anomaly_ros.outputs import anomaly_topics

_QUESTIONS = 10


class CameraInput:
    """Image, CameraInfo and questions of a camera; counts what was lost on the way.

    topic: of the images, resolved; watches: one for each of the three; lost: what DDS says of it;
    gaps: what the stamps say.
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        settings: Settings,
        on_image: Callable[[Any], None],
        on_point: Callable[[PointStamped], None],
    ) -> None:
        """Subscribe; `on_image`, and `on_point` for a pixel to explain, are called with each
        message on the executor's thread.

        Raises ValueError for a QoS override that makes no sense, and what rclpy raises for a topic
        that exists with another type.
        """
        self.camera_info: CameraInfo | None = None
        self.lost = 0
        self.gaps = StampGaps()
        self._on_image = on_image
        self._release = ExitStack()
        kind = Image if settings.transport == 'raw' else CompressedImage
        self.topic = node.resolve_topic_name(settings.input_topic(camera))
        default = stream_qos(settings.input_reliability, settings.input_depth)
        self.watches: list[TopicWatch] = []
        # Not the node's own, which would remember every subscription that ever was.
        group = MutuallyExclusiveCallbackGroup()

        def listen(kind: Any, topic: str, callback: Callable[[Any], None], **events: Any) -> None:
            """Subscribe, and watch the topic."""
            asked = stream_qos('reliable', _QUESTIONS) if kind is PointStamped else default
            qos = topic_qos(node, topic, True, asked)
            # The watch names both sides of a misfit, rclpy's own callbacks only the topic.
            quiet = SubscriptionEventCallbacks(use_default_callbacks=False, **events)
            made = node.create_subscription(
                kind, topic, callback, qos, callback_group=group, event_callbacks=quiet
            )
            self._release.callback(node.destroy_subscription, made)
            # A camera without intrinsics, or one nobody asks about, is fine; without pictures not.
            awaited = kind in (Image, CompressedImage)
            self.watches.append(TopicWatch(node, topic, message_name(kind), qos, True, awaited))

        with self._release:
            listen(kind, self.topic, self._on_frame, message_lost=self._on_lost)
            info_topic = node.resolve_topic_name(f'{camera}/{settings.camera_info_topic}')
            listen(CameraInfo, info_topic, self._on_info)
            asked_on = f'{anomaly_topics(f"{camera}/image_raw")}/explain_at'
            listen(PointStamped, node.resolve_topic_name(asked_on), on_point)
            self._release = self._release.pop_all()

    def destroy(self) -> None:
        """Listen no more."""
        self._release.close()

    def _on_frame(self, message: Any) -> None:
        self.gaps.note(stamp_ns(message.header))
        self._on_image(message)

    def _on_info(self, message: CameraInfo) -> None:
        self.camera_info = message

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change
