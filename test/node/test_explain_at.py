"""explain_at over DDS: a pixel is asked about, JSON and a picture come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.explanation import Explainer
from vq_anomaly_ros.images import Frame

pytest.importorskip('rclpy', reason='ROS is not installed')
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import Image
from std_msgs.msg import String


def question(x: float, y: float, stamp: int = 0) -> PointStamped:
    message = PointStamped()
    message.point.x, message.point.y = x, y
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    return message


def test_pixels_of_kept_frames_are_explained(
    peer: Any,
    start_detector: Any,
    tiny_model: Path,
    picture: Callable[..., np.ndarray],
    image_message: Any,
) -> None:
    start_detector(explain_frames=2)
    answers = peer.collect(String, '/front/anomaly/explanation')
    drawn = peer.collect(Image, '/front/anomaly/explanation_image')
    masks = peer.collect(Image, '/front/anomaly/mask')
    ask = peer.publisher(PointStamped, '/front/anomaly/explain_at')

    def answer(message: PointStamped) -> dict[str, Any]:
        count = len(answers)
        ask.publish(message)
        assert peer.spin_until(lambda: len(answers) > count)
        return dict(json.loads(answers[-1].data))

    assert 'no frame has come yet' in answer(question(1.0, 1.0))['error']
    camera = peer.publisher(Image, '/front/image_raw')
    for number in (1, 2, 3):
        camera.publish(image_message(picture(number, 90, 160), stamp=number * 10**9, frame_id='f'))
        assert peer.spin_until(lambda number=number: len(masks) == number)
    frames = {number: Frame(picture(number, 90, 160), 'bgr') for number in (2, 3)}
    with Detector(DetectorConfig(tiny_model, threads=1)) as detector:
        explainer = Explainer(detector.model, detector.calibration)
        told = {n: detector.detect([frame])[0] for n, frame in frames.items()}
    for number, asked in ((3, 0), (2, 2 * 10**9)):
        found = answer(question(100.5, 40.0, asked))
        expected = explainer.explain(frames[number], told[number], (100.5, 40.0)).to_dict()
        assert (found['stamp_ns'], found['frame_id']) == (number * 10**9, 'f')
        assert {name: found[name] for name in expected} == json.loads(json.dumps(expected))
    assert peer.spin_until(lambda: len(drawn) == 2)
    assert drawn[0].header.stamp.sec == 3 and drawn[0].width == 960
    assert 'is not among the 2 that are kept' in answer(question(1.0, 1.0, 10**9))['error']
    assert 'outside of the picture of 160x90' in answer(question(160.0, 1.0))['error']


def test_an_atlas_of_another_model_keeps_it_unconfigured(
    start_detector: Any, tmp_path: Path
) -> None:
    program = start_detector(wait='not configured', atlas=tmp_path / 'atlas.npz')
    assert 'there is no such file' in program.output
    assert 'Traceback' not in program.output
