"""The intrinsics of a camera, for the pictures that the detector publishes of it."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header


def scaled_camera_info(info: CameraInfo, size: tuple[int, int], header: Header) -> CameraInfo:
    """Return the CameraInfo of results of `size` (height, width) under `header`.

    `info` speaks of the sensor; binning and region of interest lead from there to the frame, the
    stretch to `size` from there to the result. The centre of the upper left pixel is (0, 0) and
    results are resized about pixel edges, so with s = result size / sensor size

        fx' = s fx,  cx' = s (cx - x_offset + 1/2) - 1/2,  Tx' = s Tx

    (rows of K and P; likewise for y). Distortion and rectification stay; the result has no binning
    and no region of interest. K and P of an uncalibrated camera are zero and stay so.
    """
    region = info.roi
    width = region.width or info.width
    height = region.height or info.height
    offset = np.array([region.x_offset, region.y_offset], float)
    scale = np.array([size[1] / max(width, 1), size[0] / max(height, 1)])
    result = CameraInfo(header=header, height=size[0], width=size[1])
    result.distortion_model, result.d, result.r = info.distortion_model, info.d, info.r
    result.k = _scaled(np.array(info.k, float).reshape(3, 3), scale, offset)
    result.p = _scaled(np.array(info.p, float).reshape(3, 4), scale, offset)
    return result


def _scaled(matrix: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """K or P [3, n] of the sensor -> of the result, flat [3 n]."""
    matrix = matrix.copy()
    if matrix[2, 2] != 0:  # not calibrated
        matrix[:2, 2] += 0.5 - offset
        matrix[:2] *= scale[:, None]
        matrix[:2, 2] -= 0.5
    return matrix.reshape(-1)
