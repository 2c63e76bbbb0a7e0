"""What befalls a node from below: its engine, its process, memory, disk and network."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vq_anomaly_ros.replay.processes import ProcessError
from vq_anomaly_ros.trials import loopback
from vq_anomaly_ros.trials.camera import FINE, frame
from vq_anomaly_ros.trials.harness import Setting, SkippedError, Trial
from vq_anomaly_ros.trials.moody_model import Mood
from vq_anomaly_ros.trials.peer import expect

_LEFT = 20 << 20  # bytes; a frame of 4K has 25 million


def engine_throws(setting: Setting) -> None:
    """Every third frame makes the runtime throw: it fails, the others are answered."""
    _fail(setting, Mood.THROWS)


def engine_returns_nan(setting: Setting) -> None:
    """Every third frame makes the network return NaN: it fails, the others are answered."""
    _fail(setting, Mood.NAN)


def _fail(setting: Setting, mood: Mood) -> None:
    before = sum(counts.failed for counts in setting.counts())
    count = setting.times(20)
    for _ in range(count):
        for camera in setting.cameras:
            camera.send(frame(mood))
            # One at a time: superseded frames would not fail.
            setting.counts()
            camera.expect_answer('between two frames that fail')
    failed = sum(counts.failed for counts in setting.counts()) - before
    expect(failed == count * len(setting.cameras), f'{failed} frames failed')
    expect(setting.node.status(setting.front.name).level == 2, 'failed frames are no ERROR')


def engine_hangs(setting: Setting) -> None:
    """A frame never ends: it is told, has failed, and a fresh engine goes on."""
    setting.front.send(frame(Mood.HANGS))
    told = setting.peer.spin_until(lambda: 'the engine hangs' in setting.node.output)
    expect(told, 'the hang is not told')
    start = time.monotonic()
    setting.expect_answers('after a hang')
    setting.notes['answered_after_s'] = round(time.monotonic() - start, 2)
    figures = setting.node.status().figures
    expect(figures['engine reopened'] == '1', f'reopened {figures["engine reopened"]} times')
    expect(sum(counts.failed for counts in setting.counts()) == 1, 'not one frame failed')


def process_stands_still(setting: Setting) -> None:
    """SIGSTOP for longer than engine_timeout, SIGCONT: it goes on, and nothing counts as a hang."""
    for _ in range(setting.times(3)):
        with setting.front.streaming(20.0):
            setting.peer.spin_for(0.3)
            setting.node.child.stop()
            setting.peer.spin_for(2.5)
            setting.node.child.go_on()
        setting.expect_answers('after SIGCONT')
    reopened = setting.node.status().figures['engine reopened']
    expect(reopened == '0', 'a process that stood still counted as a hang')


def memory_runs_out(setting: Setting) -> None:
    """Not one large frame fits into the memory that is left: each fails or is lost, it lives.

    What is left is enough for the middleware, which aborts the process where it gets none.
    """
    large = frame(FINE, (2160, 3840))
    front = setting.front
    front.expect_answer('of 4K', large)
    with _limited(setting, resource.RLIMIT_AS, lambda used: used + _LEFT):
        for _ in range(setting.times(20)):
            front.send(large)
            setting.peer.spin_for(0.1)
        setting.node.child.check()
    frame.cache_clear()
    counts = setting.counts()[0]
    setting.notes['failed_without_memory'] = counts.failed + counts.rejected


def disk_is_full(setting: Setting) -> None:
    """Nothing can be written any more, not even the log (files of the process may not grow)."""
    size = setting.node.child.log.stat().st_size
    # At the end of its log: sockets and shared memory that is there are no matter of it.
    with _limited(setting, resource.RLIMIT_FSIZE, lambda _: size):
        for _ in range(setting.times(10)):
            setting.front.send(frame(Mood.THROWS))
            setting.front.expect_answer('while nothing can be written')
    expect(setting.node.child.log.stat().st_size >= size, 'the log was cut')


@contextmanager
def _limited(setting: Setting, what: int, limit: Callable[[int], int]) -> Iterator[None]:
    """Limit the node's process; `limit` is told the bytes of address space that it uses."""
    pid = setting.node.child.pid
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[0])
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit(pages * resource.getpagesize()), before[1]))
    try:
        yield
    finally:
        try:
            resource.prlimit(pid, what, before)
        except ProcessLookupError as error:
            raise ProcessError(f'the node has died:\n{setting.node.output}') from error


def network_is_parted(setting: Setting) -> None:
    """The loopback interface goes down and comes up again: shortly, and longer than DDS's lease."""
    if not loopback.is_own():
        raise SkippedError('no network of its own: user namespaces are not allowed here')
    for seconds in (3.0, 25.0 * setting.scale):
        loopback.set_up(False)
        setting.peer.spin_for(0.5)  # what was on its way has arrived
        setting.front.forget()
        stamp = setting.front.send()
        with setting.front.streaming(10.0):
            setting.peer.spin_for(seconds)
        expect(not setting.front.answered(stamp), 'a frame went through: the network is whole')
        loopback.set_up(True)
        name = f'answered_after_{seconds:.0f}_s_parted'
        setting.notes[name] = round(setting.expect_answers('after the partition'), 1)


TRIALS = (
    Trial('the engine throws', engine_throws),
    Trial('the engine returns NaN', engine_returns_nan),
    Trial('the engine hangs', engine_hangs, {'engine_timeout': 1.0}, may_leave_threads=True),
    Trial('SIGSTOP and SIGCONT', process_stands_still, {'engine_timeout': 1.0}),
    Trial('memory runs out', memory_runs_out, may_leave_threads=True, in_tests=False),
    Trial('the disk is full', disk_is_full),
    Trial('DDS is parted', network_is_parted, in_tests=False),
)
