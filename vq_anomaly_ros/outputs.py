"""What is said of one frame, as image fields and JSON: the node and evaluate_bag share these words.

Both publish exactly what this module returns, so their results can be compared bit by bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from vq_anomaly_ros.detection.obstacles import Obstacle

if TYPE_CHECKING:
    from vq_anomaly_ros.detection.calibration import Calibration
    from vq_anomaly_ros.detection.detector import Detection
    from vq_anomaly_ros.detection.events import Event
    from vq_anomaly_ros.detection.model_file import ModelInfo

NO_CLASS = 255

ScoreEncoding = Literal['32FC1', 'mono16', 'mono8']
# Integer scores end at this many powers of ten of the tail: as far as calibrations are stored.
_DECADES = 5.0


def anomaly_topics(image_topic: str) -> str:
    """Return the namespace of what is said of a camera: '/front/image_raw' -> '/front/anomaly'.

    The camera is the namespace of its image topic; 'image_raw/compressed' is one of its topics too.
    """
    parts = image_topic.rstrip('/').split('/')
    if parts[-1] in ('compressed', 'compressedDepth') and len(parts) > 2:
        parts = parts[:-1]
    return '/'.join([*parts[:-1], 'anomaly'])


def detection_images(
    detection: Detection, score_encoding: ScoreEncoding = '32FC1'
) -> dict[str, tuple[np.ndarray, str]]:
    """Return {topic suffix: (pixels [H, W], encoding)} of a detection.

    'semantic_mask': mono8, class ids (absent for models without classes); 'score': calibrated,
    see `encoded_score`; 'mask': mono8, 255 = anomaly at the target false-positive rate, else 0.
    """
    images: dict[str, tuple[np.ndarray, str]] = {}
    if detection.labels is not None:
        images['semantic_mask'] = (detection.labels, 'mono8')
    images['score'] = (encoded_score(detection.score, score_encoding), score_encoding)
    images['mask'] = (detection.anomaly_mask, 'mono8')
    return images


def encoded_score(score: np.ndarray, encoding: ScoreEncoding) -> np.ndarray:
    """Return calibrated scores p, float32 [H, W] in [0, 1], in the encoding of their topic.

    '32FC1': p itself; 'mono16' and 'mono8': min(-log10(1 - p), 5) / 5 of the full range, rounded,
    which spends the few values on the tail: p = 0.9, 0.99, 0.999 are 1/5, 2/5, 3/5 of it.
    Raises ValueError for another encoding.
    """
    if encoding == '32FC1':
        return score
    if encoding not in get_args(ScoreEncoding):
        raise ValueError(
            f'scores are not published as {encoding!r}: use {", ".join(get_args(ScoreEncoding))}'
        )
    dtype = np.uint16 if encoding == 'mono16' else np.uint8
    tail = np.maximum(np.float32(1) - score, np.float32(10**-_DECADES))
    decades = -np.log10(tail, dtype=np.float32) / np.float32(_DECADES)
    return np.rint(decades * np.iinfo(dtype).max).astype(dtype)


def obstacles_message(
    detection: Detection, info: ModelInfo, stamp_ns: int, frame_id: str
) -> dict[str, Any]:
    """Return what obstacles_json says of a frame (see `detection.obstacles.Obstacle`).

    Boxes are in pixels of the published images, whose size is `size` (height, width); `id` is the
    number of the thing that an obstacle is, `frames` in how many it was seen so far, `missed` how
    many have passed since, 0 where it is seen in this one.
    """
    return {
        'stamp_ns': stamp_ns,
        'frame_id': frame_id,
        'size': list(detection.score.shape),
        'obstacles': [
            {
                'id': obstacle.track,
                'frames': obstacle.frames,
                'missed': obstacle.missed,
                'box': [round(value, 2) for value in obstacle.box],
                'area': round(obstacle.area, 6),
                'score_mean': round(obstacle.score_mean, 6),
                'score_max': round(obstacle.score_max, 6),
                'looks_like': (
                    None if obstacle.class_id is None else info.classes[obstacle.class_id]
                ),
            }
            for obstacle in detection.obstacles
        ],
    }


def obstacles_of(told: dict[str, Any]) -> tuple[Obstacle, ...]:
    """Return the obstacles of `obstacles_message`, to its precision and without class ids."""
    return tuple(
        Obstacle(
            tuple(one['box']),
            one['area'],
            one['score_mean'],
            one['score_max'],
            track=one.get('id'),
            frames=one.get('frames', 1),
            missed=one.get('missed', 0),
        )
        for one in told['obstacles']
    )


def event_message(event: Event, frame_id: str) -> dict[str, Any]:
    """Return what the topic events says of an event (see `detection.events.Event`)."""
    return {**event.to_dict(), 'frame_id': frame_id}


def _score_meaning(encoding: ScoreEncoding) -> dict[str, Any]:
    meaning = 'share of normal pixels that scored lower; higher = more anomalous'
    if encoding == '32FC1':
        return {'encoding': encoding, 'meaning': meaning, 'range': [0.0, 1.0]}
    largest = 65535 if encoding == 'mono16' else 255
    return {
        'encoding': encoding,
        'meaning': f'value = {largest} * min(-log10(1 - p), 5) / 5, where p = {meaning}',
        'range': [0, largest],
    }


def label_info(
    info: ModelInfo,
    calibration: Calibration,
    target_fpr: float,
    score_encoding: ScoreEncoding = '32FC1',
) -> str:
    """Return the JSON of label_info_json: what the values of the three images mean.

    Args:
        info: of the model.
        calibration: the table that the score was calibrated with.
        target_fpr: share of normal pixels that the mask may hold, 0..1.
        score_encoding: of the score images, see `encoded_score`.
    """
    classes = [
        {'id': index, 'name': name, 'rgb': list(colour)}
        for index, (name, colour) in enumerate(zip(info.classes, info.palette, strict=True))
    ]
    content: dict[str, Any] = {
        'classes': classes,
        'no_class': NO_CLASS,
        'score': _score_meaning(score_encoding),
        'mask': {'anomaly': 255, 'normal': 0},
        'threshold': 1.0 - target_fpr,
        'target_fpr': target_fpr,
        'model': {
            'name': info.name,
            'method': info.method,
            'weights_sha256': info.weights_sha256,
        },
        'calibration': {
            'source': calibration.source,
            'pixels': calibration.pixels,
            'date': calibration.date,
        },
    }
    return json.dumps(content, sort_keys=True)
