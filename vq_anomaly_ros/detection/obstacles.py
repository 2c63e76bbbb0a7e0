"""Obstacles: connected parts of the anomaly mask, with box, size, score and class."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# A frame with more parts than this shows noise; only the largest are told.
MOST = 100
# What is labelled ground nearly all over is a cover, a stain or a shadow, and no thing on it.
_SURFACE = 0.95
# Positions of the score map: what is thinner is an edge, or joins two things.
_THINNEST = np.ones((3, 3), np.uint8)
# Rows and columns around the foot of a part where the ground is looked for.
_AROUND = np.ones((3, 7), np.uint8)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One connected part (8 neighbours) of an anomaly mask.

    box: x, y, width, height in pixels of the published size, the upper left corner of the upper
    left pixel being (0, 0); area: its share of the picture, 0..1; score_mean, score_max:
    calibrated scores within it, 0..1; class_id: the most frequent predicted class within it, None
    for models without classes (what an anomaly looks most like, not what it is); around: share of
    ground around its foot, 0..1, in the region 'road', else None; track: number of the thing that
    it is, frames: in how many of the camera's frames it was seen so far; missed: frames since then,
    for which the box is moved on (see `tracks`).
    """

    box: tuple[float, float, float, float]
    area: float
    score_mean: float
    score_max: float
    class_id: int | None = None
    around: float | None = None
    track: int | None = None
    frames: int = 1
    missed: int = 0


def find_obstacles(
    mask: np.ndarray,
    score: np.ndarray,
    labels: np.ndarray | None,
    size: tuple[int, int],
    min_area: float,
    growth: float = 0.0,
    ground: np.ndarray | None = None,
) -> tuple[Obstacle, ...]:
    """Obstacles of one frame, the largest first, at most MOST.

    Args:
        mask: uint8 [h, w], not 0 where anomalous.
        score: float32 [h, w], calibrated.
        labels: uint8 [h, w], class ids, or None.
        size: (height, width) in whose pixels the boxes are told.
        min_area: smallest share of the picture, 0..1; what is smaller is no obstacle.
        growth: how min_area grows with nearness, see `least_areas`.
        ground: bool [h, w], where the labels say so. If given, thin bits of the mask are left out
            and flat parts are no obstacles, and `around` is told of the others.
    """
    if ground is not None:
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _THINNEST)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA] / mask.size
    feet = stats[1:, cv2.CC_STAT_TOP] + stats[1:, cv2.CC_STAT_HEIGHT]
    enough = areas >= least_areas(feet / mask.shape[0], min_area, growth)
    chosen = [part for part in np.argsort(-areas, kind='stable') if enough[part]]
    scale = (size[1] / mask.shape[1], size[0] / mask.shape[0])
    found = (
        _obstacle(parts, stats[part + 1], int(part) + 1, score, labels, scale, ground)
        for part in chosen[:MOST]
    )
    return tuple(obstacle for obstacle in found if obstacle is not None)


def least_areas(feet: np.ndarray, min_area: float, growth: float) -> np.ndarray:
    """Smallest area, a share of the picture, of parts whose lowest points are at `feet`.

    feet: float [N], 0 at the upper edge of the picture, 1 at the lower one. A thing of a given size
    appears larger the nearer it is, and on level ground the nearer, the lower its foot: the least
    area is min_area down to the middle of the picture, where the horizon is about, and grows to
    min_area (1 + growth)^2 at the lower edge.
    """
    nearness = np.maximum(0.0, 2 * np.asarray(feet, np.float64) - 1)
    return np.asarray(min_area * (1 + growth * nearness) ** 2)


def _obstacle(
    parts: np.ndarray,
    stats: np.ndarray,
    part: int,
    score: np.ndarray,
    labels: np.ndarray | None,
    scale: tuple[float, float],
    ground: np.ndarray | None,
) -> Obstacle | None:
    x, y, width, height = (int(value) for value in stats[:4])
    window = (slice(y, y + height), slice(x, x + width))
    inside = parts[window] == part
    around = None
    if ground is not None:
        if ground[window][inside].mean() >= _SURFACE:
            return None
        around = _ground_around(parts, ground, part, (x, y, width, height))
    scores = score[window][inside]
    classes = None if labels is None else np.bincount(labels[window][inside])
    return Obstacle(
        box=(x * scale[0], y * scale[1], width * scale[0], height * scale[1]),
        area=float(inside.sum()) / parts.size,
        score_mean=float(scores.mean(dtype=np.float64)),
        score_max=float(scores.max()),
        class_id=None if classes is None else int(classes.argmax()),
        around=around,
    )


def _ground_around(
    parts: np.ndarray, ground: np.ndarray, part: int, box: tuple[int, int, int, int]
) -> float:
    """Share of ground right around the lower half of a part; 1 where nothing is to be seen."""
    x, y, width, height = box
    middle = y + height // 2
    reach = _AROUND.shape[0] // 2, _AROUND.shape[1] // 2
    window = (
        slice(middle, y + height + reach[0]),
        slice(max(0, x - reach[1]), x + width + reach[1]),
    )
    foot = parts[window] == part
    near = cv2.dilate(foot.astype(np.uint8), _AROUND) > 0
    seen = ground[window][near & ~foot]
    return float(seen.mean()) if seen.size else 1.0
