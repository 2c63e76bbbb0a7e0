"""One frame of a bag as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay import bags, still


@pytest.fixture
def drive(tmp_path: Path, picture: Any) -> Path:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        for number in range(3):
            writer.write_image('/front/image_raw', 1 + number, picture(number), 'bgr8')
    return tmp_path / 'drive'


def test_the_picture_is_the_overlay_of_the_frame(
    tmp_path: Path, drive: Path, tiny_model: Path, picture: Any
) -> None:
    out = tmp_path / 'new' / 'still.png'
    assert still.main([str(drive), str(out), '--frame', '2', '--model', str(tiny_model)]) == 0
    with Detector(DetectorConfig(tiny_model)) as detector:
        frame = Frame(picture(2), 'bgr')
        expected = overlay(frame, detector.detect([frame])[0], detector.info)
    np.testing.assert_array_equal(cv2.imread(str(out)), expected)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (['--frame', '3'], 'has no frame 3'),
        (['--topic', '/x'], 'no image topic /x'),
        (['--model', 'none'], 'none'),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path,
    drive: Path,
    tiny_model: Path,
    changes: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(drive), str(tmp_path / 'a.png'), '--model', str(tiny_model), *changes]
    assert still.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'a.png').exists()
