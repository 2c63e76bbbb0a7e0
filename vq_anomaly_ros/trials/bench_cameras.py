"""What the node does for cameras that send faster than it can look, in processes of their own.

A sender, the node, and this process, which takes the results: three on one machine, as on a
vehicle. What is counted is what the node says of itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vq_anomaly_ros.node.health import WINDOW
from vq_anomaly_ros.node.messages import image_message
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.replay.processes import Child
from vq_anomaly_ros.timing import Way, in_turns
from vq_anomaly_ros.trials.detector_process import DetectorProcess, Status, counts_of
from vq_anomaly_ros.trials.peer import PATIENCE, Peer, expect
from vq_anomaly_ros.trials.stage import Load, Stage

# Until the sender's pictures and the node's answers have found their pace.
_START = 3.0
_PERIOD = 1 / 30
# Of a run under load; the engine is called before and after each, and the cameras pause for it.
_WINDOWS, _CALLS, _PAUSE = 4, 10, 0.7
CAMERA = '/front'


def streams(classes: bool) -> list[str]:
    """The image topics that subscribers take from a model with or without classes."""
    return ['score', 'mask', *(['semantic_mask'] if classes else [])]


def names_of(cameras: int) -> list[str]:
    """The cameras of the sender."""
    return [f'/camera_{number}' for number in range(cameras)]


@dataclass(frozen=True)
class _Window:
    """What the node did between two diagnostics, and what the engine could have done meanwhile.

    published, received: frames by camera; engine_ms: of a frame, just before and just after.
    """

    seconds: float
    cpu_s: float
    published: Counter[str]
    received: Counter[str]
    engine_ms: float


def under_load(stage: Stage, model: str, load: Load, engine: Way, seconds: float) -> dict[str, Any]:
    """Run the node for so many seconds under a load; what it did, and the bounds it kept.

    The cameras pause a few times, and the bare `engine` runs meanwhile: a machine that is shared
    changes its speed within seconds.
    """
    cameras = names_of(load.cameras)
    with ExitStack() as stack:
        peer = stage.peer(stack)
        values = {
            'model': model, 'cameras': cameras, 'output_size': load.output_size,
            'streams': load.streams, 'diagnostics_period': Settings.diagnostics_period,
        }  # fmt: skip
        node = stage.node(stack, peer, **values)
        node.wait_for()
        subscribe(peer, cameras)
        sender = stage.send(stack, load, 2 * seconds + 90.0)
        await_answers(peer, node, sender, cameras)
        peer.spin_for(_START)
        first, each = node.diagnostics()[1], seconds / _WINDOWS
        windows = [_window(peer, node, sender, engine, cameras, each) for _ in range(_WINDOWS)]
        # Who pauses sends no newer frame: waits count without.
        peer.spin_for(WINDOW + _PAUSE)
        last, usage = node.diagnostics()[1], node.usage()
        served = [counts_of(last[c]).published - counts_of(first[c]).published for c in cameras]
        return {
            **vars(load),
            **_figures(cameras, windows, last),
            'fairness': round(min(served) / max(1, max(served)), 4),
            'rss_mb': round(usage.rss_mb, 1),
            'threads': usage.threads,
            'descriptors': usage.descriptors,
        }


def subscribe(peer: Peer, cameras: Sequence[str]) -> None:
    """Take all images of the node, which publishes none that nobody takes, and forget them."""

    def forget(message: Image) -> None:
        pass

    for camera in cameras:
        # Where the model has no classes, nobody publishes the last one.
        for name in streams(classes=True):
            peer.node.create_subscription(Image, f'{camera}/anomaly/{name}', forget, 1)


def await_answers(peer: Peer, node: DetectorProcess, sender: Child, cameras: Sequence[str]) -> None:
    """Wait until a frame of each camera is published.

    Raises ProcessError where the sender has ended, TrialError where no answer comes.
    """

    def answered() -> bool:
        sender.check()
        statuses = node.diagnostics()[1]
        return all(counts_of(statuses[camera]).published for camera in cameras)

    expect(peer.spin_until(answered), f'not every camera is answered:\n{node.output}')


def _window(
    peer: Peer,
    node: DetectorProcess,
    sender: Child,
    engine: Way,
    cameras: Sequence[str],
    seconds: float,
) -> _Window:
    """Time the engine while the cameras pause, let them send, and time it again."""

    def engine_times() -> list[float]:
        sender.stop()
        peer.spin_for(_PAUSE)  # what the node has is through
        times = in_turns({'engine': engine}, 1, _CALLS)['engine']
        sender.go_on()
        return times

    before = engine_times()
    peer.spin_for(_PAUSE)
    (then, first), cpu = node.diagnostics(), node.usage().cpu_s
    peer.spin_for(seconds)
    (now, last), cpu = node.diagnostics(), node.usage().cpu_s - cpu
    was, end = ({c: counts_of(one[c]) for c in cameras} for one in (first, last))
    return _Window(
        now - then,
        cpu,
        Counter({c: end[c].published - was[c].published for c in cameras}),
        Counter({c: end[c].received - was[c].received for c in cameras}),
        mean([median(before), median(engine_times())]),
    )


def _figures(
    cameras: Sequence[str], windows: Sequence[_Window], last: Mapping[str, Status]
) -> dict[str, Any]:
    """What the counts of the windows and the last diagnostics say."""
    seconds = sum(window.seconds for window in windows)
    possible = sum(1e3 * window.seconds / window.engine_ms for window in windows)
    published = [sum(window.published[camera] for window in windows) for camera in cameras]
    received = [sum(window.received[camera] for window in windows) for camera in cameras]
    total = max(1, sum(published))

    def worst(name: str) -> float:
        return max(float(last[camera].figures[name]) for camera in cameras)

    # Of the frame that is in work when a camera's comes, and of the other cameras before it.
    frame_ms = 1e3 * seconds / total
    period_ms = 1e3 * seconds / max(1, min(received))
    return {
        'received_hz': round(sum(received) / seconds, 2),
        'published_hz': round(sum(published) / seconds, 2),
        'engine_ms': round(1e3 * seconds / possible, 2),
        'share_of_engine': round(sum(published) / possible, 4),
        'latency_p50_ms': worst('latency p50 ms'),
        'latency_p99_ms': worst('latency p99 ms'),
        'waited_p99_ms': worst('waited p99 ms'),
        'waited_bound_ms': round(min(period_ms, len(cameras) * frame_ms) + frame_ms, 1),
        'cpu_ms_per_frame': round(1e3 * sum(window.cpu_s for window in windows) / total, 1),
    }


def first_result(stage: Stage, model: str, picture: np.ndarray) -> float:
    """Seconds from the start of the node's process to its first result; the camera runs already."""
    camera = CAMERA
    message = image_message(Header(), picture, 'bgr8')
    with ExitStack() as stack:
        peer = stage.peer(stack)
        publisher = peer.node.create_publisher(Image, f'{camera}/image_raw', 1)
        masks = peer.collect(Image, f'{camera}/anomaly/mask', depth=1)
        start = time.monotonic()
        node = stage.node(stack, peer, model=model, cameras=[camera], output_size='network')
        while not peer.spin_until(lambda: masks, _PERIOD):
            node.child.check()
            expect(time.monotonic() < start + PATIENCE, f'no first result:\n{node.output}')
            publisher.publish(message)
        return time.monotonic() - start
