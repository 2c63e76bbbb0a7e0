"""Messages of vision_msgs: the real ones where installed, else stand-ins with their fields."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from rclpy.clock import Clock
from rclpy.qos import DurabilityPolicy
from std_msgs.msg import Header

from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.node import camera_outputs, vision_messages
from vq_anomaly_ros.node.camera_outputs import CameraOutputs
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.vision_messages import (
    label_info_message,
    obstacles_array,
    vision_msgs,
)


def stand_in() -> SimpleNamespace:
    """The classes of vision_msgs 4 (Humble to Rolling) with those fields, and no other."""

    def point() -> Any:
        return SimpleNamespace(x=0.0, y=0.0)

    def center() -> Any:
        return SimpleNamespace(position=point(), theta=0.0)

    def made(name: str, *fields: Any) -> Any:
        return dataclasses.make_dataclass(name, fields)

    def a_field(name: str, factory: Any) -> tuple[str, type, Any]:
        return name, object, field(default_factory=factory)

    hypothesis = made('ObjectHypothesis', a_field('class_id', str), a_field('score', float))
    return SimpleNamespace(
        VisionClass=made('VisionClass', a_field('class_id', int), a_field('class_name', str)),
        LabelInfo=made(
            'LabelInfo',
            a_field('header', Header),
            a_field('class_map', list),
            a_field('threshold', float),
        ),
        BoundingBox2D=made(
            'BoundingBox2D',
            a_field('center', center),
            a_field('size_x', float),
            a_field('size_y', float),
        ),
        ObjectHypothesisWithPose=made('WithPose', a_field('hypothesis', hypothesis)),
        Detection2D=made(
            'Detection2D',
            a_field('header', Header),
            a_field('results', list),
            a_field('bbox', object),
            a_field('id', str),
        ),
        Detection2DArray=made(
            'Detection2DArray', a_field('header', Header), a_field('detections', list)
        ),
    )


@pytest.fixture(params=['stand-in', 'installed'])
def msg(request: pytest.FixtureRequest) -> Any:
    if request.param == 'stand-in':
        return stand_in()
    return pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')


def test_label_info_names_every_value_of_the_mask(msg: Any, tiny_info: ModelInfo) -> None:
    header = Header(frame_id='lens')
    info = label_info_message(msg, header, tiny_info, 0.25)
    assert {c.class_id: c.class_name for c in info.class_map} == {
        0: 'road',
        1: 'tree',
        2: 'car',
        3: 'person',
        255: 'unlabelled',
    }
    assert info.threshold == 0.75 and info.header == header


def test_obstacles_are_boxes_around_their_centre(msg: Any) -> None:
    header = Header(frame_id='lens')
    obstacles = (
        Obstacle((10.0, 20.0, 4.0, 8.0), 0.1, 0.75, 1.0, 2),
        Obstacle((0, 0, 1, 1), 0, 0, 0),
    )
    array = obstacles_array(msg, header, obstacles)
    first, second = array.detections
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (12.0, 24.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (4.0, 8.0)
    assert first.results[0].hypothesis.class_id == 'anomaly'
    assert first.results[0].hypothesis.score == 0.75
    assert [first.id, second.id] == ['0', '1'] and first.header == array.header == header


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(vision_messages.importlib, 'import_module', missing)
    assert vision_msgs() is None


class Publisher:
    """Remembers what it is, and what it was told to publish."""

    def __init__(self, kind: Any, topic: str, qos: Any) -> None:
        self.kind, self.topic_name, self.qos = kind, topic, qos
        self.published: list[Any] = []

    def publish(self, message: Any) -> None:
        assert isinstance(message, self.kind)
        self.published.append(message)

    def get_subscription_count(self) -> int:
        return 1


class RecordingNode:
    """As much of a lifecycle node as outputs need; stand-in messages cannot go through DDS."""

    def __init__(self) -> None:
        self.offered: dict[str, Publisher] = {}
        self._parameter_overrides: dict[str, Any] = {}

    def create_publisher(self, kind: Any, topic: str, qos: Any, **_: Any) -> Publisher:
        self.offered[topic] = Publisher(kind, topic, qos)
        return self.offered[topic]

    def destroy_publisher(self, publisher: Publisher) -> None:
        del self.offered[publisher.topic_name]

    create_lifecycle_publisher = create_publisher
    destroy_lifecycle_publisher = destroy_publisher

    def resolve_topic_name(self, name: str) -> str:
        return name

    def get_clock(self) -> Clock:
        return Clock()


@pytest.fixture
def node() -> RecordingNode:
    return RecordingNode()


@pytest.fixture
def offered(
    node: RecordingNode, tiny_info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> CameraOutputs:
    """The outputs of a camera where vision_msgs is installed."""
    monkeypatch.setattr(camera_outputs, 'vision_msgs', stand_in)
    return CameraOutputs(node, '/front', tiny_info, Settings())  # type: ignore[arg-type]


def test_a_camera_publishes_obstacles_and_label_info_of_vision_msgs(
    node: RecordingNode, offered: CameraOutputs, tiny_model: Path, picture: Any
) -> None:
    boxes = node.offered['/front/anomaly/obstacles']
    names = node.offered['/front/anomaly/label_info']
    assert (boxes.kind.__name__, names.kind.__name__) == ('Detection2DArray', 'LabelInfo')
    assert boxes.qos.durability == DurabilityPolicy.VOLATILE
    assert names.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL

    offered.publish_label_info('{}', target_fpr=0.25)
    (told,) = names.published
    assert told.threshold == 0.75 and told.class_map[0].class_name == 'road'
    assert told.header.stamp.sec > 0
    assert node.offered['/front/anomaly/label_info_json'].published[0].data == '{}'

    frame = Frame(picture(2, 90, 160), 'bgr')
    config = DetectorConfig(tiny_model, threads=1, target_fpr=0.3, min_obstacle_area=0.01)
    with Detector(config) as detector:
        (detection,) = detector.detect([frame])
    assert detection.obstacles, 'the test needs an obstacle'
    header = Header(frame_id='lens')
    offered.publish(header, frame, detection, None, Settings())
    (array,) = boxes.published
    assert len(array.detections) == len(detection.obstacles) and array.header == header


def test_every_topic_of_a_camera_is_watched(node: RecordingNode, offered: CameraOutputs) -> None:
    assert {watch.topic for watch in offered.watches} == set(node.offered)
    assert '/front/anomaly/label_info' in node.offered
    offered.destroy()
    assert node.offered == {}


def test_without_the_package_json_says_it_all(
    node: RecordingNode, tiny_info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_outputs, 'vision_msgs', lambda: None)
    offered = CameraOutputs(node, '/front', tiny_info, Settings())  # type: ignore[arg-type]
    offered.publish_label_info('{}', target_fpr=0.25)
    assert not {'/front/anomaly/obstacles', '/front/anomaly/label_info'} & set(node.offered)
