"""Figures of health against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.node.health import (
    CameraHealth,
    CounterWindow,
    Hysteresis,
    Judgement,
    LatencyWindow,
    Level,
    Limits,
    Percentiles,
    Recent,
    Throttle,
    judge,
)
from vq_anomaly_ros.node.latest_frames import Counts

QUIET = Recent(10.0, 10.0, 100, 100, 0, 0, 0)


def test_percentiles_of_a_ramp() -> None:
    window = LatencyWindow(window=1000)
    for i in range(101):
        window.add(float(i), i / 100)
    assert window.percentiles(100.0) == pytest.approx((0.50, 0.95, 0.99))


def test_latencies_leave_the_window() -> None:
    window = LatencyWindow(window=10)
    window.add(0.0, 5.0)
    window.add(8.0, 1.0)
    assert window.percentiles(10.0).p50 == pytest.approx(3.0)
    assert window.percentiles(10.1).p50 == pytest.approx(1.0)
    assert all(math.isnan(p) for p in window.percentiles(18.1))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_percentiles_are_ordered_and_within_the_samples(latencies: list[float]) -> None:
    window = LatencyWindow()
    for latency in latencies:
        window.add(0.0, latency)
    p50, p95, p99 = window.percentiles(0.0)
    assert min(latencies) <= p50 <= p95 <= p99 <= max(latencies)
    assert p50 == np.median(latencies)


def test_rates_over_the_window() -> None:
    counters = CounterWindow(0.0, Counts(), window=10)
    for t in range(1, 21):
        recent = counters.add(float(t), Counts(received=20 * t, published=5 * t, superseded=15 * t))
    assert recent == Recent(20.0, 5.0, 200, 50, 150, 0, 0)


def test_rates_before_the_window_is_full_and_after_the_camera_stopped() -> None:
    counters = CounterWindow(100.0, Counts(received=7, published=7), window=10)
    assert counters.add(102.0, Counts(received=27, published=17)).received_rate == 10.0
    for t in range(103, 113):
        recent = counters.add(float(t), Counts(received=27, published=17))
    assert recent.received_rate == 0.0
    assert counters.silence(112.0) == 10.0


def test_silence_counts_from_the_last_arrival() -> None:
    counters = CounterWindow(0.0, Counts())
    assert counters.silence(3.0) == 3.0
    counters.add(4.0, Counts(received=1))
    counters.add(5.0, Counts(received=1, rejected=1))
    assert counters.silence(6.0) == 2.0


@pytest.mark.parametrize(
    ('changes', 'silence', 'level', 'word'),
    [
        ({}, 0.0, Level.OK, 'running'),
        ({}, 2.5, Level.WARN, 'no frame for 2.5 s'),
        ({'rejected': 3}, 0.0, Level.WARN, '3 frames rejected'),
        ({'superseded': 50}, 0.0, Level.OK, 'running'),
        ({'superseded': 51}, 0.0, Level.WARN, '51% of the frames superseded'),
        ({'failed': 1, 'rejected': 1}, 9.0, Level.ERROR, '1 frames failed'),
        ({'received': 0, 'published': 0}, 0.0, Level.OK, 'running'),
    ],
)
def test_judgement(changes: dict[str, int], silence: float, level: Level, word: str) -> None:
    judgement = judge(QUIET._replace(**changes), silence, Limits(silence=2.0, superseded=0.5))
    assert judgement.level is level
    assert word in judgement.message


def test_the_level_rises_at_once_and_falls_after_calm() -> None:
    hysteresis = Hysteresis(calm=3)
    ok, warn = Judgement(Level.OK, 'running'), Judgement(Level.WARN, 'slow')
    error = Judgement(Level.ERROR, 'broken')
    seen = [hysteresis.update(j).level for j in (ok, warn, ok, ok, warn, error, warn, ok, ok, ok)]
    assert seen == [0, 1, 1, 1, 1, 2, 2, 2, 0, 0]
    hysteresis.update(warn)
    assert hysteresis.update(ok).message == 'recovering: slow'


def test_throttle_lets_one_a_period_and_key_pass() -> None:
    throttle = Throttle(period=1.0)
    times = [0.0, 0.2, 0.99, 1.0, 1.5, 2.5]
    assert [throttle.go('a', t) for t in times] == [0, None, None, 2, None, 1]
    assert throttle.go('b', 0.5) == 0


def test_the_figures_of_a_camera() -> None:
    health = CameraHealth(0.0, Counts())
    counts = Counts(received=30, published=20, superseded=6, rejected=1, failed=2, in_flight=1)
    judgement, figures = health.report(10.0, counts, Percentiles(0.0125, 0.02, 0.0305), Limits())
    assert judgement.level is Level.ERROR
    assert figures == {
        'fps': '2.00',
        'input fps': '3.00',
        'latency p50 ms': '12.5',
        'latency p95 ms': '20.0',
        'latency p99 ms': '30.5',
        'received': '30',
        'published': '20',
        'superseded': '6',
        'rejected': '1',
        'failed': '2',
        'in flight': '1',
    }
