"""Who is at the other end of a topic, and whether it fits: named once, with the remedy."""

from __future__ import annotations

import difflib
import time

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

# Discovery tells of an endpoint a little before it tells of the node that owns it; what is no ROS
# node (a bare DDS participant) never gets a name.
_UNKNOWN = '_NODE_NAME_UNKNOWN_'
_NAMING = 3.0


class TopicWatch:
    """Compares the QoS and the type of one own publisher or subscription with all others'."""

    def __init__(self, node: Node, topic: str, kind: str, qos: QoSProfile, listens: bool) -> None:
        """Watch a topic.

        Args:
            node: the owner of the publisher or subscription.
            topic: its resolved name.
            kind: its message type, such as 'sensor_msgs/msg/Image'.
            qos: its QoS.
            listens: whether the own end is the subscription.
        """
        self._node = node
        self._topic = topic
        self._kind = kind
        self._qos = qos
        self._listens = listens
        self._told: set[str] = set()
        self._first_seen: dict[bytes, float] = {}
        self._alone_since = time.monotonic()

    def news(self, patience: float) -> list[str]:
        """Return the sentences about what does not fit now and was not told before.

        Args:
            patience: seconds until a subscription without a publisher is named.
        """
        others = self._others()
        if self._some_lack_names(others):
            return []
        found = [sentence for other in others if (sentence := self._misfit(other))]
        if self._listens:
            found += self._crowd(others) + self._silence(others, patience)
        new = [sentence for sentence in found if sentence not in self._told]
        # What has gone away is forgotten: should it come again, it is told again.
        self._told = set(found)
        return new

    def _others(self) -> list[TopicEndpointInfo]:
        if self._listens:
            return self._node.get_publishers_info_by_topic(self._topic)
        return self._node.get_subscriptions_info_by_topic(self._topic)

    def _some_lack_names(self, others: list[TopicEndpointInfo]) -> bool:
        now = time.monotonic()
        gids = [bytes(other.endpoint_gid) for other in others]
        self._first_seen = {gid: self._first_seen.get(gid, now) for gid in gids}
        return any(
            other.node_name == _UNKNOWN and now - self._first_seen[gid] < _NAMING
            for gid, other in zip(gids, others, strict=True)
        )

    def _misfit(self, other: TopicEndpointInfo) -> str:
        verb = 'publishes' if self._listens else 'subscribes to'
        if other.topic_type != self._kind:
            return (
                f'{self._topic}: {_name(other)} {verb} it as {other.topic_type}, '
                f'{_own(self._node)} as {self._kind}: remap one of them to another topic'
            )
        writer, reader = self._qos, other.qos_profile
        if self._listens:
            writer, reader = reader, writer
        compatible, reason = qos_check_compatible(writer, reader)
        if compatible != QoSCompatibility.ERROR:
            return ''
        cause = reason.removeprefix('ERROR: ').strip('; ').lower()
        return (
            f'{self._topic}: no message passes between {_name(other)} '
            f'({_policies(other.qos_profile)}) and {_own(self._node)} ({_policies(self._qos)}): '
            f'incompatible QoS, {cause}; set {self._remedy()} or change the other side'
        )

    def _remedy(self) -> str:
        parameter = 'input_reliability' if self._listens else 'output_reliability'
        entity = 'subscription' if self._listens else 'publisher'
        return f'{parameter} or qos_overrides.{self._topic}.{entity}.*'

    def _crowd(self, others: list[TopicEndpointInfo]) -> list[str]:
        if len(others) < 2:
            return []
        names = ', '.join(sorted(map(_name, others)))
        return [
            f'{self._topic}: {len(others)} publishers ({names}), their frames come mixed: '
            'stop or remap all but one'
        ]

    def _silence(self, others: list[TopicEndpointInfo], patience: float) -> list[str]:
        if others:
            self._alone_since = time.monotonic()
            return []
        if time.monotonic() - self._alone_since < patience:
            return []
        return [f'{self._topic}: nobody publishes it; {self._hint()}']

    def _hint(self) -> str:
        """Name the topics of this type that do exist, the most similar first."""
        there = [
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if self._kind in kinds and topic != self._topic and self._is_foreign(topic)
        ]
        if not there:
            return f'no topic of type {self._kind} is there: start the camera, check ROS_DOMAIN_ID'
        there.sort(key=lambda topic: -difflib.SequenceMatcher(a=self._topic, b=topic).ratio())
        return f'set cameras and image_topic, or remap; topics of type {self._kind}: ' + ', '.join(
            there[:5]
        )

    def _is_foreign(self, topic: str) -> bool:
        publishers = self._node.get_publishers_info_by_topic(topic)
        return any(_name(publisher) != _own(self._node) for publisher in publishers)


def _own(node: Node) -> str:
    return str(node.get_fully_qualified_name())


def _name(endpoint: TopicEndpointInfo) -> str:
    if endpoint.node_name == _UNKNOWN:
        return 'a participant that is no ROS node'
    return f'{endpoint.node_namespace.rstrip("/")}/{endpoint.node_name}'


def _policies(qos: QoSProfile) -> str:
    return f'{qos.reliability.name}, {qos.durability.name}'.lower()
