"""Who is at the other end of a topic, and whether it fits: named once, with the remedy."""

from __future__ import annotations

import difflib
import time
from typing import NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vq_anomaly_ros.node.health import Throttle

# Discovery tells of an endpoint a little before it tells of the node that owns it; what is no ROS
# node (a bare DDS participant) never gets a name.
_UNKNOWN = '_NODE_NAME_UNKNOWN_'
_NAMING = 3.0


class Finding(NamedTuple):
    """What was found, and how it is now where that is worth another word."""

    what: str
    how: str = ''


class TopicWatch:
    """Compares the QoS and the type of one own publisher or subscription with all others'.

    topic: its resolved name; listens: whether the own end is the subscription.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        kind: str,
        qos: QoSProfile,
        listens: bool,
        awaited: bool = False,
    ) -> None:
        """Watch a topic.

        Args:
            node: the owner of the publisher or subscription.
            topic: its resolved name.
            kind: its message type, such as 'sensor_msgs/msg/Image'.
            qos: its QoS.
            listens: whether the own end is the subscription.
            awaited: whether it is worth a word that nobody is at the other end.
        """
        self._node = node
        self.topic = topic
        self._kind = kind
        self._qos = qos
        self.listens = listens
        self._awaited = awaited
        self._told: set[Finding] = set()
        self._throttle = Throttle()
        self._first_seen: dict[bytes, float] = {}
        self._alone_since = time.monotonic()

    def news(self, patience: float) -> list[str]:
        """Return a sentence about what does not fit now and was not told before, if any.

        One a second at most: what else there is comes with the next calls, if it still holds then.

        Args:
            patience: seconds until a subscription without a publisher is named.
        """
        others = self._others()
        if self._some_lack_names(others):
            return []
        found = self._found(others, patience)
        # What has gone away is forgotten: should it come again, it is told again.
        still = {what for what, _ in found}
        self._told = {told for told in self._told if told.what in still}
        new = [finding for finding in found if finding not in self._told]
        if not new or self._throttle.go(self.topic, time.monotonic()) is None:
            return []
        self._told.add(new[0])
        return [found[new[0]]]

    def _found(self, others: list[TopicEndpointInfo], patience: float) -> dict[Finding, str]:
        """Sentences by what they are about: those that list topics change with the whole graph."""
        found = {}
        for other in others:
            if sentence := self._misfit(other):
                found[Finding(f'misfit {_name(other)}', sentence)] = sentence
        if self.listens and len(others) > 1:
            found[Finding('crowd')] = self._crowd(others)
        if self._is_silent(others, patience):
            there = self._others_of_the_kind()
            found[Finding('silence', 'others' if there else 'nothing')] = self._silence(there)
        return found

    def _others(self) -> list[TopicEndpointInfo]:
        if self.listens:
            return self._node.get_publishers_info_by_topic(self.topic)
        return self._node.get_subscriptions_info_by_topic(self.topic)

    def _some_lack_names(self, others: list[TopicEndpointInfo]) -> bool:
        now = time.monotonic()
        gids = [bytes(other.endpoint_gid) for other in others]
        self._first_seen = {gid: self._first_seen.get(gid, now) for gid in gids}
        return any(
            other.node_name == _UNKNOWN and now - self._first_seen[gid] < _NAMING
            for gid, other in zip(gids, others, strict=True)
        )

    def _misfit(self, other: TopicEndpointInfo) -> str:
        verb = 'publishes' if self.listens else 'subscribes to'
        if other.topic_type != self._kind:
            return (
                f'{self.topic}: {_name(other)} {verb} it as {other.topic_type}, '
                f'{_own(self._node)} as {self._kind}: remap one of them to another topic'
            )
        writer, reader = self._qos, other.qos_profile
        if self.listens:
            writer, reader = reader, writer
        compatible, reason = qos_check_compatible(writer, reader)
        if compatible != QoSCompatibility.ERROR:
            return ''
        cause = reason.removeprefix('ERROR: ').strip('; ').lower()
        return (
            f'{self.topic}: no message passes between {_name(other)} '
            f'({_policies(other.qos_profile)}) and {_own(self._node)} ({_policies(self._qos)}): '
            f'incompatible QoS, {cause}; set {self._remedy()} or change the other side'
        )

    def _remedy(self) -> str:
        parameter = 'input_reliability' if self.listens else 'output_reliability'
        entity = 'subscription' if self.listens else 'publisher'
        return f'{parameter} or qos_overrides.{self.topic}.{entity}.*'

    def _crowd(self, others: list[TopicEndpointInfo]) -> str:
        names = ', '.join(sorted(map(_name, others)))
        return (
            f'{self.topic}: {len(others)} publishers ({names}), their messages come mixed: '
            'stop or remap all but one'
        )

    def _is_silent(self, others: list[TopicEndpointInfo], patience: float) -> bool:
        now = time.monotonic()
        if others:
            self._alone_since = now
        return self._awaited and not others and now - self._alone_since >= patience

    def _silence(self, there: list[str]) -> str:
        hint = f'no topic of type {self._kind} is there: start the camera, check ROS_DOMAIN_ID'
        if there:
            listing = ', '.join(there[:5])
            hint = f'set cameras and image_topic, or remap; topics of type {self._kind}: {listing}'
        return f'{self.topic}: nobody publishes it; {hint}'

    def _others_of_the_kind(self) -> list[str]:
        """The topics of this type that do exist, the most similar first."""
        there = [
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if self._kind in kinds and topic != self.topic and self._is_foreign(topic)
        ]
        there.sort(key=lambda topic: -difflib.SequenceMatcher(a=self.topic, b=topic).ratio())
        return there

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
