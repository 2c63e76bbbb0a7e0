"""The vehicle itself: a bonnet below a street that moves is found, a street alone is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.detection.regions import polygon_mask
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.ego_vehicle import EgoFinder, ego_of, seen_on_all

SIZE = (96, 160)
FRAMES = 40
TOP = 0.85


def street(step: int) -> np.ndarray:
    """Noise that moves on, and two lines that stay where they are."""
    noise = np.random.default_rng(0).normal(size=(SIZE[0], SIZE[1] * 3, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    picture = np.clip(128 + 250 * smooth, 0, 255).astype(np.uint8)
    picture = picture[:, 4 * step : 4 * step + SIZE[1]].copy()
    cv2.line(picture, (70, 48), (10, 95), (250, 250, 250), 2)
    cv2.line(picture, (90, 48), (150, 95), (250, 250, 250), 2)
    return picture


def with_bonnet(picture: np.ndarray, step: int) -> np.ndarray:
    x = np.arange(SIZE[1])
    top = SIZE[0] * (TOP + 0.08 * ((x - 80) / 80) ** 2)
    bonnet = np.arange(SIZE[0])[:, None] >= top
    grain = np.random.default_rng(step).normal(40, 2, (*SIZE, 1))
    painted = picture.copy()
    painted[bonnet] = np.clip(np.broadcast_to(grain, picture.shape), 0, 255)[bonnet]
    return painted


def test_a_bonnet_is_found_to_a_few_percent_of_the_picture() -> None:
    frames = [Frame(with_bonnet(street(step), step), 'bgr') for step in range(FRAMES)]
    (polygon,) = ego_of([frames[0], 'no picture', *frames[1:]])
    assert all(0 <= value <= 1 for corner in polygon for value in corner)
    mask = polygon_mask(polygon, SIZE)
    x = np.arange(SIZE[1])
    truth = np.arange(SIZE[0])[:, None] >= SIZE[0] * (TOP + 0.08 * ((x - 80) / 80) ** 2)
    assert np.count_nonzero(mask != truth) < 0.03 * mask.size
    assert np.count_nonzero(mask & truth) > 0.9 * np.count_nonzero(truth)


@pytest.mark.parametrize('bonnet', [False, True])
def test_lines_of_a_street_and_a_vehicle_that_stands_are_none(bonnet: bool) -> None:
    if bonnet:
        pictures = [with_bonnet(street(0), 0)] * FRAMES
    else:
        pictures = [street(step) for step in range(FRAMES)]
    finder = EgoFinder()
    for picture in pictures:
        finder.add(Frame(picture, 'bgr'))
    assert finder.polygons() == []


def test_few_frames_say_nothing() -> None:
    assert ego_of([]) == []
    frames = [Frame(with_bonnet(street(step), step), 'bgr') for step in range(10)]
    assert ego_of(frames) == []


def test_what_not_all_drives_show_is_no_vehicle() -> None:
    small = [[[0.0, 0.9], [1.0, 0.9], [1.0, 1.0], [0.0, 1.0]]]
    large = [[[0.0, 0.8], [1.0, 0.8], [1.0, 1.0], [0.0, 1.0]]]
    assert seen_on_all([large, small]) == small
    assert seen_on_all([large, []]) == seen_on_all([]) == []
