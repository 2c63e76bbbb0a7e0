"""Bags out onto topics and back: player and recorder as processes, over DDS."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import QosReliability
from rosbags.rosbag2 import StoragePlugin, Writer

from vq_anomaly_ros.images import image_fields
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.bags import BagWriter, read_raw

pytest.importorskip('rclpy', reason='ROS is not installed')
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vq_anomaly_ros.node import player, recorder
from vq_anomaly_ros.node.messages import MessageTypeError, message_type

MILLISECOND = 1_000_000
START = 1_700_000_000 * 10**9


@pytest.fixture
def bag(tmp_path: Path, picture: Any) -> Path:
    """20 images in 0.4 s, a latched string, and diagnostics."""
    path = tmp_path / 'drive'
    types = bags.typestore().types
    with BagWriter(path) as writer:
        writer.write_string('/front/info', START, 'latched', latched=True)
        for i in range(20):
            stamp = START + 20 * i * MILLISECOND
            writer.write_image('/front/image_raw', stamp, picture(i), 'bgr8', 'lens')
        writer.write(
            '/front/state',
            'diagnostic_msgs/msg/DiagnosticArray',
            START + 400 * MILLISECOND,
            types['diagnostic_msgs/msg/DiagnosticArray'](
                header=bags.header(START, ''),
                status=[
                    types['diagnostic_msgs/msg/DiagnosticStatus'](
                        level=1, name='n', message='m', hardware_id='', values=[]
                    )
                ],
            ),
        )
    return path


def contents(path: Path, topic: str) -> list[bytes]:
    return [bytes(raw.cdr) for raw in read_raw(path, [topic])]


def test_a_bag_comes_back_byte_for_byte(
    bag: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    out = tmp_path / 'back'
    topics = ['/front/image_raw', '/front/info', '/front/state']
    recording = start('recorder', str(out), '--topics', *topics, '--until-idle', '1.5')
    playing = start('player', str(bag), '--wait-for-subscribers', '1')
    assert playing.wait() == 0, playing.output
    assert recording.wait() == 0, recording.output
    assert 'recording all topics' in recording.output
    for topic in topics:
        assert contents(out, topic) == contents(bag, topic), topic
        assert f'{topic} ' in playing.output
        assert f'{topic}: {len(contents(bag, topic))} messages' in recording.output
    assert bags.topics(out) == bags.topics(bag)
    assert not list(tmp_path.glob('.*')), 'the recorder left its scratch folder'
    (info,) = bags.offered_qos(out)['/front/info']
    assert info.durability.name == 'TRANSIENT_LOCAL'


def test_the_pace_is_the_bags(
    bag: Path, tmp_path: Path, start: Callable[..., Any], peer: Any
) -> None:
    sent: list[int] = []  # ns: when it came is not the player's doing

    def note(_: Image, about: dict[str, Any]) -> None:
        sent.append(about['source_timestamp'])

    peer.node.create_subscription(Image, '/front/image_raw', note, 50)
    program = start(
        'player', str(bag), '--topics', '/front/image_raw', '--rate', '0.5',
        '--wait-for-subscribers', '1',
    )  # fmt: skip
    assert peer.spin_until(lambda: len(sent) == 20)
    assert program.wait() == 0
    # Gaps of 20 ms at half the speed. A frame that is late makes its own longer and shortens those
    # that catch up, so the one in the middle is judged.
    assert 0.9 * 40 < np.median(np.diff(sent)) / MILLISECOND < 1.25 * 40


def test_topics_remap_and_clock(bag: Path, start: Callable[..., Any], peer: Any) -> None:
    clock = peer.collect(Clock, '/clock', depth=1000)
    images = peer.collect(Image, '/rear/image_raw', depth=50)
    program = start(
        'player', str(bag), '--topics', '/front/image_raw', '--clock',
        '--remap', '/front/image_raw:=/rear/image_raw', '--wait-for-subscribers', '1',
    )  # fmt: skip
    assert peer.spin_until(lambda: len(images) == 20)
    assert program.wait() == 0
    times = [c.clock.sec * 10**9 + c.clock.nanosec for c in clock]
    assert times == sorted(times)
    assert times[0] >= START and times[-1] <= START + 380 * MILLISECOND
    assert len(times) > 10
    assert [image.header.frame_id for image in images] == ['lens'] * 20


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--topics', '/nothing'], ['no topic /nothing', '/front/image_raw']),
        (
            [
                '--topics',
                '/front/image_raw',
                '--wait-for-subscribers',
                '1',
                '--wait-timeout',
                '0.2',
            ],
            ['/front/image_raw: fewer than 1 subscribers after 0.2 s'],
        ),
    ],
)
def test_what_cannot_be_played_is_said(
    bag: Path, start: Callable[..., Any], arguments: list[str], words: list[str]
) -> None:
    program = start('player', str(bag), *arguments)
    assert program.wait() == 1
    assert all(word in program.output for word in words), program.output
    assert 'Traceback' not in program.output


def test_a_topic_that_ros_does_not_take_is_said_and_the_others_are_played(
    tmp_path: Path, start: Callable[..., Any], peer: Any
) -> None:
    with BagWriter(tmp_path / 'odd') as writer:
        writer.write_string('front image', START, 'odd')
        writer.write_string('/word', START, 'good')
    words = peer.collect(String, '/word')
    odd = peer.collect(String, '/odd')
    options = ['--wait-for-subscribers', '1']
    program = start('player', str(tmp_path / 'odd'), *options)
    assert program.wait() == 0, program.output
    assert 'front image: not played: ROS takes no such name; give it another with --remap' in (
        program.output
    )
    assert 'Traceback' not in program.output
    program = start('player', str(tmp_path / 'odd'), *options, '--remap', 'front image:=/odd')
    assert program.wait() == 0, program.output
    assert peer.spin_until(lambda: odd and len(words) == 2)
    assert (odd[0].data, words[0].data) == ('odd', 'good')


def test_a_missing_bag_is_said(tmp_path: Path, start: Callable[..., Any]) -> None:
    program = start('player', str(tmp_path / 'nowhere'))
    assert program.wait() == 1
    assert 'nowhere: no such bag' in program.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_player_and_recorder_with_a_whole_bag(
    bag: Path, tmp_path: Path, start: Callable[..., Any], ended_well: Any, number: int
) -> None:
    out = tmp_path / 'cut'
    recording = start('recorder', str(out), '--topics', '/front/image_raw', '/front/nobody')
    playing = start(
        'player', str(bag), '--loop', '--wait-for-subscribers', '1', '--topics', '/front/image_raw'
    )
    recording.wait_for('recording /front/image_raw (sensor_msgs/msg/Image)')
    time.sleep(1.0)
    assert not out.exists(), 'the bag must appear only when it is whole'
    ended_well(recording, number)
    ended_well(playing, number)
    recorded = contents(out, '/front/image_raw')
    assert len(recorded) > 5
    assert set(recorded) <= set(contents(bag, '/front/image_raw'))
    assert '/front/nobody: no publisher appeared' in recording.output


def test_a_recording_of_nothing_leaves_no_bag(tmp_path: Path, start: Callable[..., Any]) -> None:
    out = tmp_path / 'empty'
    program = start('recorder', str(out), '--topics', '/nothing', '--max-duration', '0.3')
    assert program.wait() == 1
    assert 'no message came on /nothing' in program.output
    assert list(tmp_path.iterdir()) == [program.log]


def test_an_existing_bag_is_not_replaced(bag: Path, start: Callable[..., Any]) -> None:
    program = start('recorder', str(bag), '--topics', '/front/image_raw')
    assert program.wait() == 1
    assert f'{bag}: exists already' in program.output


def test_idle_does_not_wait_for_topics_that_never_fall_silent(
    tmp_path: Path, start: Callable[..., Any], peer: Any
) -> None:
    out = tmp_path / 'idle'
    program = start(
        'recorder', str(out), '--topics', '/clock', '/word', '--until-idle', '1', '--storage',
        'sqlite3',
    )  # fmt: skip
    clock = peer.publisher(Clock, '/clock')
    word = peer.publisher(String, '/word')
    word.publish(String(data='once'))

    def tick() -> bool:
        clock.publish(Clock())
        return program.process.poll() is not None

    assert peer.spin_until(tick)
    assert program.wait() == 0, program.output
    assert len(contents(out, '/word')) == 1
    assert len(contents(out, '/clock')) > 3
    assert list(out.glob('*.db3'))


def test_large_images_cross_processes_with_the_profile(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    """Best effort, 1080p at 30 Hz: without the profile most of these are lost."""
    path, out, frames = tmp_path / 'large', tmp_path / 'received', 30
    write_large_images(path, frames)
    recording = start('recorder', str(out), '--topics', '/front/image_raw', '--until-idle', '2')
    playing = start('player', str(path), '--wait-for-subscribers', '1')
    assert playing.wait() == 0, playing.output
    assert recording.wait() == 0, recording.output
    received = [bags.deserialize(raw).data[0] for raw in read_raw(out)]
    assert received == sorted(set(received))
    assert len(received) >= 0.8 * frames, f'{len(received)} of {frames} large images arrived'


def write_large_images(path: Path, frames: int) -> None:
    """A bag of 1080p images offered best effort, numbered in their first byte."""
    store = bags.typestore()
    pixels = np.zeros((1080, 1920, 3), np.uint8)
    qos = bags.qos_profile()._replace(reliability=QosReliability.BEST_EFFORT)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            '/front/image_raw', bags.IMAGE, typestore=store, offered_qos_profiles=[qos]
        )
        for i in range(frames):
            pixels[0, 0] = i
            stamp = START + i * 33 * MILLISECOND
            message = store.types[bags.IMAGE](
                header=bags.header(stamp, 'camera'), **image_fields(pixels, 'bgr8')
            )
            writer.write(connection, stamp, store.serialize_cdr(message, bags.IMAGE))


def test_the_bags_qos_is_offered() -> None:
    latched = player.publisher_qos([bags.qos_profile(latched=True)])
    assert latched.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert player.publisher_qos([bags.qos_profile()]).depth == 5
    unknown = player.publisher_qos([])
    assert unknown.reliability == ReliabilityPolicy.RELIABLE
    assert unknown.durability == DurabilityPolicy.VOLATILE


def test_the_recorders_qos_matches_all_publishers() -> None:
    class Endpoint:
        def __init__(self, **policies: Any) -> None:
            self.qos_profile = QoSProfile(depth=1, **policies)

    reliable = Endpoint(reliability=ReliabilityPolicy.RELIABLE)
    best_effort = Endpoint(reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = Endpoint(durability=DurabilityPolicy.TRANSIENT_LOCAL)
    qos = recorder.subscription_qos([reliable])  # type: ignore[list-item]
    assert qos.reliability == ReliabilityPolicy.RELIABLE
    qos = recorder.subscription_qos([reliable, best_effort])  # type: ignore[list-item]
    assert qos.reliability == ReliabilityPolicy.BEST_EFFORT
    qos = recorder.subscription_qos([latched])  # type: ignore[list-item]
    assert qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    qos = recorder.subscription_qos([latched, reliable])  # type: ignore[list-item]
    assert qos.durability == DurabilityPolicy.VOLATILE


def test_a_message_type_is_imported_by_its_name() -> None:
    assert message_type('sensor_msgs/msg/Image') is Image
    for name in ('no_such_msgs/msg/Thing', 'sensor_msgs/msg/Thing', 'Image'):
        with pytest.raises(MessageTypeError, match=name):
            message_type(name)


@pytest.mark.parametrize(
    'arguments', [['bag', '--rate', '0'], ['bag', '--rate', 'x'], ['bag', '--remap', '/a']]
)
def test_bad_options_of_the_player(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        player.main(arguments)
    assert ended.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


@pytest.mark.parametrize('program', [player, recorder])
def test_help(program: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(['--help'])
    assert ended.value.code == 0
    assert '--topics' in capsys.readouterr().out
