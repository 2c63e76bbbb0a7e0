"""The topics that the node publishes for one camera."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from vq_anomaly_ros import outputs
from vq_anomaly_ros.detection.atlas import Atlas
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.events import Event
from vq_anomaly_ros.detection.explanation import Explanation
from vq_anomaly_ros.detection.explanation_picture import explanation_picture
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.node.camera_info import scaled_camera_info
from vq_anomaly_ros.node.messages import (
    LATCHED_QOS,
    image_message,
    jpeg_message,
    message_name,
    stamp_ns,
    stream_qos,
    string_message,
)
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.topic_qos import topic_qos
from vq_anomaly_ros.node.topic_watch import TopicWatch
from vq_anomaly_ros.node.vision_messages import label_info_message, obstacles_array, vision_msgs


class CameraOutputs:
    """The publishers under <camera>/anomaly; a message is made only for those who listen.

    `watches` has one for each of them.
    """

    def __init__(
        self, node: LifecycleNode, camera: str, info: ModelInfo, settings: Settings
    ) -> None:
        """Offer the topics; raises ValueError for a QoS override that makes no sense."""
        self._node = node
        self._info = info
        self._namespace = outputs.anomaly_topics(f'{camera}/image_raw')
        self._qos = stream_qos(settings.output_reliability, settings.output_depth)
        self._vision = vision_msgs()
        self._release = ExitStack()
        self.watches: list[TopicWatch] = []
        images = ['score', 'mask', 'overlay', *(['semantic_mask'] if info.classes else [])]
        with self._release:
            self._streams = {name: self._stream(name, Image) for name in images}
            self._streams['overlay/compressed'] = self._stream(
                'overlay/compressed', CompressedImage
            )
            self._streams['camera_info'] = self._stream('camera_info', CameraInfo)
            self._streams['obstacles_json'] = self._stream('obstacles_json', String)
            self._streams['events'] = self._stream('events', String)
            self._streams['event_image'] = self._stream('event_image', Image)
            self._streams['explanation'] = self._stream('explanation', String)
            self._streams['explanation_image'] = self._stream('explanation_image', Image)
            self._label_info_json = self._latched('label_info_json', String)
            if self._vision is not None:
                self._streams['obstacles'] = self._stream(
                    'obstacles', self._vision.Detection2DArray
                )
                self._label_info = self._latched('label_info', self._vision.LabelInfo)
            self._release = self._release.pop_all()

    def publish(
        self,
        header: Header,
        frame: Frame,
        detection: Detection,
        camera_info: CameraInfo | None,
        settings: Settings,
    ) -> None:
        """Publish what was detected in `frame`, under its header."""
        images = outputs.detection_images(detection, settings.score_encoding)  # type: ignore[arg-type]
        for name, (pixels, encoding) in images.items():
            if self._wanted(name):
                self._streams[name].publish(image_message(header, pixels, encoding))
        self._publish_overlay(header, frame, detection, settings.overlay_opacity)
        if camera_info is not None and self._wanted('camera_info'):
            scaled = scaled_camera_info(camera_info, detection.score.shape, header)
            self._streams['camera_info'].publish(scaled)
        self._publish_obstacles(header, detection)

    def publish_event(
        self, header: Header, event: Event, frame: Frame, detection: Detection
    ) -> None:
        """Publish what begins with `frame`, and a picture of it."""
        told = outputs.event_message(event, header.frame_id)
        self._streams['events'].publish(string_message(told))
        if self._wanted('event_image'):
            picture = overlay(frame, detection, self._info)
            self._streams['event_image'].publish(image_message(header, picture, 'bgr8'))

    def publish_explanation(
        self, header: Header, frame: Frame, told: Explanation, atlas: Atlas | None
    ) -> None:
        """Publish why a pixel of `frame` has its score, and a picture of it."""
        fields = {'frame_id': header.frame_id, 'stamp_ns': stamp_ns(header), **told.to_dict()}
        self._streams['explanation'].publish(string_message(fields))
        if self._wanted('explanation_image'):
            picture = explanation_picture(frame, told, self._info, atlas)
            self._streams['explanation_image'].publish(image_message(header, picture, 'bgr8'))

    def publish_refusal(self, header: Header, why: str) -> None:
        """Publish why a pixel is not explained."""
        fields = {'frame_id': header.frame_id, 'stamp_ns': stamp_ns(header), 'error': why}
        self._streams['explanation'].publish(string_message(fields))

    def publish_label_info(self, text: str, target_fpr: float) -> None:
        """Publish (latched) what the values of the images mean."""
        self._label_info_json.publish(String(data=text))
        if self._vision is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            message = label_info_message(self._vision, header, self._info, target_fpr)
            self._label_info.publish(message)

    def destroy(self) -> None:
        """Take all topics back."""
        self._release.close()

    def _publish_overlay(
        self, header: Header, frame: Frame, detection: Detection, opacity: float
    ) -> None:
        if not self._wanted('overlay') and not self._wanted('overlay/compressed'):
            return
        picture = overlay(frame, detection, self._info, opacity)
        if self._wanted('overlay'):
            self._streams['overlay'].publish(image_message(header, picture, 'bgr8'))
        if self._wanted('overlay/compressed'):
            self._streams['overlay/compressed'].publish(jpeg_message(header, picture))

    def _publish_obstacles(self, header: Header, detection: Detection) -> None:
        if self._wanted('obstacles_json'):
            told = outputs.obstacles_message(
                detection, self._info, stamp_ns(header), header.frame_id
            )
            self._streams['obstacles_json'].publish(string_message(told))
        if self._vision is not None and self._wanted('obstacles'):
            boxes = obstacles_array(self._vision, header, detection.obstacles)
            self._streams['obstacles'].publish(boxes)

    def _wanted(self, name: str) -> bool:
        return self._streams[name].get_subscription_count() > 0

    def _stream(self, name: str, kind: Any) -> Any:
        make = self._node.create_lifecycle_publisher
        publisher = self._offer(make, name, kind, self._qos)
        self._release.callback(self._node.destroy_lifecycle_publisher, publisher)
        return publisher

    def _latched(self, name: str, kind: Any) -> Any:
        publisher = self._offer(self._node.create_publisher, name, kind, LATCHED_QOS)
        self._release.callback(self._node.destroy_publisher, publisher)
        return publisher

    def _offer(self, make: Callable[..., Any], name: str, kind: Any, default: QoSProfile) -> Any:
        """Make a publisher, and a watch of its topic."""
        topic = self._node.resolve_topic_name(f'{self._namespace}/{name}')
        qos = topic_qos(self._node, topic, False, default)
        # The watch names both sides of a misfit, rclpy's own callbacks only the topic.
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        publisher = make(kind, topic, qos, event_callbacks=quiet)
        self.watches.append(TopicWatch(self._node, topic, message_name(kind), qos, False))
        return publisher
