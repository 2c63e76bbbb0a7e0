"""What is told of the other ends of a topic, and how often: a graph that changes all the time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from vq_anomaly_ros.node import topic_watch
from vq_anomaly_ros.node.messages import stream_qos
from vq_anomaly_ros.node.topic_watch import TopicWatch

IMAGE = 'sensor_msgs/msg/Image'
TOPIC = '/front/image_raw'
PATIENCE = 5.0


class Graph:
    """A node's view of the graph, {topic: publishers}, and a clock; the test changes both."""

    def __init__(self) -> None:
        self.now = 100.0
        self.publishers: dict[str, list[Any]] = {}

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        return self.publishers.get(topic, [])

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [(topic, [IMAGE]) for topic in self.publishers]

    def get_fully_qualified_name(self) -> str:
        return '/anomaly_detector'


def publisher(name: str, kind: str = IMAGE, reliability: str = 'best_effort') -> Any:
    qos = stream_qos(reliability, 1)
    assert qos.durability == DurabilityPolicy.VOLATILE
    gid = name.encode().ljust(16)
    return SimpleNamespace(
        node_name=name, node_namespace='/', endpoint_gid=gid, topic_type=kind, qos_profile=qos
    )


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph = Graph()
    monkeypatch.setattr(topic_watch, 'time', SimpleNamespace(monotonic=lambda: graph.now))
    return graph


def watch(graph: Graph, awaited: bool = True) -> TopicWatch:
    qos = stream_qos('reliable', 1)
    assert qos.reliability == ReliabilityPolicy.RELIABLE
    return TopicWatch(graph, TOPIC, IMAGE, qos, listens=True, awaited=awaited)  # type: ignore[arg-type]


def told(graph: Graph, watched: TopicWatch, seconds: float, change: Any = None) -> list[str]:
    """What is said in so many seconds of ten looks each, with a change before each look."""
    said = []
    for number in range(round(10 * seconds)):
        if change is not None:
            change(number)
        said += watched.news(PATIENCE)
        graph.now += 0.1
    return said


def test_topics_that_come_and_go_elsewhere_are_no_news(graph: Graph) -> None:
    """The sentence lists them; it was told anew with every change of the list."""
    watched = watch(graph)

    def change(number: int) -> None:
        graph.publishers = {f'/other_{number}/image_raw': [publisher('driver')]}

    said = told(graph, watched, 30.0, change)
    assert len(said) == 1 and 'nobody publishes it; set cameras and image_topic' in said[0]


def test_what_is_there_is_told_once_it_is_found(graph: Graph) -> None:
    watched = watch(graph)
    (first,) = told(graph, watched, 10.0)
    assert 'no topic of type sensor_msgs/msg/Image is there' in first
    graph.publishers = {'/cam0/image_raw': [publisher('driver')]}
    (second,) = told(graph, watched, 10.0)
    assert second.endswith('topics of type sensor_msgs/msg/Image: /cam0/image_raw')


def test_publishers_that_come_and_go_are_told_at_most_once_a_second(graph: Graph) -> None:
    watched = watch(graph)

    def change(number: int) -> None:
        others = [publisher(f'player_{number}_{i}', reliability='reliable') for i in range(3)]
        graph.publishers = {TOPIC: others if number % 2 else [publisher('best_effort_driver')]}

    said = told(graph, watched, 10.0, change)
    assert 2 <= len(said) <= 11
    assert {'publishers' in s for s in said} | {'no message passes' in s for s in said} == {
        True,
        False,
    }


def test_every_misfit_is_told_once_one_after_the_other(graph: Graph) -> None:
    watched = watch(graph)
    names = [f'driver_{number}' for number in range(4)]
    graph.publishers = {TOPIC: [publisher(name) for name in names]}
    said = told(graph, watched, 20.0)
    misfits = [sentence for sentence in said if 'no message passes between' in sentence]
    assert len(said) == 5 and len(misfits) == 4
    assert all(any(f'/{name} ' in sentence for sentence in misfits) for name in names)
    assert '4 publishers' in (set(said) - set(misfits)).pop()


def test_what_comes_again_is_told_again(graph: Graph) -> None:
    watched = watch(graph)
    for _ in range(3):
        graph.publishers = {TOPIC: [publisher('driver', 'std_msgs/msg/String')]}
        (sentence,) = told(graph, watched, 2.0)
        assert '/driver publishes it as std_msgs/msg/String' in sentence
        graph.publishers = {}
        assert told(graph, watched, 2.0) == []


def test_a_topic_that_is_not_awaited_may_stay_silent(graph: Graph) -> None:
    watched = watch(graph, awaited=False)
    assert told(graph, watched, 30.0) == []
    graph.publishers = {TOPIC: [publisher('driver')]}
    assert len(told(graph, watched, 2.0)) == 1
