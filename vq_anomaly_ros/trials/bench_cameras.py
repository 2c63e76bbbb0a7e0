"""What the node does for cameras that send faster than it can look, in processes of their own.

A sender, the node, and this process, which takes the results: three on one machine, as on a
vehicle. What is counted is what the node says of itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vq_anomaly_ros.node.messages import image_message
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.timing import Way, in_turns
from vq_anomaly_ros.trials.detector_process import Status, counts_of
from vq_anomaly_ros.trials.peer import PATIENCE, expect
from vq_anomaly_ros.trials.stage import Load, Stage

# Until the sender's pictures and the node's answers have found their pace.
_START = 3.0
_PERIOD = 1 / 30
# Of the bare engine, before and after a load.
_ROUNDS = 8
CAMERA = '/front'


def streams(classes: bool) -> list[str]:
    """The image topics that subscribers take from a model with or without classes."""
    return ['score', 'mask', *(['semantic_mask'] if classes else [])]


def names_of(cameras: int) -> list[str]:
    """The cameras of the sender."""
    return [f'/camera_{number}' for number in range(cameras)]


def beside_engine(
    stage: Stage, model: str, load: Load, engine: Way, seconds: float
) -> dict[str, Any]:
    """`under_load`, and the rate's share of what the bare engine could do.

    The engine runs just before and just after: machines that are shared change their speed.
    """
    before = in_turns({'engine': engine}, _ROUNDS)['engine']
    row = under_load(stage, model, load, seconds)
    engine_ms = median(before + in_turns({'engine': engine}, _ROUNDS)['engine'])
    share = row['published_hz'] * engine_ms / 1e3
    return {**row, 'engine_ms': round(engine_ms, 2), 'share_of_engine': round(share, 4)}


def under_load(stage: Stage, model: str, load: Load, seconds: float) -> dict[str, Any]:
    """Run the node for so many seconds under a load; what it did, and the bounds it kept."""
    cameras = names_of(load.cameras)
    with ExitStack() as stack:
        peer = stage.peer(stack)
        values = {
            'model': model, 'cameras': cameras, 'output_size': load.output_size,
            'streams': load.streams, 'diagnostics_period': Settings.diagnostics_period,
        }  # fmt: skip
        node = stage.node(stack, peer, **values)
        node.wait_for()
        for camera in cameras:
            # Where the model has no classes, nobody publishes the last one.
            for name in streams(classes=True):
                peer.collect(Image, f'{camera}/anomaly/{name}', depth=1)
        stage.send(stack, load, _START + seconds + 60.0)
        answers = peer.spin_until(
            lambda: all(counts_of(node.status(camera)).published for camera in cameras)
        )
        expect(answers, f'not every camera is answered:\n{node.output}')
        peer.spin_for(_START)
        before, (then, first) = node.usage(), node.diagnostics()
        peer.spin_for(seconds)
        after, (now, last) = node.usage(), node.diagnostics()
        cpu = after.cpu_s - before.cpu_s
        return {
            **vars(load),
            **_figures(cameras, first, last, now - then),
            'cpu_ms_per_frame': round(1e3 * cpu / max(1, _published(cameras, first, last)), 1),
            'rss_mb': round(after.rss_mb, 1),
            'threads': after.threads,
            'descriptors': after.descriptors,
        }


def _published(
    cameras: Sequence[str], first: Mapping[str, Status], last: Mapping[str, Status]
) -> int:
    return sum(counts_of(last[c]).published - counts_of(first[c]).published for c in cameras)


def _figures(
    cameras: Sequence[str],
    first: Mapping[str, Status],
    last: Mapping[str, Status],
    seconds: float,
) -> dict[str, Any]:
    """What the counts of two diagnostics, so many seconds apart, say."""
    each = [counts_of(last[c]).published - counts_of(first[c]).published for c in cameras]
    received = [counts_of(last[c]).received - counts_of(first[c]).received for c in cameras]
    rate = sum(each) / seconds

    def worst(name: str) -> float:
        return max(float(last[camera].figures[name]) for camera in cameras)

    # Of the frame that is in work when a camera's comes, and of the other cameras before it.
    frame_ms = 1e3 / max(rate, 1e-9)
    period_ms = 1e3 * seconds / max(1, min(received))
    return {
        'received_hz': round(sum(received) / seconds, 2),
        'published_hz': round(rate, 2),
        'fairness': round(min(each) / max(1, max(each)), 4),
        'latency_p50_ms': worst('latency p50 ms'),
        'latency_p99_ms': worst('latency p99 ms'),
        'waited_p99_ms': worst('waited p99 ms'),
        'waited_bound_ms': round(min(period_ms, len(cameras) * frame_ms) + frame_ms, 1),
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
