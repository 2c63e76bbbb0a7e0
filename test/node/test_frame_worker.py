"""The two threads of a frame's way: overlap, bounded queues, accounting, and how they end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from vq_anomaly_ros.node.frame_worker import FrameWorker
from vq_anomaly_ros.node.latest_frames import Counts, LatestFrames, Outcome, Taken

CAMERAS = ('/front', '/rear', '/left')
PATIENCE = 30


def nothing(*_: Any) -> None:
    pass


def worker_of(
    frames: LatestFrames[Any],
    detect: Callable[[Taken[Any]], Any] = nothing,
    publish: Callable[[Taken[Any], Any], None] = nothing,
    on_error: Callable[[str, Outcome, Exception], None] = nothing,
) -> FrameWorker[Any, Any]:
    return FrameWorker(frames, detect, publish, on_error, ValueError)


class Gate:
    """Holds whoever comes until it opens."""

    def __init__(self) -> None:
        self.reached, self.opens = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.reached.set()
        assert self.opens.wait(PATIENCE)


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def whole(counts: Counts) -> bool:
    ended = counts.published + counts.superseded + counts.rejected + counts.failed
    return counts.received == ended + counts.in_flight


def test_counts_hold_under_real_threads() -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    worker = worker_of(frames)
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

    worker = worker_of(frames, process, on_error=lambda *args: told.append(args))
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


def test_who_tells_of_errors_may_fail_too() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])

    def fail(*_: Any) -> None:
        raise MemoryError

    worker = worker_of(frames, publish=fail, on_error=fail)
    worker.start()
    for number in range(3):
        frames.put('/front', number)
        wait_until(lambda: not frames.counts('/front').in_flight)
    worker.stop()
    assert frames.counts('/front') == Counts(received=3, failed=3)
    assert worker.untold == 3


def test_stop_waits_for_the_frame_in_work_and_drops_the_waiting_one() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    gate = Gate()
    worker = worker_of(frames, gate)
    worker.start()
    frames.put('/front', 1)
    assert gate.reached.wait(PATIENCE)
    frames.put('/front', 2)
    threading.Timer(0.1, gate.opens.set).start()
    worker.stop()
    assert frames.counts('/front') == Counts(received=2, published=1, superseded=1)
    worker.stop()


@pytest.mark.parametrize('restarts', [1, 3])
def test_counts_go_on_after_a_restart(restarts: int) -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    worker = worker_of(frames)
    for run in range(restarts + 1):
        worker.start()
        frames.put('/front', run)
        while frames.counts('/front').in_flight:
            pass
        worker.stop()
        frames.put('/front', -1)  # not listening: not received
    assert frames.counts('/front') == Counts(received=restarts + 1, published=restarts + 1)


def test_the_next_frame_is_detected_while_one_is_published_in_order() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    detected: list[int] = []
    published: list[tuple[int, int]] = []
    second = threading.Event()

    def detect(taken: Taken[int]) -> int:
        detected.append(taken.item)
        if taken.item == 2:
            second.set()
        return 10 * taken.item

    def publish(taken: Taken[int], result: int) -> None:
        if taken.item == 1:
            assert second.wait(PATIENCE), 'frame 2 was never looked at meanwhile'
        published.append((taken.item, result))

    worker = worker_of(frames, detect, publish)
    worker.start()
    for number in (1, 2, 3):
        wait_until(lambda number=number: len(detected) == number - 1)
        frames.put('/front', number)
    wait_until(lambda: len(published) == 3)
    worker.stop()
    assert published == [(1, 10), (2, 20), (3, 30)]


def test_a_publisher_that_is_stuck_holds_three_frames_and_no_more() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    go_on = threading.Event()
    worker = worker_of(frames, publish=lambda *_: go_on.wait(PATIENCE))
    worker.start()
    for number in range(200):
        frames.put('/front', number)
        time.sleep(0.001)
        assert whole(frames.counts('/front'))
    # published, handed over, detected; and one in the slot
    assert frames.counts('/front').in_flight == 4
    go_on.set()
    wait_until(lambda: not frames.counts('/front').in_flight)
    worker.stop()
    assert frames.counts('/front').published == 4


def test_an_error_while_publishing_is_counted_and_survived() -> None:
    frames: LatestFrames[int] = LatestFrames(['/front'])
    told: list[tuple[str, Outcome, Exception]] = []
    error = RuntimeError('no memory for the message')

    def publish(taken: Taken[int], result: None) -> None:
        if taken.item == 1:
            raise error

    worker = worker_of(frames, publish=publish, on_error=lambda *args: told.append(args))
    worker.start()
    for number in (1, 2):
        frames.put('/front', number)
        wait_until(lambda: not frames.counts('/front').in_flight)
    worker.stop()
    assert told == [('/front', Outcome.FAILED, error)]
    assert frames.counts('/front') == Counts(received=2, published=1, failed=1)


@pytest.mark.parametrize('stage', ['detect', 'publish'])
def test_an_abandoned_worker_leaves_its_frames_failed_and_the_next_one_alone(stage: str) -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    gate, closed = Gate(), threading.Event()
    hung = worker_of(frames, **{stage: gate})
    hung.start()
    frames.put('/front', 1)
    assert gate.reached.wait(PATIENCE)
    assert not hung.stop(patience=0.05)
    hung.abandon(closed.set)
    assert hung.hangs
    assert frames.counts('/front') == Counts(received=1, failed=1)
    fresh = worker_of(frames)
    fresh.start()
    for number in range(20):
        frames.put('/rear', number)
        wait_until(lambda: not frames.counts('/rear').in_flight)
    gate.opens.set()
    assert closed.wait(PATIENCE), 'it closes its engine when it comes back'
    wait_until(lambda: not hung.hangs)
    assert fresh.stop(PATIENCE)
    assert frames.counts('/front') == Counts(received=1, failed=1), 'it is not counted twice'
    assert frames.counts('/rear').published >= 19
    assert all(whole(frames.counts(camera)) for camera in CAMERAS)


def test_an_idle_detector_of_an_abandoned_worker_takes_no_frame_of_its_successor() -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    gate = Gate()
    hung = FrameWorker(frames, gate, nothing, nothing, ValueError, detectors=3)
    hung.start()
    frames.put('/front', 1)
    assert gate.reached.wait(PATIENCE)
    hung.abandon(nothing)
    fresh = worker_of(frames)
    fresh.start()
    for number in range(20):
        frames.put('/rear', number)
        assert frames.wait_through('/rear', PATIENCE)
    gate.opens.set()
    assert fresh.stop(PATIENCE)
    assert frames.counts('/front') == Counts(received=1, failed=1)
    assert frames.counts('/rear') == Counts(received=20, published=20)


def test_several_detectors_look_at_several_cameras_each_in_order() -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    meet, calls = threading.Barrier(2), itertools.count()
    at_it: set[str] = set()
    seen: list[tuple[str, int]] = []

    def detect(taken: Taken[int]) -> None:
        assert taken.camera not in at_it, 'two frames of a camera at once'
        at_it.add(taken.camera)
        if next(calls) < 2:
            meet.wait(PATIENCE)  # the first two are looked at at the same time, or this breaks
        time.sleep(0.001)
        at_it.discard(taken.camera)

    worker = FrameWorker(
        frames, detect, lambda taken, _: seen.append((taken.camera, taken.item)), nothing,
        ValueError, detectors=2,
    )  # fmt: skip
    worker.start()
    for number in range(50):
        for camera in CAMERAS:
            frames.put(camera, number)
        time.sleep(0.002)
    for camera in CAMERAS:
        assert frames.wait_through(camera, PATIENCE)
    worker.stop()
    for camera in CAMERAS:
        numbers = [number for name, number in seen if name == camera]
        assert numbers == sorted(numbers)
        counts = frames.counts(camera)
        assert counts == Counts(50, len(numbers), 50 - len(numbers))
    assert not meet.broken


def test_detectors_that_wait_do_not_keep_the_publisher_from_its_last_frame() -> None:
    frames: LatestFrames[int] = LatestFrames(CAMERAS)
    gate = Gate()
    worker = FrameWorker(frames, gate, nothing, nothing, ValueError, detectors=3)
    worker.start()
    frames.put('/front', 1)
    assert gate.reached.wait(PATIENCE)
    threading.Timer(0.1, gate.opens.set).start()
    assert worker.stop(PATIENCE)
    assert frames.counts('/front') == Counts(received=1, published=1)
