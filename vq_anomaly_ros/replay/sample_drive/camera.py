"""A pinhole camera over flat ground.

World axes: x right of the street's start, y up, z along the street, in metres. Camera axes: x
right, y down, z forward. Pixel centres are at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEAR = 0.35
"""Metres before the camera where geometry is cut."""


@dataclass(frozen=True)
class Camera:
    """Pose and lens of one frame.

    `size` is (height, width) in pixels, `focal` in pixels, `position` in metres, `yaw` (to the
    right) and `pitch` (downwards) in radians.
    """

    size: tuple[int, int]
    focal: float
    position: tuple[float, float, float]
    yaw: float
    pitch: float

    @cached_property
    def rotation(self) -> np.ndarray:
        """float64 [3,3], rows are the camera's axes in the world."""
        sin_yaw, cos_yaw = np.sin(self.yaw), np.cos(self.yaw)
        sin_pitch, cos_pitch = np.sin(self.pitch), np.cos(self.pitch)
        right = (cos_yaw, 0.0, -sin_yaw)
        up = (sin_yaw * sin_pitch, cos_pitch, cos_yaw * sin_pitch)
        forward = (sin_yaw * cos_pitch, -sin_pitch, cos_yaw * cos_pitch)
        return np.array([right, np.negative(up), forward])

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the principal point in pixels."""
        return (self.size[1] - 1) / 2, (self.size[0] - 1) / 2

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """float64 [3,3]."""
        x, y = self.centre
        return np.array([[self.focal, 0, x], [0, self.focal, y], [0, 0, 1.0]])

    @property
    def horizon(self) -> float:
        """Row of the horizon, in pixels (may lie outside the picture)."""
        return self.centre[1] - self.focal * np.tan(self.pitch)

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points [N,3] in camera axes [N,3]."""
        return (np.asarray(points, float) - self.position) @ self.rotation.T

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Points in camera axes [N,3], all with z > 0, to pixels [N,2] (x, y)."""
        return self.focal * points[:, :2] / points[:, 2:] + self.centre

    def project(self, points: np.ndarray) -> np.ndarray | None:
        """A convex polygon [N,3] of the world as pixels [M,2], cut at `NEAR`; None if behind."""
        cut = clip_near(self.to_camera(points))
        return None if len(cut) < 3 else self.to_pixels(cut)

    def homography(self, origin: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
        """float64 [3,3] that takes (a, b, 1) of the plane origin + a*right + b*down to pixels."""
        columns = np.stack([right, down, np.subtract(origin, self.position)], axis=1)
        return self.intrinsics @ self.rotation @ columns


def clip_near(points: np.ndarray) -> np.ndarray:
    """A convex polygon in camera axes [N,3] cut at z = `NEAR` (Sutherland-Hodgman), [M,3]."""
    inside = points[:, 2] >= NEAR
    if inside.all():
        return points
    kept: list[np.ndarray] = []
    for i in range(len(points)):
        here, before = points[i], points[i - 1]
        if inside[i] != inside[i - 1]:
            share = (NEAR - before[2]) / (here[2] - before[2])
            kept.append(before + share * (here - before))
        if inside[i]:
            kept.append(here)
    return np.array(kept).reshape(-1, 3)
