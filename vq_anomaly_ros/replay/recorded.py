"""Results that were recorded from the node, joined with the drive that it saw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.events import Event
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.images import as_frame
from vq_anomaly_ros.outputs import anomaly_topics, obstacles_of
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.frame_results import DroppedFrame, FrameResult
from vq_anomaly_ros.replay.labels import LabelFolder

DIAGNOSTICS = '/diagnostics'
_COUNTS = ('received', 'published', 'superseded', 'rejected', 'failed')
_PERCENTILES = ('p50', 'p95', 'p99')


def recorded_results(
    drive: Path, output: Path, topic: str, labels: LabelFolder | None = None
) -> Iterator[FrameResult | DroppedFrame]:
    """Yield every frame of a drive with what the node published for it, joined by stamp.

    The results of the whole drive are held in memory: meant for the network's output size.
    The raw score is not published; `Detection.raw_score` holds the calibrated one instead.

    Args:
        drive: the bag that was played.
        output: the bag that was recorded.
        topic: the image topic.
        labels: of the frames.

    Raises:
        BagError: one of the bags is missing or damaged.
    """
    found = _images(output, anomaly_topics(topic))
    obstacles = _obstacles(output, anomaly_topics(topic))
    events = _events(output, anomaly_topics(topic))
    for stamp_ns, _, message in bags.read_images(drive, topic):
        parts = found.get(stamp_ns, {})
        if not {'score', 'mask'} <= parts.keys():
            yield DroppedFrame(stamp_ns, drive.name, topic, 'no result was recorded')
            continue
        detection = Detection(
            parts.get('semantic_mask'),
            parts['score'],
            parts['mask'],
            parts['score'],
            None,
            obstacles.get(stamp_ns, ()),
        )
        yield FrameResult(
            stamp_ns,
            drive.name,
            topic,
            as_frame(message),
            detection,
            truth=labels.of(drive, stamp_ns) if labels is not None else None,
            events=events.get(stamp_ns, ()),
        )


def _images(output: Path, namespace: str) -> dict[int, dict[str, np.ndarray]]:
    """{header stamp: {'score': ..., 'mask': ..., 'semantic_mask': ...}} of a recorded bag."""
    names = {f'{namespace}/{name}': name for name in ('score', 'mask', 'semantic_mask')}
    found: dict[int, dict[str, np.ndarray]] = {}
    for raw in bags.read_raw(output, list(names)):
        message = bags.deserialize(raw)
        dtype = np.float32 if message.encoding == '32FC1' else np.uint8
        pixels = message.data.view(dtype).reshape(message.height, message.width)
        found.setdefault(bags.header_stamp(message), {})[names[raw.topic]] = pixels
    return found


def _obstacles(output: Path, namespace: str) -> dict[int, tuple[Obstacle, ...]]:
    """{header stamp: obstacles} of a recorded bag."""
    messages = bags.read_raw(output, [f'{namespace}/obstacles_json'])
    told = [json.loads(bags.deserialize(raw).data) for raw in messages]
    return {one['stamp_ns']: obstacles_of(one) for one in told}


def _events(output: Path, namespace: str) -> dict[int, tuple[Event, ...]]:
    """{header stamp: events} of a recorded bag."""
    found: dict[int, tuple[Event, ...]] = {}
    for raw in bags.read_raw(output, [f'{namespace}/events']):
        event = Event.from_dict(json.loads(bags.deserialize(raw).data))
        found[event.stamp_ns] = (*found.get(event.stamp_ns, ()), event)
    return found


@dataclass(frozen=True)
class NodeFigures:
    """What the node says of one camera and itself in /diagnostics, at the end of a drive.

    engine: '' where unknown; counts: frames 'received', 'published', 'superseded', 'rejected' and
    'failed'; latency_ms: p50, p95, p99 of the node's last seconds, from the arrival of an image to
    the publication of its results, None where it said none.
    """

    engine: str
    counts: dict[str, int]
    latency_ms: dict[str, float | None]


def node_figures(output: Path, camera: str) -> NodeFigures:
    """Return what the last diagnostics of a recorded bag say of `camera`; empty without any."""
    figures: dict[str, str] = {}
    for raw in bags.read_raw(output, [DIAGNOSTICS]):
        for status in bags.deserialize(raw).status:
            if status.hardware_id == camera:
                figures = {pair.key: pair.value for pair in status.values}
    return NodeFigures(
        figures.get('engine', ''),
        {name: int(figures[name]) for name in _COUNTS if figures.get(name, '').isdigit()},
        {name: _milliseconds(figures.get(f'latency {name} ms')) for name in _PERCENTILES},
    )


def _milliseconds(text: str | None) -> float | None:
    value = float(text) if text is not None else math.nan
    return value if math.isfinite(value) else None
