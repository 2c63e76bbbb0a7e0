"""Record topics into a bag, where `ros2 bag record` is not installed.

Messages are written as the bytes that came; the bag appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vq_anomaly_ros.node.executor import SturdyExecutor
from vq_anomaly_ros.node.messages import MessageTypeError, message_type
from vq_anomaly_ros.node.signals import parse_arguments, ros_until_signal
from vq_anomaly_ros.replay.bags import BagError, BagWriter, Storage
from vq_anomaly_ros.topic_names import topic_name

# Topics that never fall silent say nothing of whether a drive has ended.
PERIODIC = frozenset({'/clock', '/diagnostics', '/parameter_events', '/rosout'})
_POLL = 0.1
_DEPTH = 50


class NothingRecordedError(Exception):
    """No message came; leaves the writer without a bag."""


@dataclass(frozen=True)
class RecordOptions:
    """What to record and when to end: see `record_bag --help`; times in seconds."""

    out: Path
    topics: tuple[str, ...]
    until_idle: float | None = None
    max_duration: float | None = None
    storage: Storage = 'mcap'


def subscription_qos(publishers: Sequence[TopicEndpointInfo]) -> QoSProfile:
    """Return the strictest QoS that matches all publishers of a topic."""
    profiles = [publisher.qos_profile for publisher in publishers]
    reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
    latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
    return QoSProfile(
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class Recorder:
    """Subscribes to the topics as their publishers appear; `done` completes when it should end."""

    def __init__(self, node: Node, writer: BagWriter, options: RecordOptions) -> None:
        """Begin to look for publishers; messages are written while the node spins."""
        self.done = Future()
        self.recorded: Counter[str] = Counter()
        self.waiting = list(dict.fromkeys(map(node.resolve_topic_name, options.topics)))
        self._node = node
        self._writer = writer
        self._options = options
        self._start = time.monotonic()
        self._last = self._start
        self._timer = node.create_timer(
            _POLL, self._poll, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._poll()

    def _poll(self) -> None:
        for topic in list(self.waiting):
            if publishers := self._node.get_publishers_info_by_topic(topic):
                self.waiting.remove(topic)
                self._subscribe(topic, publishers)
                if not self.waiting:
                    print('recording all topics', flush=True)
        if self._is_over(time.monotonic()) and not self.done.done():
            self.done.set_result(None)

    def _is_over(self, now: float) -> bool:
        options = self._options
        if options.max_duration is not None and now - self._start >= options.max_duration:
            return True
        begun = any(topic not in PERIODIC for topic in self.recorded)
        return options.until_idle is not None and begun and now - self._last >= options.until_idle

    def _subscribe(self, topic: str, publishers: Sequence[TopicEndpointInfo]) -> None:
        kind = publishers[0].topic_type
        qos = subscription_qos(publishers)
        try:
            self._writer.add_topic(
                topic, kind, latched=qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
            )
            self._node.create_subscription(
                message_type(kind),
                topic,
                lambda cdr: self._write(topic, kind, cdr),
                qos,
                raw=True,
            )
        except (BagError, MessageTypeError) as error:
            print(f'{topic}: not recorded: {error}', file=sys.stderr, flush=True)
            return
        print(f'recording {topic} ({kind})', flush=True)

    def _write(self, topic: str, kind: str, cdr: Any) -> None:
        self._writer.write(topic, kind, time.time_ns(), cdr)
        self.recorded[topic] += 1
        if topic not in PERIODIC:
            self._last = time.monotonic()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is no duration; give seconds above 0')
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='record_bag', description=__doc__)
    add = parser.add_argument
    add('out', type=Path, help='folder of the new bag')
    add(
        '--topics',
        nargs='+',
        type=topic_name,
        required=True,
        help='topics; they may appear later',
    )
    add(
        '--until-idle',
        type=_seconds,
        metavar='SECONDS',
        help='end when no message came for so long after the first; /diagnostics and /clock do not '
        'count',
    )
    add('--max-duration', type=_seconds, metavar='SECONDS', help='end after so long')
    add('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    return parser


def _record(options: RecordOptions, stop: Future) -> Recorder:
    node = rclpy.create_node('record_bag')
    executor = SturdyExecutor()
    executor.add_node(node)
    try:
        with BagWriter(options.out, options.storage) as writer:
            recorder = Recorder(node, writer, options)
            stop.add_done_callback(lambda _: recorder.done.set_result(None))
            executor.spin_until_future_complete(recorder.done)
            if not recorder.recorded:
                raise NothingRecordedError(', '.join(options.topics))
    finally:
        executor.shutdown()
        node.destroy_node()
    return recorder


def _report(options: RecordOptions, recorder: Recorder) -> None:
    print(f'recorded {options.out}', flush=True)
    for topic, count in sorted(recorder.recorded.items()):
        print(f'  {topic}: {count} messages')
    for topic in recorder.waiting:
        print(f'  {topic}: no publisher appeared', file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Record until idle, for a time, or until SIGINT or SIGTERM; returns the exit code."""
    parser = _parser()
    given, arguments = parse_arguments(parser, argv)
    options = RecordOptions(**{**vars(given), 'topics': tuple(given.topics)})
    stop = Future()
    try:
        with ros_until_signal(parser, arguments) as stop:
            _report(options, _record(options, stop))
    except BagError as error:
        print(f'record_bag: {error}', file=sys.stderr)
        return 1
    except NothingRecordedError as topics:
        print(f'record_bag: no message came on {topics}; no bag was written', file=sys.stderr)
        return 0 if stop.done() else 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
