"""The newest frame of each camera, handed out in turn, and the counts.

A detector that is slower than its cameras must not queue: an old answer is worth less than a new
one. Each camera has one slot; a newer frame replaces the waiting one. The worker takes the slots
round robin, so a fast camera cannot starve a slow one, and of one camera one frame at a time, so
that they keep their order. Every frame is accounted for:

    received = published + superseded + rejected + failed + in flight

Plain Python: no ROS in it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

T = TypeVar('T')


class Outcome(Enum):
    """How the way of a frame that the worker took has ended."""

    PUBLISHED = 'published'
    REJECTED = 'rejected'
    FAILED = 'failed'


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the frames of one camera since the node was configured."""

    received: int = 0
    published: int = 0
    superseded: int = 0
    rejected: int = 0
    failed: int = 0
    in_flight: int = 0


class Taken(NamedTuple, Generic[T]):
    """A frame on its way through the worker; `arrived` is the clock's time of its arrival, s."""

    camera: str
    item: T
    arrived: float


class Pulse(NamedTuple):
    """Frames that the worker is through with, and seconds since the last one; nan before it."""

    ended: int
    age: float


class LatestFrames(Generic[T]):
    """One slot a camera; safe for any number of threads that put and that take."""

    def __init__(self, cameras: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Make empty, open slots for `cameras` (served in this order); `clock` gives seconds."""
        self.cameras = tuple(cameras)
        self._clock = clock
        self._waiting: dict[str, tuple[T, float]] = {}
        self._counters: dict[str, Counter[str]] = {camera: Counter() for camera in cameras}
        self._busy: dict[str, Taken[T]] = {}
        self._next = 0
        self._open = True
        self._changed = threading.Condition()
        self._ended = 0
        self._last_end = math.nan

    def put(self, camera: str, item: T) -> None:
        """Lay a frame into its camera's slot; one that still waits there is superseded."""
        with self._changed:
            if not self._open:
                return
            counter = self._counters[camera]
            counter['received'] += 1
            if camera in self._waiting:
                counter['superseded'] += 1
            self._waiting[camera] = (item, self._clock())
            self._changed.notify_all()

    def take(
        self, timeout: float | None = None, given_up: Callable[[], bool] = lambda: False
    ) -> Taken[T] | None:
        """Take the frame of the next camera in turn; wait for one if there is none.

        Args:
            timeout: seconds to wait at most; None waits until a frame comes or the slots close.
            given_up: whether the caller wants none any more; asked again at every `wake`.

        Returns:
            The frame, in flight until `finish`, and the only one of its camera until `let_next`;
            None at the timeout, when closed or given up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready() or not self._open or given_up(), timeout)
            if not self._open or given_up() or not (ready := self._ready()):
                return None
            order = self.cameras[self._next :] + self.cameras[: self._next]
            camera = next(camera for camera in order if camera in ready)
            self._next = (self.cameras.index(camera) + 1) % len(self.cameras)
            item, arrived = self._waiting.pop(camera)
            self._counters[camera]['working'] += 1
            self._busy[camera] = taken = Taken(camera, item, arrived)
            return taken

    def wake(self) -> None:
        """Let those who wait in `take` look whether they have given up."""
        with self._changed:
            self._changed.notify_all()

    def let_next(self, taken: Taken[T]) -> None:
        """Let the next frame of this one's camera be taken; idempotent."""
        with self._changed:
            if self._busy.get(taken.camera) is taken:
                del self._busy[taken.camera]
                self._changed.notify_all()

    def finish(self, taken: Taken[T], outcome: Outcome) -> None:
        """Count how the way of a frame has ended; its camera's next may be taken, too."""
        with self._changed:
            self.let_next(taken)
            counter = self._counters[taken.camera]
            counter['working'] -= 1
            counter[outcome.value] += 1
            self._ended += 1
            self._last_end = self._clock()
            self._changed.notify_all()

    def wait_through(self, camera: str, timeout: float) -> bool:
        """Wait until no frame of the camera waits or is in flight; False at the timeout, s."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_flight(camera), timeout)

    def pulse(self) -> Pulse:
        """Return whether the worker gets on: it only ever counts up while it does."""
        with self._changed:
            return Pulse(self._ended, self._clock() - self._last_end)

    def open(self) -> None:
        """Accept frames again after `close`; the counts go on."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Accept no more frames and wake the worker; frames that still wait are superseded."""
        with self._changed:
            self._open = False
            for camera in self._waiting:
                self._counters[camera]['superseded'] += 1
            self._waiting.clear()
            self._changed.notify_all()

    def counts(self, camera: str) -> Counts:
        """Return a consistent snapshot of one camera's counts."""
        with self._changed:
            counter = self._counters[camera]
            return Counts(
                received=counter['received'],
                published=counter['published'],
                superseded=counter['superseded'],
                rejected=counter['rejected'],
                failed=counter['failed'],
                in_flight=self._in_flight(camera),
            )

    def _ready(self) -> set[str]:
        return self._waiting.keys() - self._busy.keys()

    def _in_flight(self, camera: str) -> int:
        return self._counters[camera]['working'] + (camera in self._waiting)
