"""Flicker: what is in one frame only, in closed form."""

from __future__ import annotations

import numpy as np

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.replay.flicker import Alone, FlickerCounter, shares_alone

SIZE = (30, 40)


def seen(*corners: tuple[int, int], told: tuple[int, ...] = ()) -> Detection:
    """A frame with squares of 4x4 at (row, column), of which the mask keeps the left half."""
    alarms = np.zeros(SIZE, np.uint8)
    for row, column in corners:
        alarms[row : row + 4, column : column + 4] = 255
    mask = alarms.copy()
    mask[:, 20:] = 0
    score = np.ones(SIZE, np.float32)
    obstacles = tuple(Obstacle((0, 0, 1, 1), 0.1, 1, 1, track=number) for number in told)
    return Detection(None, score, mask, score, None, obstacles, alarms)


def test_what_is_in_one_frame_only_is_alone() -> None:
    counter = FlickerCounter()
    assert counter.add(seen((5, 5), told=(1,))) is None
    assert counter.add(seen((5, 5), (20, 5), (20, 30), told=(1, 2))) is None
    alone = counter.add(seen((5, 5), told=(1,)))
    assert alone == Alone(48, 32, 32, 16, 3, 2, 2, 1)
    assert counter.add(seen((5, 6), told=(1, 3))) == Alone(16, 0, 16, 0, 1, 0, 1, 0)
    assert shares_alone([alone]) == {
        'pixels_before': 32 / 48,
        'pixels_after': 0.5,
        'parts_before': 2 / 3,
        'parts_after': 0.5,
    }


def test_a_small_step_is_no_flicker_and_a_large_one_is() -> None:
    counter = FlickerCounter()
    for column in (5, 7, 9):
        found = counter.add(seen((5, column)))
    assert found is not None and found.pixels_before_alone == 0
    counter = FlickerCounter()
    for column in (5, 25, 5):
        found = counter.add(seen((5, column)))
    assert found is not None and found.pixels_before_alone == found.pixels_before == 16


def test_nothing_seen_has_no_share() -> None:
    counter = FlickerCounter()
    for _ in range(3):
        found = counter.add(seen())
    assert found == Alone(*[0] * 8)
    assert set(shares_alone([found]).values()) == {None}
    assert set(shares_alone([]).values()) == {None}


def test_recorded_results_without_plain_alarms_are_passed_over() -> None:
    counter, score = FlickerCounter(), np.ones(SIZE, np.float32)
    recorded = Detection(None, score, np.zeros(SIZE, np.uint8), score, None)
    assert [counter.add(recorded) for _ in range(4)] == [None] * 4
