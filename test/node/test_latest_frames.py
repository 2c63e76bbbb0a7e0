"""Newest-frame slots: accounting and fairness under random interleavings."""

from __future__ import annotations

import threading
from collections import Counter
from unittest.mock import ANY

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
        self.in_work: list[Taken[int]] = []
        self.busy: set[str] = set()
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
        if not self.waiting.keys() - self.busy or not self.is_open:
            assert taken is None
            return
        assert taken is not None
        assert taken.camera not in self.busy, 'a second frame of a camera is looked at'
        self.busy.add(taken.camera)
        assert taken.item == self.waiting.pop(taken.camera), 'not the newest frame of the camera'
        self.served.append(taken.camera)
        self.in_work.append(taken)
        begun = self.since.pop(taken.camera)
        others = self.served[begun:-1]
        assert taken.camera not in others
        assert len(others) == len(set(others)), 'another camera was served twice while it waited'

    @precondition(lambda self: self.in_work)
    @rule(data=st.data())
    def let_next(self, data: st.DataObject) -> None:
        taken = data.draw(st.sampled_from(self.in_work))
        self.frames.let_next(taken)
        self.no_longer_busy(taken)

    @precondition(lambda self: self.in_work)
    @rule(outcome=st.sampled_from(Outcome), data=st.data())
    def finish(self, outcome: Outcome, data: st.DataObject) -> None:
        taken = self.in_work.pop(data.draw(st.integers(0, len(self.in_work) - 1)))
        self.frames.finish(taken, outcome)
        self.no_longer_busy(taken)
        self.ended[taken.camera, outcome.value] += 1

    def no_longer_busy(self, taken: Taken[int]) -> None:
        """The last frame of its camera lets the next in; an older one has no say any more."""
        newer = [
            one for one in self.in_work if one.camera == taken.camera and one.item > taken.item
        ]
        if not newer:
            self.busy.discard(taken.camera)
            # It could not be served before: a camera that is looked at does not wait.
            if taken.camera in self.since:
                self.since[taken.camera] = len(self.served)

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
            working = sum(taken.camera == camera for taken in self.in_work)
            in_flight = working + (camera in self.waiting)
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
        frames.let_next(taken)
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


def test_a_camera_whose_frame_is_looked_at_does_not_hold_up_the_others() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front', '/rear'])
    frames.put('/front', 1)
    first = frames.take(timeout=0)
    assert first is not None
    frames.put('/front', 2)
    assert frames.take(timeout=0) is None
    frames.put('/rear', 3)
    assert frames.take(timeout=0) == Taken('/rear', 3, ANY)
    frames.let_next(first)
    assert frames.take(timeout=0) == Taken('/front', 2, ANY)


def test_whoever_waits_for_a_camera_is_told_when_its_last_frame_is_through() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front', '/rear'])
    frames.put('/rear', 0)
    frames.put('/front', 1)
    assert frames.wait_through('/front', 0.01) is False
    taken = next(one for one in iter(frames.take, None) if one.camera == '/front')
    threading.Timer(0.05, frames.finish, (taken, Outcome.PUBLISHED)).start()
    assert frames.wait_through('/front', 30)
    assert frames.counts('/front') == Counts(received=1, published=1)
