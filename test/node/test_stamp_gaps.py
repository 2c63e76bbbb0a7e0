"""Frames that never came are estimated from the stamps of those that did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.node.stamp_gaps import StampGaps


def lost(stamps: np.ndarray | list[float]) -> int:
    """The estimate for stamps in seconds."""
    gaps = StampGaps()
    for stamp in stamps:
        gaps.note(round(1e9 * stamp))
    return gaps.lost


def series(count: int, rate: float, jitter: float, seed: int) -> np.ndarray:
    """Stamps in seconds; jitter: largest deviation in periods."""
    deviations = np.random.default_rng(seed).uniform(-jitter, jitter, count)
    return 1e3 + (np.arange(count) + deviations) / rate


@given(st.floats(2.0, 120.0), st.floats(0.0, 0.1), st.integers(0, 99))
def test_a_steady_camera_loses_nothing(rate: float, jitter: float, seed: int) -> None:
    assert lost(series(300, rate, jitter, seed)) == 0


@given(st.floats(10.0, 60.0), st.floats(0.05, 0.5), st.integers(0, 99))
def test_random_losses_are_counted(rate: float, share: float, seed: int) -> None:
    came = np.random.default_rng(seed).random(400) >= share
    stamps = series(400, rate, 0.05, seed)[came]
    # Neither before the rate is known nor behind the last frame: a few are missed, none invented.
    assert -60 * share - 20 <= lost(stamps) - np.count_nonzero(~came) <= 0


@given(st.lists(st.integers(1, 8), min_size=1, max_size=10))
def test_bursts_of_losses_between_steady_frames_are_counted_exactly(bursts: list[int]) -> None:
    numbers = list(range(20))
    for burst in bursts:
        numbers += range(numbers[-1] + burst + 1, numbers[-1] + burst + 6)
    assert lost([number / 30 for number in numbers]) == sum(bursts)


@pytest.mark.parametrize(('before', 'after'), [(30, 10), (30, 5), (10, 30), (60, 20)])
def test_another_rate_is_no_loss(before: float, after: float) -> None:
    stamps = [number / before for number in range(100)]
    stamps += [stamps[-1] + (number + 1) / after for number in range(100)]
    assert lost(stamps) == 0


def test_a_pause_a_jump_back_and_equal_stamps_are_no_loss() -> None:
    drive = [number / 30 for number in range(100)]
    assert lost(drive + [stamp + 60 for stamp in drive]) == 0
    assert lost(drive + drive) == 0
    assert lost([stamp for stamp in drive for _ in range(2)]) == 0
    assert lost([0.0] * 100) == 0
