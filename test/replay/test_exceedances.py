"""Realised rates: counted exactly, with intervals that know that frames hang together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vq_anomaly_ros.detection.calibration_file import RealisedRate
from vq_anomaly_ros.replay.exceedances import TARGETS, counts_above, name_of
from vq_anomaly_ros.replay.realised_rates import block_numbers, observed_rates


def observed(above: np.ndarray, pixels: np.ndarray) -> tuple[RealisedRate, ...]:
    return observed_rates(above, pixels, block_numbers([len(pixels)]), TARGETS)


@given(npst.arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32)))
def test_counts_are_those_of_the_masks(score: np.ndarray) -> None:
    expected = [np.count_nonzero(score > np.float32(1 - target)) for target in TARGETS]
    assert counts_above(score).tolist() == expected


def test_names_hold_no_dot_that_conditions_would_split() -> None:
    assert [name_of(t) for t in TARGETS] == ['1e-1', '3e-2', '1e-2', '3e-3', '1e-3', '3e-4', '1e-4']


def test_a_uniform_score_realises_its_targets() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.random(20_000, np.float32) for _ in range(60)]
    above = np.array([counts_above(frame) for frame in frames])
    for found in observed(above, np.full(60, 20_000)):
        assert found.rate == pytest.approx(found.target, rel=0.25)
        assert found.low <= found.rate <= found.high


def test_frames_that_hang_together_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 200, 40)
    pixels = np.full(400, 10_000)

    def width(first: np.ndarray) -> float:
        above = np.repeat(first[:, None], len(TARGETS), axis=1)
        found = observed(above, pixels)[0]
        return found.high - found.low

    together = np.repeat(counts, 10)
    assert width(together) > 1.5 * width(rng.permutation(together))


def test_few_frames_and_no_pixels_say_nothing() -> None:
    above = np.ones((9, len(TARGETS)), np.int64)
    assert observed(above, np.full(9, 10)) == ()
    assert observed(np.zeros((30, len(TARGETS)), np.int64), np.zeros(30, np.int64)) == ()
