"""Play a bag to the detector, and show it in rviz2.

ros2 launch vq_anomaly_ros replay.launch.py bag:=drive rate:=1.0
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = 'vq_anomaly_ros'
DETECTOR = Path(__file__).resolve().parent / 'detector.launch.py'
# Handed on to detector.launch.py as they are.
HANDED_ON = {
    'model': 'model file: a path, or the name of a shipped one',
    'backend': 'auto, tensorrt, openvino or onnxruntime',
    'target_fpr': 'share of normal pixels that the mask may hold',
    'log_level': 'debug, info, warn, error or fatal',
}
DEFAULTS = {'log_level': 'info'}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; player and detector follow once their values are known."""
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='folder of the bag, or a .mcap or .db3 file'),
            _argument('rate', '1.0', 'speed; 2 is twice as fast as recorded'),
            _argument('delay', '5.0', 'seconds before the bag begins: the engine has to be ready'),
            _argument('cameras', '', 'namespaces of the cameras (empty: found in the bag)'),
            _argument('transport', '', 'raw or compressed (empty: as in the bag)'),
            _switch('loop', 'false', 'begin again at the end'),
            _switch('keep', 'false', 'go on after the end of the bag'),
            _switch('rviz', 'true', 'show the results in rviz2'),
            *(_argument(name, DEFAULTS.get(name, ''), text) for name, text in HANDED_ON.items()),
            OpaqueFunction(function=_actions),
        ]
    )


def _argument(name: str, default: str, description: str) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description)


def _switch(name: str, default: str, description: str) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(
        name, default_value=default, choices=['true', 'false'], description=description
    )


def _actions(context: LaunchContext) -> list[Any]:
    """Make detector and player from the values of the arguments."""
    bag = Path(_value(context, 'bag'))
    given = {name: _value(context, name) for name in (*HANDED_ON, 'rviz', 'cameras', 'transport')}
    drive = _drive(bag, look_for_cameras=not given['cameras'])
    if not given['cameras']:
        given['cameras'] = _text(drive['cameras'])
        given['transport'] = given['transport'] or drive['transport']
        given['remap'] = _text(drive['remap'])
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(DETECTOR)),
        launch_arguments={**given, 'use_sim_time': 'true'}.items(),
    )
    player = _player(context, bag, drive['topics'])
    actions = [detector, TimerAction(period=_seconds(context, 'delay'), actions=[player])]
    if _value(context, 'keep') != 'true':
        end = EmitEvent(event=Shutdown(reason=f'{bag} was played to its end'))
        actions.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end])))
    return actions


def _drive(bag: Path, look_for_cameras: bool) -> dict[str, Any]:
    """Ask the installed command drive_cameras about a bag.

    A launch file runs in the Python of ROS; what reads bags is in the Python that the package was
    built with, and an installed command names that one in its first line.
    """
    program = Path(get_package_prefix(PACKAGE)) / 'lib' / PACKAGE / 'drive_cameras'
    options = ['--json', *([] if look_for_cameras else ['--topics-only'])]
    try:
        done = subprocess.run(
            [str(program), str(bag), *options], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise RuntimeError(
            f'{program}: cannot be run ({error.strerror}); build the package again: make build'
        ) from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return dict(json.loads(done.stdout))


def _player(context: LaunchContext, bag: Path, topics: list[str]) -> Any:
    """`ros2 bag play` where rosbag2 is installed, else the player of this package."""
    loop = ['--loop'] if _value(context, 'loop') == 'true' else []
    options = ['--clock', '--rate', _value(context, 'rate'), *loop, '--topics', *topics]
    try:
        get_package_prefix('ros2bag')
    except PackageNotFoundError:
        return Node(
            package=PACKAGE,
            executable='play_bag',
            output='screen',
            arguments=[str(bag), *options],
        )
    return ExecuteProcess(
        cmd=['ros2', 'bag', 'play', str(bag), *_as_rosbag2(options)], output='screen'
    )


def _as_rosbag2(options: list[str]) -> list[str]:
    """`ros2 bag play` takes the rate of the clock with --clock; 100 Hz."""
    place = options.index('--clock') + 1
    return [*options[:place], '100', *options[place:]]


def _text(values: Any) -> str:
    """Write a list as detector.launch.py reads it; '' for an empty one."""
    quoted = [f"'{value}'" for value in values]
    return f'[{",".join(quoted)}]' if quoted else ''


def _seconds(context: LaunchContext, name: str) -> float:
    text = _value(context, name)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'{name}:={text!r} is no number of seconds; write {name}:=5.0') from None


def _value(context: LaunchContext, name: str) -> str:
    return str(LaunchConfiguration(name).perform(context))
