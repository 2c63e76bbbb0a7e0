"""The two threads that a frame goes through: one detects, the other publishes what it found.

Frame n + 1 is detected while frame n is published; between the two there is room for one frame, so
that a slow subscriber slows the detector down instead of making results old. Several threads may
detect, each a frame of another camera; one publishes. Plain Python: no ROS.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from vq_anomaly_ros.node.latest_frames import LatestFrames, Outcome, Taken

T = TypeVar('T')
Result = TypeVar('Result')


class Handover(Generic[T]):
    """Room for one thing between a thread that gives and one that takes."""

    def __init__(self) -> None:
        """Be empty and open."""
        self._things: list[T] = []
        self._open = True
        self._changed = threading.Condition()

    def give(self, thing: T) -> None:
        """Wait until there is room and leave the thing there; once closed, drop it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._things or not self._open)
            if self._open:
                self._things.append(thing)
                self._changed.notify_all()

    def take(self) -> T | None:
        """Wait for a thing; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._things or not self._open)
            if not self._things:
                return None
            self._changed.notify_all()
            return self._things.pop()

    def close(self, drop: bool = False) -> None:
        """Take nothing more in; what is there can still be taken, unless it is dropped."""
        with self._changed:
            self._open = False
            if drop:
                self._things.clear()
            self._changed.notify_all()


class FrameWorker(Generic[T, Result]):
    """Takes frames in turn, has them detected and published, and counts how each ended."""

    def __init__(
        self,
        frames: LatestFrames[T],
        detect: Callable[[Taken[T]], Result],
        publish: Callable[[Taken[T], Result], None],
        on_error: Callable[[str, Outcome, Exception], None],
        rejected_by: type[Exception],
        detectors: int = 1,
    ) -> None:
        """Prepare the threads.

        Args:
            frames: the slots to serve.
            detect: makes the result of a frame; on a detector's thread.
            publish: returns when the result is published; on the publisher's thread.
            on_error: told (camera, outcome, error) whenever one of the two raised, on its thread;
                where it raises itself, that is counted in `untold`.
            rejected_by: the exception that blames the frame (counted as rejected); every other
                blames the detector (counted as failed). Neither stops the worker.
            detectors: threads that detect.
        """
        self._frames = frames
        self._detect = detect
        self._publish = publish
        self._on_error = on_error
        self._rejected_by = rejected_by
        self._detectors = detectors
        self._handover: Handover[tuple[Taken[T], Result]] = Handover()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._unfinished: list[Taken[T]] = []
        self._running = 0
        self.untold = 0
        self._at_last: Callable[[], None] | None = None

    def start(self) -> None:
        """Open the slots and start the threads; not after `abandon`."""
        self._frames.open()
        self._handover = Handover()
        # Daemons: should a frame hang in a driver, a second signal can still end the process.
        names = ['detector', *(f'detector {n}' for n in range(2, self._detectors + 1))]
        self._running = self._detectors + 1
        self._threads = [
            *(threading.Thread(target=self._run_detector, name=n, daemon=True) for n in names),
            threading.Thread(target=self._run_publisher, name='publisher', daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, patience: float | None = None) -> bool:
        """Close the slots and wait until the frames in work are published; idempotent.

        Returns False where that took longer than `patience` seconds; `abandon` it then.
        """
        self._frames.close()
        end = None if patience is None else time.monotonic() + patience
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
            if thread.is_alive():
                return False
        self._threads.clear()
        return True

    def abandon(self, at_last: Callable[[], None]) -> None:
        """Leave threads that hang to themselves: their frames have failed, they take no others.

        at_last: called by the last of them, should it ever come back.
        """
        with self._lock:
            self._at_last = at_last
            unfinished, self._unfinished = self._unfinished, []
            came_back = not self._running
        self._handover.close(drop=True)
        self._frames.wake()  # an idle detector must not take what is meant for its successor
        if came_back:
            at_last()
        for taken in unfinished:
            self._frames.finish(taken, Outcome.FAILED)

    @property
    def abandoned(self) -> bool:
        """Whether it was left to itself."""
        return self._at_last is not None

    @property
    def hangs(self) -> bool:
        """Whether it was left to itself and has not come back since."""
        return self.abandoned and any(thread.is_alive() for thread in self._threads)

    def _run_detector(self) -> None:
        while (taken := self._next()) is not None:
            try:
                result = self._detect(taken)
            # Whatever a frame or an engine does, the next frame gets its chance.
            except Exception as error:
                self._fail(taken, error)
            else:
                self._handover.give((taken, result))
                self._frames.let_next(taken)
        self._leave()

    def _run_publisher(self) -> None:
        while (given := self._handover.take()) is not None:
            taken, result = given
            try:
                self._publish(taken, result)
            except Exception as error:
                self._fail(taken, error)
            else:
                self._finish(taken, Outcome.PUBLISHED)
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            only_publisher = self._running == 1
            at_last = None if self._running else self._at_last
        if only_publisher:
            self._handover.close()
        if at_last is not None:
            at_last()

    def _next(self) -> Taken[T] | None:
        taken = self._frames.take(given_up=lambda: self.abandoned)
        if taken is None:
            return None
        with self._lock:
            if not self.abandoned:
                self._unfinished.append(taken)
                return taken
        # Taken just when another thread was found to hang.
        self._frames.finish(taken, Outcome.FAILED)
        return None

    def _fail(self, taken: Taken[T], error: Exception) -> None:
        outcome = Outcome.REJECTED if isinstance(error, self._rejected_by) else Outcome.FAILED
        try:
            self._on_error(taken.camera, outcome, error)
        # Without memory nothing can be told; the thread is needed for the next frame all the same.
        except Exception:
            self.untold += 1
        self._finish(taken, outcome)

    def _finish(self, taken: Taken[T], outcome: Outcome) -> None:
        """Count the end of a frame's way, unless `abandon` has."""
        with self._lock:
            left = [one for one in self._unfinished if one is not taken]
            counted, self._unfinished = len(left) == len(self._unfinished), left
        if not counted:
            self._frames.finish(taken, outcome)
