"""The topics that the node publishes for one camera."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from vq_anomaly_ros import outputs
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.node.messages import LATCHED_QOS, RESULT_QOS, image_message


class CameraOutputs:
    """The publishers under <camera>/anomaly; a message is made only for those who listen."""

    def __init__(self, node: LifecycleNode, camera: str, with_classes: bool) -> None:
        self._node = node
        topics = outputs.anomaly_topics(f'{camera}/image_raw')
        names = ['score', 'mask', 'overlay', *(['semantic_mask'] if with_classes else [])]
        self._images = {
            name: node.create_lifecycle_publisher(Image, f'{topics}/{name}', RESULT_QOS)
            for name in names
        }
        self._label_info = node.create_publisher(String, f'{topics}/label_info_json', LATCHED_QOS)

    def publish(
        self, header: Header, frame: Frame, detection: Detection, info: ModelInfo, opacity: float
    ) -> None:
        """Publish what was detected in `frame`, under its header."""
        for name, (pixels, encoding) in outputs.detection_images(detection).items():
            if self._images[name].get_subscription_count():
                self._images[name].publish(image_message(header, pixels, encoding))
        if self._images['overlay'].get_subscription_count():
            picture = overlay(frame, detection, info, opacity)
            self._images['overlay'].publish(image_message(header, picture, 'bgr8'))

    def publish_label_info(self, text: str) -> None:
        """Publish (latched) what the values of the images mean."""
        self._label_info.publish(String(data=text))

    def destroy(self) -> None:
        """Take all topics back."""
        self._node.destroy_publisher(self._label_info)
        for publisher in reversed(self._images.values()):
            self._node.destroy_lifecycle_publisher(publisher)
