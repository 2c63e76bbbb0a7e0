import json

import numpy as np
import pytest

from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.outputs import anomaly_topics, detection_images, label_info


@pytest.mark.parametrize(
    ('topic', 'namespace'),
    [
        ('/front/image_raw', '/front/anomaly'),
        ('/front/image_raw/compressed', '/front/anomaly'),
        ('/robot/rear/image', '/robot/rear/anomaly'),
        ('/image_raw', '/anomaly'),
        ('/image/compressed', '/anomaly'),
        ('/compressed', '/anomaly'),
    ],
)
def test_a_camera_is_the_namespace_of_its_image(topic: str, namespace: str) -> None:
    assert anomaly_topics(topic) == namespace


def test_a_model_without_classes_has_no_semantic_mask() -> None:
    score = np.zeros((2, 3), np.float32)
    mask = np.zeros((2, 3), np.uint8)
    images = detection_images(Detection(None, score, mask, score, None))
    assert {name: encoding for name, (_, encoding) in images.items()} == {
        'score': '32FC1',
        'mask': 'mono8',
    }
    assert images['score'][0] is score


def test_label_info_does_not_depend_on_anything_but_its_arguments(tiny_info: ModelInfo) -> None:
    calibration = Calibration.from_dict(tiny_info.calibration or {})
    text = label_info(tiny_info, calibration, 0.01)
    assert text == label_info(tiny_info, calibration, 0.01)
    info = json.loads(text)
    assert info['threshold'] == pytest.approx(0.99)
    assert info['classes'][1] == {'id': 1, 'name': 'tree', 'rgb': [107, 142, 35]}
    assert info['calibration']['source'] == 'training set'
