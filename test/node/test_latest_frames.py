"""Newest-frame slots: accounting, fairness and the worker's life, under random interleavings."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vq_anomaly_ros.node.latest_frames import Counts, FrameWorker, LatestFrames, Outcome, Taken

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


def test_counts_hold_under_real_threads() -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    worker = FrameWorker(frames, lambda taken: None, lambda *_: None, ValueError)
    worker.start()
    senders = [
        threading.Thread(target=lambda c=camera: [frames.put(c, i) for i in range(2000)])
        for camera in CAMERAS
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    while any(frames.counts(camera).in_flight for camera in CAMERAS):
        pass
    worker.stop()
    for camera in CAMERAS:
        counts = frames.counts(camera)
        assert counts.received == 2000
        assert counts.published + counts.superseded == 2000
        assert counts.published > 0
        assert counts.in_flight == 0


def test_an_error_is_counted_told_and_survived() -> None:
    frames: LatestFrames[Exception | None] = LatestFrames(['/front'])
    told: list[tuple[str, Outcome, Exception]] = []
    done = threading.Semaphore(0)

    def process(taken: Taken[Exception | None]) -> None:
        done.release()
        if taken.item is not None:
            raise taken.item

    worker = FrameWorker(frames, process, lambda *args: told.append(args), ValueError)
    worker.start()
    errors = [ValueError('bad frame'), UnicodeError('a kind of ValueError'), RuntimeError('engine')]
    for item in [*errors, None]:
        frames.put('/front', item)
        assert done.acquire(timeout=30)
        while frames.counts('/front').in_flight:
            pass
    worker.stop()
    assert told == [
        ('/front', Outcome.REJECTED, errors[0]),
        ('/front', Outcome.REJECTED, errors[1]),
        ('/front', Outcome.FAILED, errors[2]),
    ]
    assert frames.counts('/front') == Counts(received=4, published=1, rejected=2, failed=1)


def test_stop_waits_for_the_frame_in_work_and_drops_the_waiting_one() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    begun, may_end = threading.Event(), threading.Event()

    def process(taken: Taken[int]) -> None:
        begun.set()
        assert may_end.wait(30)

    worker = FrameWorker(frames, process, lambda *_: None, ValueError)
    worker.start()
    frames.put('/front', 1)
    assert begun.wait(30)
    frames.put('/front', 2)
    threading.Timer(0.1, may_end.set).start()
    worker.stop()
    assert frames.counts('/front') == Counts(received=2, published=1, superseded=1)
    worker.stop()


@pytest.mark.parametrize('restarts', [1, 3])
def test_counts_go_on_after_a_restart(restarts: int) -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    worker = FrameWorker(frames, lambda taken: None, lambda *_: None, ValueError)
    for run in range(restarts + 1):
        worker.start()
        frames.put('/front', run)
        while frames.counts('/front').in_flight:
            pass
        worker.stop()
        frames.put('/front', -1)  # not listening: not received
    assert frames.counts('/front') == Counts(received=restarts + 1, published=restarts + 1)
