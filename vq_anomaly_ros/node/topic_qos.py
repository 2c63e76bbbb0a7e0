"""QoS of the node's topics: from its parameters, overridden topic by topic as ROS does it.

`qos_overrides.<topic>.subscription.<policy>` and `….publisher.<policy>` (history, depth,
reliability, durability) go before the parameters input_* and output_*.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)

PREFIX = 'qos_overrides.'
_POLICIES = {
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
}


def topic_qos(node: Node, topic: str, listens: bool, default: QoSProfile) -> QoSProfile:
    """Return `default` with the overrides of a topic, declaring those as read-only parameters.

    rclpy's own QoSOverridingOptions declares every policy of every topic and keeps the first
    values: a parameter such as output_depth could then not be changed between configurations.

    Args:
        node: whose overrides are looked at.
        topic: resolved name.
        listens: whether the QoS is that of a subscription.
        default: what holds without overrides.

    Raises:
        ValueError: an override has a value that its policy does not know.
    """
    qos = QoSProfile(
        history=default.history,
        depth=default.depth,
        reliability=default.reliability,
        durability=default.durability,
        deadline=default.deadline,
        liveliness_lease_duration=default.liveliness_lease_duration,
    )
    start = f'{PREFIX}{topic}.{_entity(listens)}.'
    for name, parameter in node._parameter_overrides.items():
        if name.startswith(start):
            policy = name.removeprefix(start)
            setattr(qos, policy, _value(name, policy, parameter.value))
            _declare(node, name, parameter.value)
    return qos


def unused_overrides(node: Node, ends: Collection[tuple[str, bool]]) -> list[str]:
    """Return a sentence for each override that has no effect, with the remedy.

    Args:
        node: whose overrides are looked at.
        ends: (resolved name, whether it is a subscription) of all that `topic_qos` was asked for.
    """
    sentences = []
    for name in node._parameter_overrides:
        if name.startswith(PREFIX) and (wrong := _unused(node, name, ends)):
            sentences.append(f'parameter {name}: {wrong}')
    return sentences


def _unused(node: Node, name: str, ends: Collection[tuple[str, bool]]) -> str:
    topic, _, rest = name.removeprefix(PREFIX).partition('.')
    entity, _, policy = rest.partition('.')
    entities = [_entity(listens) for known, listens in ends if known == topic]
    if entity in entities and policy:
        return ''
    if entities:
        return (
            f'no effect, the node has a {entities[0]} of this topic; '
            f'write {PREFIX}{topic}.{entities[0]}.{policy or "depth"}'
        )
    wrong = 'no topic of the node is called so'
    if topic in _fixed_topics(node):
        wrong = 'the QoS of this topic is not overridable'
    return f'{wrong}; topics: {", ".join(sorted(known for known, _ in ends))}'


def _fixed_topics(node: Node) -> set[str]:
    """Topics of the node, those of rclpy and rcl included."""
    own = {publisher.topic_name for publisher in node.publishers}
    own |= {subscription.topic_name for subscription in node.subscriptions}
    return own | {'/rosout', node.resolve_topic_name('~/transition_event')}


def _entity(listens: bool) -> str:
    return 'subscription' if listens else 'publisher'


def _value(name: str, policy: str, value: Any) -> Any:
    if policy == 'depth':
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000:
            return value
        raise ValueError(f'parameter {name}: {value!r} is no depth; give 1 to 1000')
    if policy not in _POLICIES:
        known = ', '.join(['depth', *_POLICIES])
        raise ValueError(f'parameter {name}: {policy!r} is no policy; use one of {known}')
    try:
        return _POLICIES[policy][str(value).upper()]
    except KeyError:
        known = ', '.join(one.name.lower() for one in _POLICIES[policy])
        raise ValueError(f'parameter {name}: {value!r} is unknown; use one of {known}') from None


def _declare(node: Node, name: str, value: Any) -> None:
    if not node.has_parameter(name):
        text = 'QoS of one topic, instead of what input_* and output_* say.'
        node.declare_parameter(name, value, ParameterDescriptor(description=text, read_only=True))
