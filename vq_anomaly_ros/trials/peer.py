"""A ROS node beside the one under trial: it publishes, listens and calls services, spun by hand."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rclpy
from rcl_interfaces.srv import ListParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile

from vq_anomaly_ros.dds_profile import VARIABLES
from vq_anomaly_ros.replay.demo import child_environment

# Against hanging only: a loaded machine may take its time.
PATIENCE = 90.0
# With the range LOCALHOST, rmw_fastrtps takes shared memory whatever else is said.
_BY_UDP = {
    'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4',
    'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
    'ROS_STATIC_PEERS': '127.0.0.1',
}
# A writer knows its reader a little before the reader knows the writer: seconds to give a listener
# that answers no service and to wait for one that does.
_SETTLE = 0.3
_ANSWER = 5.0
# What ROS calls a node of whose name nothing has arrived.
_UNKNOWN = '_NODE_NAME_UNKNOWN_'


class TrialError(AssertionError):
    """What was expected of the node did not come about; the message says what."""


def expect(condition: Any, what: str) -> None:
    """Raise TrialError, which says `what`, unless the condition holds."""
    if not condition:
        raise TrialError(what)


class Peer:
    """A node of the trial's own."""

    def __init__(self, context: Context, name: str = '') -> None:
        """Make the node in an initialised context; without a name it gets one of its own."""
        self.node = rclpy.create_node(name or f'peer_{secrets.token_hex(4)}', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)

    def spin_until(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Spin until `condition` holds; returns its value, false at the end of the patience."""
        end = time.monotonic() + patience
        while not (value := condition()) and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def spin_for(self, seconds: float) -> None:
        """Spin for so long."""
        self.spin_until(lambda: False, seconds)

    def collect(self, kind: Any, topic: str, latched: bool = False, depth: int = 10) -> list[Any]:
        """Subscribe (reliable); the list grows while the peer spins."""
        qos = QoSProfile(depth=depth)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def publisher(self, kind: Any, topic: str, depth: int = 10) -> Publisher:
        """A reliable publisher; its subscribers know it, and what the peer listens to so far."""
        publisher = self.node.create_publisher(kind, topic, depth)
        found = self.spin_until(publisher.get_subscription_count)
        expect(found, f'nobody listens to {topic}')
        for namespace, name in self._listeners(publisher.topic_name):
            self._be_known(namespace, name)
        return publisher

    def _listeners(self, topic: str) -> set[tuple[str, str]]:
        """(namespace, name) of the nodes that listen to a topic.

        A subscription is known before the name of its node is: what has none yet is waited for.
        """

        def found() -> set[tuple[str, str]]:
            listeners = self.node.get_subscriptions_info_by_topic(topic)
            return {(one.node_namespace, one.node_name) for one in listeners}

        self.spin_until(lambda: _UNKNOWN not in {name for _, name in found()}, _ANSWER)
        return {one for one in found() if one[1] != _UNKNOWN}

    def _be_known(self, namespace: str, name: str) -> None:
        """Wait until a node knows the publishers and subscriptions of this one.

        A participant tells the others of its endpoints in the order in which they were made, and
        nothing of that is lost: who answers a client made last knows everything before it.
        """
        service = f'{namespace.rstrip("/")}/{name}/list_parameters'
        client = self.node.create_client(ListParameters, service)
        try:
            if self.spin_until(client.service_is_ready, _ANSWER):
                future = client.call_async(ListParameters.Request())
                if self.spin_until(future.done, _ANSWER):
                    return
            self.spin_for(_SETTLE)
        finally:
            self.node.destroy_client(client)

    def call(self, kind: Any, service: str, **fields: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, service)
        try:
            expect(self.spin_until(client.service_is_ready), f'{service} is not there')
            future = client.call_async(kind.Request(**fields))
            expect(self.spin_until(future.done), f'{service} does not answer')
            return future.result()
        finally:
            self.node.destroy_client(client)

    def topics(self, below: str) -> dict[str, list[str]]:
        """{topic: types} of what is published below a name."""
        return {
            name: types
            for name, types in self.node.get_topic_names_and_types()
            if name.startswith(below) and self.node.count_publishers(name)
        }

    def close(self) -> None:
        """Destroy the node."""
        self.executor.shutdown()
        self.node.destroy_node()


@contextmanager
def own_domain(by_udp: bool = False) -> Iterator[tuple[Peer, Mapping[str, str]]]:
    """Give a peer in a domain of its own, and the environment of the processes that it meets.

    by_udp: without shared memory, and thus for small messages only; in a process that has not met
    anybody before, for Fast DDS reads its settings once.
    """
    environment = child_environment()
    if by_udp:
        environment.update(_BY_UDP)
        for name in VARIABLES:
            environment.pop(name, None)
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    context = Context()
    rclpy.init(context=context, domain_id=int(environment['ROS_DOMAIN_ID']))
    peer = Peer(context)
    try:
        yield peer, environment
    finally:
        peer.close()
        rclpy.shutdown(context=context)
        os.environ.clear()
        os.environ.update(before)
