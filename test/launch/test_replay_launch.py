"""replay.launch.py, executed through the stand-in: what is started, in which order, with what."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.drive_cameras import DriveCameras, drive_cameras

Run = Callable[..., SimpleNamespace]
packages = pytest.importorskip('ament_index_python.packages', reason='no ament_index_python')


@pytest.fixture(autouse=True)
def _a_ros_without_rosbag2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))


@pytest.fixture
def drive(tmp_path: Path, picture: Any) -> Callable[..., Path]:
    """drive(*topics): a bag with a picture on each."""

    def make(*topics: str) -> Path:
        with bags.BagWriter(tmp_path / 'drive') as writer:
            for topic in topics:
                if topic.endswith('/compressed'):
                    jpeg = cv2.imencode('.jpg', picture(0))[1].tobytes()
                    writer.write_compressed(topic, 1, array.array('B', jpeg).tobytes(), 'jpeg')
                else:
                    writer.write_image(topic, 1, picture(0), 'bgr8')
        return tmp_path / 'drive'

    return make


def kinds(actions: list[Any]) -> list[str]:
    return [type(action).__name__ for action in actions]


def arguments_of(include: Any) -> dict[str, str]:
    return dict(include.options['launch_arguments'])


def test_own_player_where_rosbag2_is_not_installed(run_launch_file: Run, drive: Any) -> None:
    bag = drive('/front/image_raw')
    launched = run_launch_file('replay.launch.py', bag=str(bag), rate='2.0', loop='true')
    detector, timer, handler = launched.nodes
    assert kinds(launched.nodes) == [
        'IncludeLaunchDescription',
        'TimerAction',
        'RegisterEventHandler',
    ]
    source = Path(detector.args[0].args[0])
    assert source.name == 'detector.launch.py' and source.is_file()
    given = arguments_of(detector)
    assert given['cameras'] == "['/front']" and given['transport'] == 'raw'
    assert (given['use_sim_time'], given['rviz'], given['remap']) == ('true', 'true', '')
    (player,) = timer.options['actions']
    assert timer.options['period'] == 5.0
    assert (player.options['package'], player.options['executable']) == (
        'vq_anomaly_ros',
        'play_bag',
    )
    assert player.options['arguments'] == [str(bag), '--clock', '--rate', '2.0', '--loop']
    (end,) = handler.args[0].options['on_exit']
    assert handler.args[0].options['target_action'] is player
    assert 'played to its end' in end.options['event'].options['reason']


def test_its_arguments_are_those_of_the_detectors_launch_file(
    run_launch_file: Run, drive: Any
) -> None:
    include = run_launch_file('replay.launch.py', bag=str(drive('/front/image_raw'))).nodes[0]
    given = arguments_of(include)
    detector = run_launch_file('detector.launch.py', **{**given, 'rviz': 'false'})
    assert detector.nodes[0].options['parameters'][1]['use_sim_time'] is True


def test_rosbag2_where_it_is_installed(
    run_launch_file: Run, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, 'get_package_prefix', lambda name: '/opt/ros')
    bag = drive('/front/image_raw')
    launched = run_launch_file('replay.launch.py', bag=str(bag), keep='true')
    _, timer = launched.nodes
    (player,) = timer.options['actions']
    assert type(player).__name__ == 'ExecuteProcess'
    command = ['ros2', 'bag', 'play', str(bag), '--clock', '100', '--rate', '1.0']
    assert player.options['cmd'] == command


def test_cameras_that_are_given_are_not_looked_for(run_launch_file: Run, tmp_path: Path) -> None:
    launched = run_launch_file('replay.launch.py', bag=str(tmp_path / 'none'), cameras='/rear')
    assert arguments_of(launched.nodes[0])['cameras'] == '/rear'


def test_a_missing_bag_is_named(run_launch_file: Run, tmp_path: Path) -> None:
    with pytest.raises(bags.BagError, match='none: no such bag'):
        run_launch_file('replay.launch.py', bag=str(tmp_path / 'none'))


@pytest.mark.parametrize(
    ('topics', 'expected'),
    [
        (
            ['/left/image_raw', '/right/image_raw', '/left/anomaly/mask'],
            DriveCameras(('/left', '/right'), 'raw', ()),
        ),
        (
            ['/cam/image_color'],
            DriveCameras(('/cam',), 'raw', (('/cam/image_raw', '/cam/image_color'),)),
        ),
        (
            ['/a/b/image_raw/compressed'],
            DriveCameras(('/a/b',), 'compressed', ()),
        ),
        (
            ['/image/compressed'],
            DriveCameras(
                ('/camera',), 'compressed', (('/camera/image_raw/compressed', '/image/compressed'),)
            ),
        ),
        (
            ['/cam/image_raw', '/cam/image_raw/compressed'],
            DriveCameras(('/cam',), 'raw', ()),
        ),
    ],
)
def test_the_cameras_of_a_drive(drive: Any, topics: list[str], expected: DriveCameras) -> None:
    assert drive_cameras(drive(*topics)) == expected


def test_mixed_transports_have_to_be_chosen(drive: Any) -> None:
    with pytest.raises(bags.BagError, match='raw and compressed cameras are mixed'):
        drive_cameras(drive('/a/image_raw', '/b/image_raw/compressed'))


def test_a_drive_without_pictures(tmp_path: Path) -> None:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        writer.write_string('/info', 1, '{}')
    with pytest.raises(bags.BagError, match='no image topic'):
        drive_cameras(tmp_path / 'drive')
