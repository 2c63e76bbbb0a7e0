"""What is said of one frame, as image fields and JSON: the node and evaluate_bag share these words.

Both publish exactly what this module returns, so their results can be compared bit by bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vq_anomaly_ros.detection.calibration import Calibration
    from vq_anomaly_ros.detection.detector import Detection
    from vq_anomaly_ros.detection.model_file import ModelInfo

NO_CLASS = 255


def anomaly_topics(image_topic: str) -> str:
    """Return the namespace of what is said of a camera: '/front/image_raw' -> '/front/anomaly'.

    The camera is the namespace of its image topic; 'image_raw/compressed' is one of its topics too.
    """
    parts = image_topic.rstrip('/').split('/')
    if parts[-1] in ('compressed', 'compressedDepth') and len(parts) > 2:
        parts = parts[:-1]
    return '/'.join([*parts[:-1], 'anomaly'])


def detection_images(detection: Detection) -> dict[str, tuple[np.ndarray, str]]:
    """Return {topic suffix: (pixels [H, W], encoding)} of a detection.

    'semantic_mask': mono8, class ids (absent for models without classes); 'score': 32FC1,
    calibrated, 0..1; 'mask': mono8, 255 = anomaly at the target false-positive rate, else 0.
    """
    images: dict[str, tuple[np.ndarray, str]] = {}
    if detection.labels is not None:
        images['semantic_mask'] = (detection.labels, 'mono8')
    images['score'] = (detection.score, '32FC1')
    images['mask'] = (detection.anomaly_mask, 'mono8')
    return images


def label_info(info: ModelInfo, calibration: Calibration, target_fpr: float) -> str:
    """Return the JSON of label_info_json: what the values of the three images mean.

    Args:
        info: of the model.
        calibration: the table that the score was calibrated with.
        target_fpr: share of normal pixels that the mask may hold, 0..1.
    """
    classes = [
        {'id': index, 'name': name, 'rgb': list(colour)}
        for index, (name, colour) in enumerate(zip(info.classes, info.palette, strict=True))
    ]
    content: dict[str, Any] = {
        'classes': classes,
        'no_class': NO_CLASS,
        'score': {
            'encoding': '32FC1',
            'meaning': 'share of normal pixels that scored lower; higher = more anomalous',
            'range': [0.0, 1.0],
        },
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
