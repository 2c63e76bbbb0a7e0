"""The real node in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray

from vq_anomaly_ros.node.latest_frames import Counts
from vq_anomaly_ros.replay.processes import start_child, wait_until
from vq_anomaly_ros.trials.peer import Peer, expect

MODULE = 'vq_anomaly_ros.node.detector_node'
_TICKS = os.sysconf('SC_CLK_TCK')


class Status(NamedTuple):
    """One status of /diagnostics."""

    level: int
    message: str
    figures: Mapping[str, str]


@dataclass(frozen=True)
class Usage:
    """What the process takes of the machine: memory in MB, seconds of CPU since its start."""

    rss_mb: float
    threads: int
    descriptors: int
    cpu_s: float


def usage(pid: int) -> Usage:
    """Look at a process; OSError where it is none."""
    process = Path('/proc') / str(pid)
    lines = (process / 'status').read_text().splitlines()
    said = {name: rest.strip() for name, _, rest in (line.partition(':') for line in lines)}
    # utime and stime are the 14th and 15th fields; the name before them may hold blanks.
    times = (process / 'stat').read_text().rpartition(')')[2].split()[11:13]
    return Usage(
        rss_mb=int(said['VmRSS'].split()[0]) / 1024,
        threads=int(said['Threads']),
        descriptors=len(os.listdir(process / 'fd')),  # noqa: PTH208  they go while we look
        cpu_s=sum(map(int, times)) / _TICKS,
    )


def statuses_of(message: DiagnosticArray) -> dict[str, Status]:
    """Return {camera, or 'detector': status}."""
    return {
        one.hardware_id: Status(
            one.level[0], one.message, {pair.key: pair.value for pair in one.values}
        )
        for one in message.status
    }


def counts_of(status: Status) -> Counts:
    """Return the counts of a camera; TrialError where they do not add up."""
    names = [field.name for field in fields(Counts)]
    counts = Counts(**{name: int(status.figures[name.replace('_', ' ')]) for name in names})
    ended = counts.published + counts.superseded + counts.rejected + counts.failed
    expect(counts.received == ended + counts.in_flight, f'the account is not whole: {counts}')
    return counts


class DetectorProcess:
    """`anomaly_detector`, started with parameters; it ends with the stack."""

    def __init__(
        self,
        stack: ExitStack,
        peer: Peer,
        environment: Mapping[str, str],
        folder: Path,
        **parameters: Any,
    ) -> None:
        """Start it; `folder` gets its log."""
        self.peer = peer
        self._heard = peer.collect(DiagnosticArray, '/diagnostics', depth=100)
        values = {'diagnostics_period': 0.2, **parameters}
        arguments = [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
        log = folder / f'detector_{len(list(folder.iterdir()))}.txt'
        self.child = start_child(stack, MODULE, ['--ros-args', *arguments], environment, log)

    def wait_for(self, text: str = 'active: listening') -> None:
        """Wait until it has said `text`; ProcessError where it ends before."""
        wait_until(lambda: self.child.said(text), (self.child,), f'{text!r}')

    @property
    def output(self) -> str:
        """What it has said until now."""
        return self.child.log.read_text(errors='replace')

    def usage(self) -> Usage:
        """What it takes of the machine now."""
        return usage(self.child.pid)

    def diagnostics(self) -> tuple[float, dict[str, Status]]:
        """Return the next diagnostics that come: stamp in seconds, {camera or 'detector': status}.

        What was collected before is forgotten, not what waits in DDS: spin first where it counts.
        """
        self._heard.clear()
        expect(self.peer.spin_until(lambda: self._heard), f'no diagnostics come:\n{self.output}')
        stamp = self._heard[-1].header.stamp
        return stamp.sec + 1e-9 * stamp.nanosec, statuses_of(self._heard[-1])

    def status(self, of: str = 'detector') -> Status:
        """Return the next status of a camera or of the detector."""
        return self.diagnostics()[1][of]

    def counts(self, camera: str) -> Counts:
        """Return the next counts of a camera; TrialError where they do not add up."""
        return counts_of(self.status(camera))

    def worst_level(self, of: str = 'detector') -> int:
        """Return the highest level among the diagnostics collected since the last look."""
        return max((statuses_of(one)[of].level for one in self._heard), default=0)
