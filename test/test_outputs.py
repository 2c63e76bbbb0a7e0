import dataclasses
import json

import numpy as np
import pytest

from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.outputs import (
    anomaly_topics,
    detection_images,
    encoded_score,
    label_info,
    obstacles_message,
    obstacles_of,
)


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


@pytest.mark.parametrize(('encoding', 'largest'), [('mono8', 255), ('mono16', 65535)])
def test_integer_scores_spend_their_values_on_the_tail(encoding: str, largest: int) -> None:
    p = np.array([[0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999, 1.0]], np.float32)
    values = encoded_score(p, encoding)  # type: ignore[arg-type]
    assert values.dtype == (np.uint8 if largest == 255 else np.uint16)
    # float32 resolves 1 - 1e-5 to 0.6 %, which is 0.003 of a decade
    expected = largest * np.array([[0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]])
    np.testing.assert_allclose(values, expected, atol=0.5 + largest * 0.0006)


@pytest.mark.parametrize('encoding', ['mono8', 'mono16'])
def test_integer_scores_keep_the_order(encoding: str) -> None:
    p = np.sort(np.random.default_rng(0).random((1, 1000), np.float32))
    values = encoded_score(p, encoding)  # type: ignore[arg-type]
    assert (np.diff(values.astype(int)) >= 0).all()


def test_a_score_as_float_is_not_copied_and_other_encodings_are_refused() -> None:
    score = np.zeros((2, 3), np.float32)
    assert encoded_score(score, '32FC1') is score
    with pytest.raises(ValueError, match='use 32FC1, mono16, mono8'):
        encoded_score(score, 'rgb8')  # type: ignore[arg-type]


def test_label_info_says_what_integer_scores_mean(tiny_info: ModelInfo) -> None:
    calibration = Calibration.from_dict(tiny_info.calibration or {})
    score = json.loads(label_info(tiny_info, calibration, 0.01, 'mono16'))['score']
    assert score['encoding'] == 'mono16' and score['range'] == [0, 65535]
    assert '65535 * min(-log10(1 - p), 5) / 5' in score['meaning']


def test_obstacles_as_json(tiny_info: ModelInfo) -> None:
    score = np.zeros((40, 60), np.float32)
    obstacles = (
        Obstacle((1.0, 2.0, 3.004, 4.0), 0.01, 0.5, 1.0, 1),
        Obstacle((0, 0, 1, 1), 0, 0, 0),
    )
    detection = Detection(None, score, score, score, None, obstacles)
    told = obstacles_message(detection, tiny_info, 5, 'lens')
    assert json.loads(json.dumps(told)) == told
    assert (told['stamp_ns'], told['frame_id'], told['size']) == (5, 'lens', [40, 60])
    assert told['obstacles'][0]['box'] == [1.0, 2.0, 3.0, 4.0]
    assert [one['looks_like'] for one in told['obstacles']] == ['tree', None]
    first, second = obstacles_of(told)
    assert first == dataclasses.replace(obstacles[0], box=(1.0, 2.0, 3.0, 4.0), class_id=None)
    assert second == obstacles[1]
