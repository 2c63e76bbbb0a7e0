"""Obstacles: connected parts of the anomaly mask, with box, size, score and class."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# A frame with more parts than this shows noise; only the largest are told.
MOST = 100


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One connected part (8 neighbours) of an anomaly mask.

    box: x, y, width, height in pixels of the published size, the upper left corner of the upper
    left pixel being (0, 0); area: its share of the picture, 0..1; score_mean, score_max:
    calibrated scores within it, 0..1; class_id: the most frequent predicted class within it, None
    for models without classes (what an anomaly looks most like, not what it is).
    """

    box: tuple[float, float, float, float]
    area: float
    score_mean: float
    score_max: float
    class_id: int | None = None


def find_obstacles(
    mask: np.ndarray,
    score: np.ndarray,
    labels: np.ndarray | None,
    size: tuple[int, int],
    min_area: float,
) -> tuple[Obstacle, ...]:
    """Obstacles of one frame, the largest first, at most MOST.

    Args:
        mask: uint8 [h, w], not 0 where anomalous.
        score: float32 [h, w], calibrated.
        labels: uint8 [h, w], class ids, or None.
        size: (height, width) in whose pixels the boxes are told.
        min_area: smallest share of the picture, 0..1; what is smaller is no obstacle.
    """
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA] / mask.size
    chosen = [part for part in np.argsort(-areas, kind='stable') if areas[part] >= min_area]
    scale = (size[1] / mask.shape[1], size[0] / mask.shape[0])
    return tuple(
        _obstacle(parts, stats[part + 1], int(part) + 1, score, labels, scale)
        for part in chosen[:MOST]
    )


def _obstacle(
    parts: np.ndarray,
    stats: np.ndarray,
    part: int,
    score: np.ndarray,
    labels: np.ndarray | None,
    scale: tuple[float, float],
) -> Obstacle:
    x, y, width, height = (int(value) for value in stats[:4])
    window = (slice(y, y + height), slice(x, x + width))
    inside = parts[window] == part
    scores = score[window][inside]
    classes = None if labels is None else np.bincount(labels[window][inside])
    return Obstacle(
        box=(x * scale[0], y * scale[1], width * scale[0], height * scale[1]),
        area=float(inside.sum()) / parts.size,
        score_mean=float(scores.mean(dtype=np.float64)),
        score_max=float(scores.max()),
        class_id=None if classes is None else int(classes.argmax()),
    )
