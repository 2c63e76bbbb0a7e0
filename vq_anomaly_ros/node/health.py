"""How a camera fares: rates, latency, and a level that does not flicker. Plain Python and numpy.

Times are seconds of any steady clock and given by the caller, so that every figure is testable.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from vq_anomaly_ros.detection.drift import DriftState
from vq_anomaly_ros.detection.levels import Hysteresis, Judgement, Level
from vq_anomaly_ros.node.latest_frames import Counts

WINDOW = 10.0


class Percentiles(NamedTuple):
    """Latencies in seconds; nan without samples."""

    p50: float
    p95: float
    p99: float


class LatencyWindow:
    """The latencies of the last seconds; one thread adds, another may read."""

    def __init__(self, window: float = WINDOW, capacity: int = 4096) -> None:
        """Keep the samples of the last `window` seconds, at most `capacity` of them."""
        self._window = window
        self._samples: deque[tuple[float, float]] = deque(maxlen=capacity)
        self._lock = threading.Lock()

    def add(self, now: float, latency: float) -> None:
        """Add the latency (seconds) of a frame that was done at `now`."""
        with self._lock:
            self._samples.append((now, latency))

    def percentiles(self, now: float) -> Percentiles:
        """Return the percentiles of the samples that are not older than the window.

        Linear interpolation between order statistics (numpy's default).
        """
        with self._lock:
            while self._samples and self._samples[0][0] < now - self._window:
                self._samples.popleft()
            latencies = [latency for _, latency in self._samples]
        if not latencies:
            return Percentiles(np.nan, np.nan, np.nan)
        return Percentiles(*(float(p) for p in np.percentile(latencies, [50, 95, 99])))


class Recent(NamedTuple):
    """What the counters did within the window; rates in 1/s, counts in frames."""

    received_rate: float
    published_rate: float
    received: int
    published: int
    superseded: int
    rejected: int
    failed: int


class CounterWindow:
    """Snapshots of the counts: rates over the last seconds, and since when nothing came."""

    def __init__(self, now: float, counts: Counts, window: float = WINDOW) -> None:
        """Start at `now` with the counts of that moment."""
        self._window = window
        self._snapshots: deque[tuple[float, Counts]] = deque([(now, counts)])
        self._last_arrival = now

    def add(self, now: float, counts: Counts) -> Recent:
        """Take a snapshot and return what happened since the oldest one of the window."""
        if counts.received > self._snapshots[-1][1].received:
            self._last_arrival = now
        self._snapshots.append((now, counts))
        # The newest snapshot at the window's edge or before it stays: the window begins there.
        while len(self._snapshots) > 2 and self._snapshots[1][0] <= now - self._window:
            self._snapshots.popleft()
        then, before = self._snapshots[0]
        span = max(now - then, 1e-9)
        return Recent(
            received_rate=(counts.received - before.received) / span,
            published_rate=(counts.published - before.published) / span,
            received=counts.received - before.received,
            published=counts.published - before.published,
            superseded=counts.superseded - before.superseded,
            rejected=counts.rejected - before.rejected,
            failed=counts.failed - before.failed,
        )

    def silence(self, now: float) -> float:
        """Return for how many seconds no frame was seen to arrive (precise to one snapshot)."""
        return now - self._last_arrival


@dataclass(frozen=True)
class Limits:
    """Where a camera's state becomes worth a warning: silence in seconds, share superseded 0..1."""

    silence: float = 2.0
    superseded: float = 0.5


def judge(recent: Recent, silence: float, limits: Limits) -> Judgement:
    """Judge a camera by its recent counts and by how long it was silent (seconds)."""
    if recent.failed:
        return Judgement(Level.ERROR, f'{recent.failed} frames failed in the detector, see the log')
    if silence > limits.silence:
        return Judgement(Level.WARN, f'no frame for {silence:.1f} s, check camera, topic and QoS')
    if recent.rejected:
        return Judgement(Level.WARN, f'{recent.rejected} frames rejected, see the log')
    if recent.received and recent.superseded / recent.received > limits.superseded:
        share = recent.superseded / recent.received
        return Judgement(Level.WARN, f'{share:.0%} of the frames superseded, the detector is slow')
    return Judgement(Level.OK, 'running')


def worse(health: Judgement, drift: Judgement) -> Judgement:
    """Return the worse one of what is said of a camera's frames and of its pictures; or both."""
    if drift.level is Level.OK:
        return health
    about = f'drift: {drift.message}'
    if health.level is Level.OK:
        return Judgement(drift.level, about)
    return Judgement(max(health.level, drift.level), f'{health.message}; {about}')


def drift_figures(drift: DriftState) -> dict[str, str]:
    """Return what the drift monitor says, {name: text} of /diagnostics: a value and its limits."""
    told = {'drift': f'{drift.judgement.level.name}: {drift.judgement.message}'}
    for name, figure in drift.figures.items():
        low, high = ('' if end is None else f'{end:.3g}' for end in (figure.low, figure.high))
        told[f'drift {name}'] = f'{figure.value:.3g} ({low}..{high})'
    return told


class Throttle:
    """At most one go a period and key; tells how many were held back meanwhile."""

    def __init__(self, period: float = 1.0) -> None:
        """Let one pass every `period` seconds."""
        self._period = period
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def go(self, key: str, now: float) -> int | None:
        """Return how many of `key` were held back since the last go, or None to hold this one."""
        if key in self._last and now - self._last[key] < self._period:
            self._held[key] = self._held.get(key, 0) + 1
            return None
        self._last[key] = now
        return self._held.pop(key, 0)


class CameraHealth:
    """The rates and the level of one camera, from one snapshot of its counts to the next."""

    def __init__(self, now: float, counts: Counts) -> None:
        """Start at `now` with the counts of that moment."""
        self._counters = CounterWindow(now, counts)
        self._hysteresis = Hysteresis()

    def report(
        self, now: float, counts: Counts, latency: Percentiles, limits: Limits
    ) -> tuple[Judgement, dict[str, str]]:
        """Return the level with its sentence, and the figures {name: text} of /diagnostics."""
        recent = self._counters.add(now, counts)
        judgement = self._hysteresis.update(judge(recent, self._counters.silence(now), limits))
        figures = {
            'fps': f'{recent.published_rate:.2f}',
            'input fps': f'{recent.received_rate:.2f}',
            **{f'latency {n} ms': f'{1e3 * s:.1f}' for n, s in latency._asdict().items()},
            **{n.replace('_', ' '): str(count) for n, count in asdict(counts).items()},
        }
        return judgement, figures
