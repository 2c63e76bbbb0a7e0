"""What the node does about an engine that hangs: says so, and reopens it or ends the process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from rclpy.lifecycle import LifecycleNode

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.node.frame_worker import FrameWorker
from vq_anomaly_ros.node.health import Hysteresis, Judgement, Level
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.pipeline import Pipeline
from vq_anomaly_ros.node.watchdog import Watchdog, Work

# EX_TEMPFAIL of sysexits.h: try again.
EXIT_CODE = 75
# Each thread that hangs holds an engine: a process with so many is better started anew.
MOST_HANGING = 3
# To open an engine is to read files and load libraries, and takes longer than a frame.
_OPENING = 6.0
_LAST_RESORT = 5.0


class Rescue:
    """Watches the worker and gets the node out of a hang.

    reopened: how often the engine was; given_up: whether the process is to end with EXIT_CODE;
    end: called when it is, on the executor's thread.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, tell: Callable[[], None]) -> None:
        """Start to watch; `tell` publishes diagnostics (on the executor's thread)."""
        self.reopened = 0
        self.given_up = False
        self.end: Callable[[], None] = lambda: None
        self._node = node
        self._tell = tell
        self._hung: Work | None = None
        self._sentence = ''
        self._hysteresis = Hysteresis()
        self._pipeline: Pipeline | None = None
        self._past: list[FrameWorker[Any, Any]] = []
        self._wake = node.create_guard_condition(self._recover)
        self.watchdog = Watchdog(settings.engine_timeout, self._on_hang)
        self.change(settings)
        self.watchdog.start()

    def change(self, settings: Settings) -> None:
        """Use parameters that were changed at run time."""
        self.watchdog.timeout = settings.engine_timeout
        self._exits = settings.engine_hang == 'exit'

    def opening(self, what: str = 'opening the engine') -> AbstractContextManager[Work]:
        """Watch the block: should it hang, the process ends, for only the executor could help."""
        return self.watchdog.watching(what, fatal=True, factor=_OPENING)

    def guard(self, pipeline: Pipeline | None) -> None:
        """Look after this pipeline from now on; those who hang in the last one stay counted."""
        if self._pipeline is not None:
            self._past = [w for w in (*self._past, *self._pipeline.abandoned) if w.hangs]
        self._pipeline = pipeline

    @property
    def hanging(self) -> int:
        """Abandoned threads that have not come back."""
        left = [] if self._pipeline is None else self._pipeline.abandoned
        return sum(worker.hangs for worker in (*self._past, *left))

    def judgement(self, usual: Judgement) -> Judgement:
        """Return `usual`, or that the engine hangs, or hung a moment ago; once a diagnostics."""
        sentence, self._sentence = self._sentence, ''
        return self._hysteresis.update(Judgement(Level.ERROR, sentence) if sentence else usual)

    def figures(self) -> dict[str, str]:
        """For diagnostics: how often it was needed, and what still hangs."""
        return {'engine reopened': str(self.reopened), 'hanging threads': str(self.hanging)}

    def close(self) -> None:
        """Watch no more."""
        self.watchdog.stop()
        self._node.destroy_guard_condition(self._wake)

    def _on_hang(self, work: Work) -> None:
        """Say it and wake the executor; on the watchdog's thread."""
        sentence = f'{work.what} has not ended in {work.age:.1f} s: the engine hangs'
        self._node.get_logger().error(sentence)
        if work.fatal:
            end_now()
        self._hung, self._sentence = work, sentence
        self._wake.trigger()

    def _recover(self) -> None:
        """Reopen the engine or give up; on the executor's thread."""
        work, pipeline = self._hung, self._pipeline
        # It may have come back meanwhile, or the node was deactivated, which abandons it, too.
        if work is None or pipeline is None or not pipeline.hangs_on(work):
            return
        self._tell()
        pipeline.abandon()
        if self._exits or self.hanging > MOST_HANGING:
            self._give_up()
            return
        try:
            with self.opening('reopening the engine'):
                pipeline.reopen()
        except (ValueError, OSError, EngineError) as error:
            self._node.get_logger().error(f'the engine cannot be reopened: {error}')
            self._give_up()
            return
        self.reopened += 1
        self._node.get_logger().warning(
            f'the engine was reopened; {self.hanging} threads of this process hang'
        )

    def _give_up(self) -> None:
        self.given_up = True
        self._node.get_logger().fatal(
            f'the process ends with exit code {EXIT_CODE}, to be started again '
            '(detector.launch.py: respawn:=true)'
        )
        # Should what is released now hang as well.
        last_resort = threading.Timer(_LAST_RESORT, end_now)
        last_resort.daemon = True
        last_resort.start()
        self.end()


def end_now(code: int = EXIT_CODE) -> None:
    """End the process at once: at the interpreter's end a thread in native code may hang, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
