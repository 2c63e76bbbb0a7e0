"""What a GPU engine says against what the model file says on a CPU, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vq_anomaly_ros.detection.engines import Engine, EngineError, open_cpu_engine
from vq_anomaly_ros.detection.model_file import ModelFile

SCORE_LIMIT = 1e-2  # largest mean difference over a frame, as a share of the score's range
LABEL_LIMIT = 0.995


def verified(engine: Engine, model: ModelFile, frames: Sequence[np.ndarray]) -> dict[str, Any]:
    """Compare an engine that `takes_frames` with the model on a CPU.

    frames: uint8 [H, W, 3] RGB of one size. Returns `frames`; `score`: largest difference of a
    position as a share of the score's range; `score_99`: that which 99 % of the positions stay
    below; `labels`: share that agrees; `passed`: whether score_99 <= SCORE_LIMIT and labels >=
    LABEL_LIMIT. On the CPU the frames are stretched exactly, as the GPU does it, so that what is
    compared is the engine. Raises EngineError.
    """
    if not frames:
        raise EngineError(f'{model.path}: there are no frames to verify on')
    outputs = ['score', *(['labels'] if model.info.classes else [])]
    reference = open_cpu_engine(model, outputs)
    low, high = model.info.score_range
    differences, agreeing = [], []
    try:
        for frame in frames:
            expected = _expected(reference, model, frame)
            engine.input_buffer(1, frame.shape[:2])[0] = frame
            found = engine.infer(1, frame.shape[:2])
            differences.append(np.abs(found['score'][0] - expected['score'][0]) / (high - low))
            if 'labels' in expected:
                agreeing.append(np.mean(found['labels'][0] == expected['labels'][0]))
    finally:
        reference.close()
    every = np.stack(differences)
    share = float(np.quantile(every, 0.99))
    labels = float(np.mean(agreeing)) if agreeing else 1.0
    return {
        'frames': len(frames),
        'engine': engine.description,
        'reference': reference.description,
        'score': float(every.max()),
        'score_99': share,
        'labels': labels,
        'passed': bool(share <= SCORE_LIMIT and labels >= LABEL_LIMIT),
    }


def _expected(reference: Engine, model: ModelFile, frame: np.ndarray) -> dict[str, np.ndarray]:
    height, width = model.info.input_size
    reference.input_buffer(1)[0] = cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_LINEAR_EXACT
    )
    return reference.infer(1)
