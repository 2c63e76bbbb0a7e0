"""The messages of vision_msgs, where that package is installed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from std_msgs.msg import Header

from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.outputs import NO_CLASS


def vision_msgs() -> ModuleType | None:
    """Return the module vision_msgs.msg, or None where it is not installed."""
    try:
        return importlib.import_module('vision_msgs.msg')
    except ImportError:
        return None


def label_info_message(msg: ModuleType, header: Header, info: ModelInfo, target_fpr: float) -> Any:
    """Make a LabelInfo: names of the values of semantic_mask, 255 = unlabelled.

    `msg` is what `vision_msgs` returned. The threshold is that of the calibrated score.
    """
    classes = [*enumerate(info.classes), (NO_CLASS, 'unlabelled')]
    names = [msg.VisionClass(class_id=number, class_name=name) for number, name in classes]
    return msg.LabelInfo(header=header, class_map=names, threshold=1.0 - target_fpr)


def obstacles_array(msg: ModuleType, header: Header, obstacles: tuple[Obstacle, ...]) -> Any:
    """Make a Detection2DArray: boxes in pixels of the results, class 'anomaly', score their mean.

    The id is the number of the thing, the same from frame to frame.

    `msg` is what `vision_msgs` returned.
    """
    return msg.Detection2DArray(
        header=header,
        detections=[
            _detection(msg, header, number if obstacle.track is None else obstacle.track, obstacle)
            for number, obstacle in enumerate(obstacles)
        ],
    )


def _detection(msg: ModuleType, header: Header, number: int, obstacle: Obstacle) -> Any:
    x, y, width, height = obstacle.box
    box = msg.BoundingBox2D(size_x=width, size_y=height)
    box.center.position.x = x + width / 2
    box.center.position.y = y + height / 2
    result = msg.ObjectHypothesisWithPose()
    result.hypothesis.class_id = 'anomaly'
    result.hypothesis.score = obstacle.score_mean
    return msg.Detection2D(header=header, results=[result], bbox=box, id=str(number))
