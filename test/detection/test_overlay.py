"""Pictures for people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.detection.overlay import colour_labels, overlay, score_heatmap
from vq_anomaly_ros.images import Frame

SIZE = (120, 200)


def detection(labels: np.ndarray | None, mask: np.ndarray) -> Detection:
    score = (mask / 255).astype(np.float32)
    return Detection(labels, score, mask, score, None)


@pytest.fixture
def frame() -> Frame:
    return Frame(np.full((*SIZE, 3), 100, np.uint8), 'bgr')


def test_labels_take_the_colours_of_the_palette_in_bgr_order() -> None:
    labels = np.array([[0, 1, 255], [1, 2, 0]], np.uint8)
    colours = colour_labels(labels, ((1, 2, 3), (40, 50, 60)))
    assert colours.tolist() == [
        [[3, 2, 1], [60, 50, 40], [0, 0, 0]],
        [[60, 50, 40], [0, 0, 0], [3, 2, 1]],
    ]


def test_labels_without_a_palette_are_black() -> None:
    assert not colour_labels(np.zeros((3, 4), np.uint8), ()).any()


def test_the_heatmap_gets_brighter_with_the_score() -> None:
    heat = score_heatmap(np.array([[0.0, 0.9, 0.99, 0.999, 1.0]], np.float32))
    assert heat.shape == (1, 5, 3)
    assert (np.diff(heat.astype(int).sum(axis=2)[0]) > 0).all()


@pytest.mark.parametrize('order', ['bgr', 'rgb', 'mono'])
@pytest.mark.parametrize('size', [SIZE, (30, 50)])
def test_the_overlay_has_the_size_of_the_frame(tiny_info, order, size) -> None:
    shape = SIZE if order == 'mono' else (*SIZE, 3)
    frame = Frame(np.full(shape, 100, np.uint8), order)
    found = detection(np.zeros(size, np.uint8), np.zeros(size, np.uint8))
    result = overlay(frame, found, tiny_info)
    assert result.shape == (*SIZE, 3)
    assert result.dtype == np.uint8


def test_classes_lie_lightly_over_the_picture(frame, tiny_info) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 100:] = 255
    found = detection(labels, np.zeros(SIZE, np.uint8))
    result = overlay(frame, found, tiny_info, opacity=0.5, legend=False)
    red, green, blue = tiny_info.palette[0]
    expected = [(100 + blue) / 2, (100 + green) / 2, (100 + red) / 2]
    assert np.abs(result[:, :100] - expected).max() <= 1
    assert (result[:, 100:] == 100).all()


def test_no_opacity_leaves_the_picture(frame, tiny_info) -> None:
    found = detection(np.ones(SIZE, np.uint8), np.zeros(SIZE, np.uint8))
    result = overlay(frame, found, tiny_info, opacity=0, legend=False)
    assert np.array_equal(result, frame.pixels)


@pytest.mark.parametrize('with_labels', [True, False])
def test_anomalies_are_outlined_and_tinted(frame, tiny_info, with_labels) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[40:80, 60:120] = 255
    labels = np.zeros(SIZE, np.uint8) if with_labels else None
    plain = overlay(frame, detection(labels, np.zeros_like(mask)), tiny_info, legend=False)
    marked = overlay(frame, detection(labels, mask), tiny_info, legend=False)
    changed = (marked != plain).any(axis=2)
    assert changed[40:80, 60:120].all()
    assert not changed[:36].any()
    assert not changed[:, 125:].any()
    blue, green, red = marked[60, 90].astype(int)
    assert red > blue > green, 'inside it is pink'
    outline = marked[60, 58:62].astype(int)
    assert (outline[:, 2] > red).any(), 'the outline is stronger than the inside'


def test_obstacles_are_framed_and_numbered_and_the_region_outlined(frame, tiny_info) -> None:
    region = np.zeros(SIZE, bool)
    region[50:] = True
    plain = detection(None, np.zeros(SIZE, np.uint8))
    thing = Obstacle((20.0, 60.0, 30.0, 20.0), 0.1, 0.9, 0.9)
    framed = dataclasses.replace(plain, obstacles=(dataclasses.replace(thing, track=7),))
    before = overlay(frame, plain, tiny_info, legend=False)
    after = overlay(frame, framed, tiny_info, legend=False)
    rows, columns = np.nonzero((before != after).any(axis=2))
    assert {60, 80} <= set(rows) and {20, 50} <= set(columns)
    assert rows.min() < 60, 'the number stands above'
    assert not (before != after)[65:75, 25:45].any()
    # One that was seen in a single frame has no number, and no frame.
    alone = dataclasses.replace(plain, obstacles=(thing,))
    assert np.array_equal(overlay(frame, alone, tiny_info, legend=False), before)
    outlined = overlay(frame, dataclasses.replace(plain, region=region), tiny_info, legend=False)
    changed = (outlined != before).any(axis=2)
    assert changed[49:52].any() and not changed[:45].any() and not changed[60:70, 20:180].any()


def test_frame_and_detection_are_left_alone(frame, tiny_info, picture) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20, 10:20] = 255
    found = detection(np.zeros(SIZE, np.uint8), mask.copy())
    overlay(frame, found, tiny_info)
    assert (frame.pixels == 100).all()
    assert np.array_equal(found.anomaly_mask, mask)
    assert not found.labels.any()


def test_read_only_padded_frames_can_be_drawn_over(tiny_info) -> None:
    pixels = np.full((SIZE[0], SIZE[1] + 9, 3), 100, np.uint8)
    pixels.setflags(write=False)
    found = detection(np.zeros(SIZE, np.uint8), np.full(SIZE, 255, np.uint8))
    assert overlay(Frame(pixels[:, : SIZE[1]], 'bgr'), found, tiny_info).shape == (*SIZE, 3)


def test_the_legend_names_what_is_seen(frame, tiny_info) -> None:
    """The chips in the strip at the bottom have the colours of the classes in sight, only."""
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 150:] = 2
    info = dataclasses.replace(tiny_info, classes=('a', 'b', 'c', 'd'))
    found = detection(labels, np.zeros(SIZE, np.uint8))
    with_legend = overlay(frame, found, info)
    without = overlay(frame, found, info, legend=False)
    strip = with_legend[-14:].reshape(-1, 3).tolist()
    assert np.array_equal(with_legend[:-14], without[:-14])
    seen = [list(info.palette[i][::-1]) in strip for i in range(4)]
    assert seen == [True, False, True, False]


@pytest.mark.parametrize('size', [(1, 1), (5, 300), (300, 5), (13, 13)])
def test_small_frames_can_be_drawn_over(tiny_info, size) -> None:
    found = detection(np.zeros((16, 32), np.uint8), np.full((16, 32), 255, np.uint8))
    frame = Frame(np.zeros((*size, 3), np.uint8), 'rgb')
    assert overlay(frame, found, tiny_info).shape == (*size, 3)
