"""Obstacles: parts of the mask against scipy's labelling, closed-form boxes and scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from vq_anomaly_ros.detection.obstacles import MOST, Obstacle, find_obstacles

SIZE = (8, 16)
MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def test_one_obstacle_in_closed_form() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:5, 4:6] = 255
    score = np.zeros(SIZE, np.float32)
    score[2:5, 4:6] = [[0.5, 1.0], [0.5, 0.5], [0.5, 0.0]]
    labels = np.zeros(SIZE, np.uint8)
    labels[2:5, 4] = 3
    (found,) = find_obstacles(mask, score, labels, (80, 320), 0.0)
    assert found == Obstacle((80.0, 20.0, 40.0, 30.0), 6 / 128, 0.5, 1.0, class_id=0)


def test_the_most_frequent_class_and_none_without_classes() -> None:
    mask = np.full(SIZE, 255, np.uint8)
    labels = np.full(SIZE, 2, np.uint8)
    labels[:3] = 1
    score = np.ones(SIZE, np.float32)
    assert find_obstacles(mask, score, labels, SIZE, 0.0)[0].class_id == 2
    assert find_obstacles(mask, score, None, SIZE, 0.0)[0].class_id is None


@given(MASKS)
def test_parts_are_those_of_scipy_largest_first(mask: np.ndarray) -> None:
    score = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    found = find_obstacles(mask.astype(np.uint8) * 255, score, None, mask.shape, 0.0)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    assert len(found) == count
    expected = set()
    for part, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        inside = score[parts == part]
        expected.add((box, round(inside.size / mask.size, 9), round(float(inside.max()), 6)))
    assert {(o.box, round(o.area, 9), round(o.score_max, 6)) for o in found} == expected
    assert sorted((o.area for o in found), reverse=True) == [o.area for o in found]


@given(MASKS, st.floats(0.01, 0.5))
def test_small_parts_are_no_obstacles(mask: np.ndarray, least: float) -> None:
    score = np.ones(mask.shape, np.float32)
    image = mask.astype(np.uint8)
    everything = find_obstacles(image, score, None, mask.shape, 0.0)
    kept = find_obstacles(image, score, None, mask.shape, least)
    assert kept == tuple(o for o in everything if o.area >= least)


def test_a_noisy_mask_gives_the_largest_only() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[::2, ::2] = 255
    mask[0:2, 0:2] = 255
    score = np.ones(mask.shape, np.float32)
    found = find_obstacles(mask, score, None, mask.shape, 0.0)
    assert len(found) == MOST
    assert found[0].area > found[1].area
