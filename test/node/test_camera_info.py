"""Scaled intrinsics project a point to where the resized picture shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='ROS is not installed')
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from vq_anomaly_ros.node.camera_info import scaled_camera_info


def sensor(**fields: Any) -> CameraInfo:
    info = CameraInfo(width=1280, height=720, distortion_model='plumb_bob', **fields)
    info.d = [0.1, -0.2, 0.0, 0.0, 0.01]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.k = [900.0, 0.0, 640.5, 0.0, 910.0, 350.25, 0.0, 0.0, 1.0]
    info.p = [880.0, 0.0, 630.0, -88.0, 0.0, 885.0, 352.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def projected(info: CameraInfo, point: np.ndarray) -> np.ndarray:
    u = np.array(info.k).reshape(3, 3) @ point
    return u[:2] / u[2]


@given(st.integers(1, 2000), st.integers(1, 2000), st.tuples(*[st.floats(-2, 2)] * 2))
def test_a_point_falls_where_half_pixel_resizing_puts_it(
    height: int, width: int, where: tuple[float, float]
) -> None:
    info = sensor()
    point = np.array([*where, 3.0])
    scaled = scaled_camera_info(info, (height, width), Header())
    scale = np.array([width / 1280, height / 720])
    expected = (projected(info, point) + 0.5) * scale - 0.5
    np.testing.assert_allclose(projected(scaled, point), expected, atol=1e-6)
    assert (scaled.height, scaled.width) == (height, width)


def test_region_and_binning_lead_to_the_frame() -> None:
    info = sensor(binning_x=2, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 160, 100, 640, 400
    scaled = scaled_camera_info(info, (200, 320), Header())
    point = np.array([0.2, -0.1, 2.0])
    expected = (projected(info, point) - [160, 100] + 0.5) / 2 - 0.5
    np.testing.assert_allclose(projected(scaled, point), expected)
    assert (scaled.binning_x, scaled.roi.width) == (0, 0)


def test_the_baseline_scales_and_distortion_stays() -> None:
    scaled = scaled_camera_info(sensor(), (360, 320), Header(frame_id='lens'))
    assert scaled.header.frame_id == 'lens'
    assert scaled.p[3] == pytest.approx(-22.0)
    assert scaled.p[0] == pytest.approx(220.0) and scaled.p[5] == pytest.approx(442.5)
    assert list(scaled.d) == list(sensor().d) and list(scaled.r) == list(sensor().r)


def test_the_same_size_changes_nothing_and_no_calibration_stays_none() -> None:
    same = scaled_camera_info(sensor(), (720, 1280), Header())
    np.testing.assert_allclose(same.k, sensor().k)
    np.testing.assert_allclose(same.p, sensor().p)
    empty = scaled_camera_info(CameraInfo(width=8, height=8), (4, 4), Header())
    assert not np.any(empty.k) and not np.any(empty.p)
