"""Notices work that does not end. Plain Python: no ROS in it.

A native call that hangs cannot be interrupted from Python, only noticed: from a thread of its own,
by a steady clock, because the thread that hangs can do neither.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PERIOD = 0.25


class Work:
    """Something that has begun and should end; `age`: seconds for which nothing was heard of it."""

    def __init__(self, what: str, fatal: bool, factor: float) -> None:
        """Begin; see Watchdog.watching."""
        self.what = what
        self.fatal = fatal
        self.factor = factor
        self.age = 0.0
        self.told = False


class Watchdog:
    """Watches pieces of work from a thread of its own, and tells once of each that hangs."""

    def __init__(
        self,
        timeout: float,
        on_hang: Callable[[Work], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch nothing yet.

        Args:
            timeout: seconds without a sign of life after which work hangs; 0 is never. It may be
                changed at any time.
            on_hang: told of work that hangs, on the watchdog's thread.
            clock: a steady clock, seconds.
        """
        self.timeout = timeout
        self._on_hang = on_hang
        self._clock = clock
        self._works: set[Work] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name='watchdog', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; idempotent."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def watching(self, what: str, fatal: bool = False, factor: float = 1.0) -> Iterator[Work]:
        """Watch the block.

        Args:
            what: it does, for the log.
            fatal: handed on to `on_hang`: the thread that works there is needed to recover.
            factor: how much longer than `timeout` it may take.
        """
        work = Work(what, fatal, factor)
        with self._lock:
            self._works.add(work)
        try:
            yield work
        finally:
            with self._lock:
                self._works.discard(work)

    def watches(self, work: Work) -> bool:
        """Return whether the work has not ended."""
        with self._lock:
            return work in self._works

    def alive(self) -> None:
        """Take a sign of life: what takes minutes (the build of a plan) tells of its progress."""
        with self._lock:
            for work in self._works:
                work.age = 0.0

    def tick(self, seconds: float) -> None:
        """Let so many seconds pass, and tell of what hangs now.

        At most two periods count: a process that was stopped (SIGSTOP, a suspended machine) has
        not hung meanwhile.
        """
        with self._lock:
            for work in self._works:
                work.age += min(seconds, 2 * PERIOD)
            hung = [work for work in self._works if self._hangs(work)]
            for work in hung:
                work.told = True
        for work in hung:
            self._on_hang(work)

    def _hangs(self, work: Work) -> bool:
        return 0 < self.timeout * work.factor <= work.age and not work.told

    def _run(self) -> None:
        before = self._clock()
        while not self._stopped.wait(PERIOD):
            now = self._clock()
            self.tick(now - before)
            before = now
