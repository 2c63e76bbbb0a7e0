"""Play a bag onto its topics in real time, where `ros2 bag play` is not installed.

The messages go out as the bytes that lie in the bag, with the QoS that was recorded with them.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rosbags.interfaces import Qos, QosDurability, QosReliability
from rosgraph_msgs.msg import Clock

from vq_anomaly_ros.node.messages import MessageTypeError, message_type
from vq_anomaly_ros.node.signals import parse_arguments, ros_until_signal
from vq_anomaly_ros.replay.bags import NANOSECONDS, BagError, offered_qos, read_raw, topics
from vq_anomaly_ros.topic_names import topic_name

CLOCK_RATE = 40.0
# A writer knows its reader a little before the reader knows the writer.
_SETTLE = 0.5
_ACKNOWLEDGE = 5.0
_DEPTH = 10


class PlayError(RuntimeError):
    """The bag cannot be played; the message names topic, cause and remedy."""


@dataclass(frozen=True)
class PlayOptions:
    """What to play and how: see `play_bag --help`; times in seconds."""

    bag: Path
    rate: float = 1.0
    topics: tuple[str, ...] = ()
    remap: dict[str, str] = field(default_factory=dict)
    wait_for_subscribers: int = 0
    wait_timeout: float = 60.0
    loop: bool = False
    clock: bool = False


def publisher_qos(offered: Sequence[Qos]) -> QoSProfile:
    """Return the QoS to publish with: that of the bag, else reliable and volatile."""
    first = offered[0] if offered else None
    best_effort = first is not None and first.reliability is QosReliability.BEST_EFFORT
    latched = first is not None and first.durability is QosDurability.TRANSIENT_LOCAL
    return QoSProfile(
        depth=(first.depth if first is not None else 0) or _DEPTH,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class Player:
    """Publishes the messages of one bag at the pace of their recording."""

    def __init__(self, node: Node, options: PlayOptions, stop: Future) -> None:
        """Offer the topics.

        Raises:
            BagError: the bag cannot be read.
            PlayError: none of the topics can be played, or one named does not exist.
        """
        self._node = node
        self._options = options
        self._stopped = threading.Event()
        stop.add_done_callback(lambda _: self._stopped.set())
        self._clock = node.create_publisher(Clock, '/clock', 10) if options.clock else None
        self._publishers = self._offer()
        self.played: Counter[str] = Counter()
        self.latest = 0.0

    def _offer(self) -> dict[str, Publisher]:
        bag = self._options.bag
        found = topics(bag)
        if missing := [topic for topic in self._options.topics if topic not in found]:
            listing = ', '.join(found) or 'nothing'
            raise PlayError(f'{bag}: no topic {", ".join(missing)}; the bag holds {listing}')
        qos = offered_qos(bag)
        publishers = {}
        for topic in self._options.topics or found:
            try:
                publishers[topic] = self._publisher(
                    topic, found[topic][0], publisher_qos(qos.get(topic, []))
                )
            except MessageTypeError as error:
                print(f'{topic}: not played: {error}', file=sys.stderr)
            except InvalidTopicNameException:
                remedy = f"give it another with --remap '{topic}:=/new'"
                print(f'{topic}: not played: ROS takes no such name; {remedy}', file=sys.stderr)
        if not publishers:
            raise PlayError(f'{bag}: none of its topics can be played')
        return publishers

    def _publisher(self, topic: str, kind: str, qos: QoSProfile) -> Publisher:
        name = self._options.remap.get(topic, topic)
        return self._node.create_publisher(message_type(kind), name, qos)

    def wait_for_subscribers(self) -> None:
        """Wait until every topic has its subscribers; PlayError at the timeout."""
        wanted = self._options.wait_for_subscribers
        end = time.monotonic() + self._options.wait_timeout
        while not self._stopped.is_set():
            lacking = [p for p in self._publishers.values() if p.get_subscription_count() < wanted]
            if not lacking:
                self._stopped.wait(_SETTLE if wanted else 0.0)
                return
            if time.monotonic() > end:
                names = ', '.join(publisher.topic_name for publisher in lacking)
                raise PlayError(
                    f'{names}: fewer than {wanted} subscribers after '
                    f'{self._options.wait_timeout:g} s; start them first, or remap with --remap'
                )
            self._stopped.wait(0.05)

    def play(self) -> None:
        """Play once, or again and again with `loop`, until the end or the stop signal."""
        while not self._stopped.is_set():
            self._play_once()
            if not self._options.loop:
                break
        self._acknowledged()

    def _play_once(self) -> None:
        start = time.monotonic()
        first: int | None = None
        for raw in read_raw(self._options.bag, list(self._publishers)):
            first = raw.stamp_ns if first is None else first
            due = start + (raw.stamp_ns - first) / NANOSECONDS / self._options.rate
            self._wait_until(due, raw.stamp_ns)
            if self._stopped.is_set():
                return
            self.latest = max(self.latest, time.monotonic() - due)
            self._publishers[raw.topic].publish(raw.cdr)
            self.played[raw.topic] += 1

    def _wait_until(self, due: float, stamp_ns: int) -> None:
        """Wait for the moment `due` at which the bag's time is `stamp_ns`, ticking /clock."""
        while (left := due - time.monotonic()) > 0:
            self._tick(stamp_ns - round(left * self._options.rate * NANOSECONDS))
            if self._stopped.wait(min(left, 1 / CLOCK_RATE) if self._clock else left):
                return
        self._tick(stamp_ns)

    def _tick(self, stamp_ns: int) -> None:
        if self._clock is not None:
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(max(stamp_ns, 0), NANOSECONDS)
            self._clock.publish(message)

    def _acknowledged(self) -> None:
        """Wait until reliable subscribers have everything: what is not sent yet dies with us."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGE))


def _remap(text: str) -> tuple[str, str]:
    old, separator, new = text.partition(':=')
    if not (separator and old and new):
        raise argparse.ArgumentTypeError(f'{text!r} is no remapping; write /old:=/new')
    return old, topic_name(new)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate <= 1000.0:
        raise argparse.ArgumentTypeError(f'{text!r} is no rate; give a number above 0')
    return rate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='play_bag', description=__doc__)
    add = parser.add_argument
    add('bag', type=Path, help='folder of the bag, or a single .mcap or .db3 file')
    add('--rate', type=_rate, default=1.0, help='speed; 2 is twice as fast as recorded')
    add('--topics', nargs='+', default=[], help='play only these (default: all)')
    add('--remap', nargs='+', type=_remap, default=[], metavar='/OLD:=/NEW', help='rename topics')
    add('--wait-for-subscribers', type=int, default=0, metavar='N', help='per topic, before start')
    add('--wait-timeout', type=float, default=60.0, metavar='SECONDS', help='give up waiting')
    add('--loop', action='store_true', help='begin again at the end')
    add('--clock', action='store_true', help="publish the bag's time on /clock")
    return parser


@contextmanager
def _node(name: str) -> Iterator[Node]:
    node = rclpy.create_node(name)
    try:
        yield node
    finally:
        node.destroy_node()


def _play(options: PlayOptions, stop: Future) -> None:
    with _node('play_bag') as node:
        player = Player(node, options, stop)
        player.wait_for_subscribers()
        start = time.monotonic()
        player.play()
        seconds = time.monotonic() - start
    counts = ', '.join(f'{topic} {count}' for topic, count in sorted(player.played.items()))
    late = f'at most {1e3 * player.latest:.0f} ms late'
    print(f'played in {seconds:.1f} s, {late}: {counts or "nothing"}', flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Play a bag; returns the exit code: 0 also when a signal ended it."""
    parser = _parser()
    given, arguments = parse_arguments(parser, argv)
    options = PlayOptions(**{**vars(given), 'remap': dict(given.remap)})
    try:
        with ros_until_signal(parser, arguments) as stop:
            _play(options, stop)
    except (BagError, PlayError) as error:
        print(f'play_bag: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
