"""Work that does not end is told once; what gives signs of life, or was stopped, has not hung."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.node.watchdog import PERIOD, Watchdog, Work


def watchdog(timeout: float) -> tuple[Watchdog, list[str]]:
    told: list[str] = []
    return Watchdog(timeout, lambda work: told.append(work.what)), told


@given(st.floats(0.1, 20.0), st.lists(st.floats(0.0, 3.0), max_size=80))
def test_work_is_told_once_when_its_time_is_over(timeout: float, ticks: list[float]) -> None:
    dog, told = watchdog(timeout)
    passed = 0.0
    with dog.watching('a frame'):
        for seconds in ticks:
            dog.tick(seconds)
            # A stopped process wakes up with one long tick: no more than two periods count.
            passed += min(seconds, 2 * PERIOD)
            assert told == (['a frame'] if passed >= timeout else [])


def test_what_has_ended_is_not_watched() -> None:
    dog, told = watchdog(1.0)
    with dog.watching('a frame') as work:
        assert dog.watches(work)
    assert not dog.watches(work)
    for _ in range(10):
        dog.tick(0.5)
    assert told == []


def test_a_sign_of_life_begins_the_time_anew() -> None:
    dog, told = watchdog(1.0)
    with dog.watching('the build of a plan'):
        for _ in range(20):
            dog.tick(0.4)
            dog.tick(0.4)
            dog.alive()
        assert told == []
        for _ in range(3):
            dog.tick(0.4)
        assert told == ['the build of a plan']


def test_a_timeout_of_zero_is_never_and_a_factor_is_patience() -> None:
    dog, told = watchdog(0.0)
    with dog.watching('a frame'), dog.watching('opening', factor=4.0):
        for _ in range(100):
            dog.tick(0.5)
        assert told == []
        dog.timeout = 20.0
        dog.tick(0.5)
        assert told == ['a frame']
        for _ in range(100):
            dog.tick(0.5)
        assert told == ['a frame', 'opening']


@pytest.mark.parametrize('fatal', [False, True])
def test_the_thread_tells_by_itself(fatal: bool) -> None:
    told: list[Work] = []
    came = threading.Event()

    def on_hang(work: Work) -> None:
        told.append(work)
        came.set()

    dog = Watchdog(0.3, on_hang)
    dog.start()
    with dog.watching('a frame', fatal):
        assert came.wait(60)
    dog.stop()
    dog.stop()
    assert [(work.what, work.fatal) for work in told] == [('a frame', fatal)]
