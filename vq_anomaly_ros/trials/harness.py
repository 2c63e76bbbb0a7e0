"""One trial: a node, its cameras, something that befalls them, and what must hold afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vq_anomaly_ros.node.latest_frames import Counts
from vq_anomaly_ros.replay.processes import ProcessError
from vq_anomaly_ros.trials.camera import Camera
from vq_anomaly_ros.trials.detector_process import DetectorProcess, Usage
from vq_anomaly_ros.trials.moody_model import BACKEND, write_moody_model
from vq_anomaly_ros.trials.peer import Peer, TrialError, expect
from vq_anomaly_ros.trials.stage import Stage

CAMERAS = ('/front', '/rear', '/left')
# Threads that DDS makes and ends as it meets others.
_COMING_AND_GOING = 2


class SkippedError(Exception):
    """A trial cannot be made here; the message says why."""


@dataclass
class Setting:
    """What a trial works with.

    scale: how much of it, 1.0 as recorded; notes: figures that the trial wants told.
    """

    stage: Stage
    stack: ExitStack
    peer: Peer
    node: DetectorProcess
    cameras: tuple[Camera, ...]
    scale: float
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def front(self) -> Camera:
        """The first camera."""
        return self.cameras[0]

    def times(self, count: int) -> int:
        """Scale a number of repetitions; at least one."""
        return max(1, round(count * self.scale))

    def counts(self) -> list[Counts]:
        """Return the counts of all cameras, once nothing is in flight; they add up."""
        found: list[Counts] = []

        def at_rest() -> bool:
            found[:] = [self.node.counts(camera.name) for camera in self.cameras]
            return not any(counts.in_flight for counts in found)

        expect(self.peer.spin_until(at_rest), f'frames stay in flight: {found}')
        return found

    def expect_answers(self, what: str) -> float:
        """Every camera is answered; returns the seconds that the slowest took."""
        return max(camera.expect_answer(what) for camera in self.cameras)


@dataclass(frozen=True)
class Trial:
    """Something that befalls a node.

    title: for the table; befall: does it and checks what must hold meanwhile; parameters: of the
    node; may_leave_threads: whether it leaves threads that cannot be ended (a hung engine);
    in_tests: whether the test suite makes it, too.
    """

    title: str
    befall: Callable[[Setting], None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    may_leave_threads: bool = False
    in_tests: bool = True

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return self.befall.__name__


def run(trial: Trial, stage: Stage, scale: float = 1.0, settle: bool = True) -> dict[str, Any]:
    """Run a trial with a fresh node; returns its row, with `outcome` 'held', 'failed', 'skipped'.

    settle: wait until the diagnostics are calm again, which takes their window of ten seconds.
    """
    start = time.monotonic()
    row: dict[str, Any] = {'trial': trial.name, 'title': trial.title}
    try:
        row |= {'outcome': 'held', **_run(trial, stage, scale, settle)}
    except SkippedError as error:
        row |= {'outcome': 'skipped', 'why': str(error)}
    except (TrialError, ProcessError) as error:
        row |= {'outcome': 'failed', 'why': str(error)}
    return {**row, 'seconds': round(time.monotonic() - start, 1)}


def _run(trial: Trial, stage: Stage, scale: float, settle: bool) -> dict[str, Any]:
    model = write_moody_model(stage.folder / 'moody.onnx')
    with ExitStack() as stack:
        peer = stage.peer(stack)
        values = {'model': model, 'backend': BACKEND, 'cameras': list(CAMERAS), **trial.parameters}
        node = stage.node(stack, peer, **values)
        node.wait_for()
        cameras = tuple(Camera(peer, name) for name in CAMERAS)
        setting = Setting(stage, stack, peer, node, cameras, scale)
        setting.expect_answers('before anything befell it')
        before = node.usage()
        trial.befall(setting)
        recovery = setting.expect_answers('afterwards')
        counts = setting.counts()
        if settle:
            _expect_calm(setting)
        after = node.usage()
        _expect_nothing_left(before, after, trial)
        expect('Traceback' not in node.output, f'a traceback in the log:\n{node.output}')
        return {
            'recovery_s': round(recovery, 2),
            'counts': {name: sum(getattr(c, name) for c in counts) for name in asdict(counts[0])},
            'rss_growth_mb': round(after.rss_mb - before.rss_mb, 1),
            'threads': [before.threads, after.threads],
            'descriptors': [before.descriptors, after.descriptors],
            **setting.notes,
        }


def _expect_calm(setting: Setting) -> None:
    """All statuses are OK again, with cameras that send."""
    with ExitStack() as stack:
        for camera in setting.cameras:
            stack.enter_context(camera.streaming(5.0))

        def calm() -> bool:
            statuses = setting.node.diagnostics()[1]
            return all(status.level == 0 for status in statuses.values())

        last = setting.node.diagnostics()[1]
        expect(setting.peer.spin_until(calm), f'the diagnostics do not calm down: {last}')


def _expect_nothing_left(before: Usage, after: Usage, trial: Trial) -> None:
    if trial.may_leave_threads:
        return
    expect(
        after.threads <= before.threads + _COMING_AND_GOING,
        f'threads are left: {before.threads} before, {after.threads} after',
    )
    expect(
        after.descriptors <= before.descriptors,
        f'descriptors are left: {before.descriptors} before, {after.descriptors} after',
    )


def log_folder(folder: Path) -> Path:
    """Return a folder for the processes' logs, made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
