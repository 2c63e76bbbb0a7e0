"""What the node publishes, as ROS messages, and with which QoS."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.duration import Infinite
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from vq_anomaly_ros.images import as_message_data, compressed_fields, image_fields
from vq_anomaly_ros.node.health import Judgement

DIAGNOSTICS_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
# Deadline and lease as in stream_qos.
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    deadline=Infinite,
    liveliness_lease_duration=Infinite,
)


def stream_qos(reliability: str, depth: int) -> QoSProfile:
    """Return a volatile QoS that keeps the last `depth`; `reliability`: reliable, best_effort."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy[reliability.upper()],
        # The default, as it is told of every endpoint: qos_check_compatible takes 0 for another.
        deadline=Infinite,
        liveliness_lease_duration=Infinite,
    )


def image_message(header: Header, pixels: np.ndarray, encoding: str) -> Image:
    """Make an Image of pixels [H, W] or [H, W, 3], under the header of the frame it belongs to."""
    fields = image_fields(pixels, encoding)
    fields['data'] = as_message_data(fields['data'])
    return Image(header=header, **fields)


def jpeg_message(header: Header, bgr: np.ndarray) -> CompressedImage:
    """Make a CompressedImage of pixels [H, W, 3]."""
    fields = compressed_fields(bgr, 'jpeg')
    fields['data'] = as_message_data(fields['data'])
    return CompressedImage(header=header, **fields)


def stamp_ns(header: Header) -> int:
    """Return the stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def string_message(content: Mapping[str, Any]) -> String:
    """Make a String of JSON."""
    return String(data=json.dumps(content, sort_keys=True))


def message_name(kind: Any) -> str:
    """Return the name of a message class, such as 'sensor_msgs/msg/Image'."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


def status_message(
    name: str, hardware: str, judgement: Judgement, figures: Mapping[str, str]
) -> DiagnosticStatus:
    """Make one status of /diagnostics; `hardware` is what it is about (camera or model)."""
    return DiagnosticStatus(
        level=bytes([judgement.level]),
        name=name,
        message=judgement.message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in figures.items()],
    )


class MessageTypeError(ValueError):
    """A message type is not installed; the message names it and the remedy."""


def message_type(name: str) -> Any:
    """Import the class of a message type such as 'sensor_msgs/msg/Image'."""
    package, _, kind = name.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise MessageTypeError(
            f'{name}: this message type is not installed; install the package {package}, '
            'or leave the topic out'
        ) from error
