"""Newest-frame slots: accounting and fairness under random interleavings."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vq_anomaly_ros.node.latest_frames import Counts, LatestFrames, Outcome, Taken

CAMERAS = ('/front', '/rear', '/left')
camera_names = st.sampled_from(CAMERAS)


class SlotsAgainstModel(RuleBasedStateMachine):
    """Any order of put, take, finish, close and open, against a naive model."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: LatestFrames[int] = LatestFrames(CAMERAS)
        self.waiting: dict[str, int] = {}
        self.in_work: list[str] = []
        self.ended: Counter[tuple[str, str]] = Counter()
        self.served: list[str] = []
        self.since: dict[str, int] = {}
        self.number = 0
        self.is_open = True

    @rule(camera=camera_names)
    def put(self, camera: str) -> None:
        self.number += 1
        self.frames.put(camera, self.number)
        if self.is_open:
            self.ended[camera, 'received'] += 1
            self.ended[camera, 'superseded'] += camera in self.waiting
            self.waiting[camera] = self.number
            self.since.setdefault(camera, len(self.served))

    @rule()
    def take(self) -> None:
        taken = self.frames.take(timeout=0)
        if not self.waiting or not self.is_open:
            assert taken is None
            return
        assert taken is not None
        assert taken.item == self.waiting.pop(taken.camera), 'not the newest frame of the camera'
        self.served.append(taken.camera)
        self.in_work.append(taken.camera)
        begun = self.since.pop(taken.camera)
        others = self.served[begun:-1]
        assert taken.camera not in others
        assert len(others) == len(set(others)), 'another camera was served twice while it waited'

    @precondition(lambda self: self.in_work)
    @rule(outcome=st.sampled_from(Outcome))
    def finish(self, outcome: Outcome) -> None:
        camera = self.in_work.pop(0)
        self.frames.finish(camera, outcome)
        self.ended[camera, outcome.value] += 1

    @rule()
    def close(self) -> None:
        self.frames.close()
        for camera in self.waiting:
            self.ended[camera, 'superseded'] += 1
        self.waiting.clear()
        self.since.clear()
        self.is_open = False

    @rule()
    def open(self) -> None:
        self.frames.open()
        self.is_open = True

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        for camera in CAMERAS:
            counts = self.frames.counts(camera)
            in_flight = self.in_work.count(camera) + (camera in self.waiting)
            assert counts == Counts(
                in_flight=in_flight,
                **{
                    name: self.ended[camera, name]
                    for name in ('received', 'published', 'superseded', 'rejected', 'failed')
                },
            )
            assert counts.received == (
                counts.published
                + counts.superseded
                + counts.rejected
                + counts.failed
                + counts.in_flight
            )


TestSlotsAgainstModel = SlotsAgainstModel.TestCase


@given(st.permutations(CAMERAS), st.integers(1, 5))
def test_all_waiting_cameras_are_served_in_turn(order: list[str], rounds: int) -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    served = []
    for _ in range(rounds * len(CAMERAS)):
        for camera in order:
            frames.put(camera, 0)
        taken = frames.take(timeout=0)
        assert taken is not None
        served.append(taken.camera)
    assert served == list(CAMERAS) * rounds


def test_a_frame_keeps_the_time_of_its_arrival() -> None:
    times = iter([10.0, 11.5])
    frames: LatestFrames[str] = LatestFrames(['/front'], clock=lambda: next(times))
    frames.put('/front', 'old')
    frames.put('/front', 'new')
    assert frames.take(timeout=0) == Taken('/front', 'new', 11.5)


def test_take_waits_for_a_frame_and_close_wakes_it() -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    threading.Timer(0.05, frames.put, ('/rear', 7)).start()
    taken = frames.take(timeout=30)
    assert taken is not None and taken.item == 7
    threading.Timer(0.05, frames.close).start()
    assert frames.take() is None
