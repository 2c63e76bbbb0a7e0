"""replay.launch.py, executed through the stand-in: what is started, in which order, with what."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.drive_cameras import DriveCameras, drive_cameras, main, played_topics

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., SimpleNamespace]
pytest.importorskip('ament_index_python.packages', reason='no ament_index_python')
INSTALLED = """#!{python}
import sys
sys.path.insert(0, {root!r})
from vq_anomaly_ros.replay.drive_cameras import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ROS without rosbag2; drive_cameras is installed as colcon does, in the tests' Python."""
    prefix = tmp_path / 'prefix'
    add_package(prefix, 'vq_anomaly_ros')
    program = prefix / 'lib' / 'vq_anomaly_ros' / 'drive_cameras'
    program.parent.mkdir(parents=True)
    program.write_text(INSTALLED.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(prefix))
    return prefix


def add_package(prefix: Path, name: str) -> None:
    """Tell the index of ROS that a package is installed there."""
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True, exist_ok=True)
    (index / name).touch()


@pytest.fixture
def drive(tmp_path: Path, picture: Any) -> Callable[..., Path]:
    """drive(*topics): a bag with a picture on each (a String where the topic says so)."""

    def make(*topics: str) -> Path:
        with bags.BagWriter(tmp_path / 'drive') as writer:
            for topic in topics:
                if topic.endswith('_json') or topic in ('/diagnostics', '/clock', '/tf'):
                    writer.write_string(topic, 1, '')
                elif topic.endswith('/compressed'):
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
    expected = ['--clock', '--rate', '2.0', '--loop', '--topics', '/front/image_raw']
    assert player.options['arguments'] == [str(bag), *expected]
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


def test_rosbag2_where_it_is_installed(run_launch_file: Run, drive: Any, prefix: Path) -> None:
    add_package(prefix, 'ros2bag')
    bag = drive('/front/image_raw')
    launched = run_launch_file('replay.launch.py', bag=str(bag), keep='true')
    _, timer = launched.nodes
    (player,) = timer.options['actions']
    assert type(player).__name__ == 'ExecuteProcess'
    command = ['ros2', 'bag', 'play', str(bag), '--clock', '100', '--rate', '1.0']
    assert player.options['cmd'] == [*command, '--topics', '/front/image_raw']


RECORDED_WITH_RESULTS = (
    '/front/image_raw', '/front/anomaly/mask', '/front/anomaly/label_info_json', '/diagnostics',
    '/clock', '/tf',
)  # fmt: skip


@pytest.mark.parametrize('rosbag2', [True, False])
def test_old_results_diagnostics_and_clock_are_not_played(
    run_launch_file: Run, drive: Any, prefix: Path, rosbag2: bool
) -> None:
    if rosbag2:
        add_package(prefix, 'ros2bag')
    bag = drive(*RECORDED_WITH_RESULTS)
    timer = run_launch_file('replay.launch.py', bag=str(bag)).nodes[1]
    options = timer.options['actions'][0].options
    words = options['cmd' if rosbag2 else 'arguments']
    assert words[words.index('--topics') + 1 :] == ['/front/image_raw', '/tf']


def test_a_bag_of_results_alone_is_played_whole(drive: Any) -> None:
    assert played_topics(drive('/front/anomaly/overlay')) == ['/front/anomaly/overlay']


def test_cameras_that_are_given_are_not_looked_for(run_launch_file: Run, drive: Any) -> None:
    bag = drive('/rear/image_raw', '/side/image_raw/compressed')  # mixed: nothing to be found
    launched = run_launch_file('replay.launch.py', bag=str(bag), cameras='/rear')
    assert arguments_of(launched.nodes[0])['cameras'] == '/rear'


def test_a_missing_bag_is_named(run_launch_file: Run, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r'^drive_cameras: .*none: no such bag[^\n]*$'):
        run_launch_file('replay.launch.py', bag=str(tmp_path / 'none'))


def test_a_package_that_was_built_without_the_command(
    run_launch_file: Run, drive: Any, prefix: Path
) -> None:
    (prefix / 'lib' / 'vq_anomaly_ros' / 'drive_cameras').unlink()
    with pytest.raises(RuntimeError, match=r'drive_cameras: cannot be run .*make build'):
        run_launch_file('replay.launch.py', bag=str(drive('/front/image_raw')))


def test_a_delay_that_is_no_number_is_named(run_launch_file: Run, drive: Any) -> None:
    with pytest.raises(ValueError, match=r"delay:='abc' is no number of seconds; write delay:="):
        run_launch_file('replay.launch.py', bag=str(drive('/front/image_raw')), delay='abc')


def test_the_cameras_are_told_to_people(drive: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(drive('/cam/image_color'))]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert said == [
        ['cameras', '/cam'],
        ['transport', 'raw'],
        ['remap', '/cam/image_raw:=/cam/image_color'],
        ['topics', '/cam/image_color'],
    ]


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
