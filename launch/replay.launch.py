"""Play a bag to the detector, and show it in rviz2.

ros2 launch vq_anomaly_ros replay.launch.py bag:=drive rate:=1.0
"""

from __future__ import annotations

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

from vq_anomaly_ros.replay.drive_cameras import drive_cameras

DETECTOR = Path(__file__).resolve().parent / 'detector.launch.py'
# Handed on to detector.launch.py as they are.
HANDED_ON = {
    'model': 'model file: a path, or the name of a shipped one',
    'backend': 'auto, openvino or onnxruntime',
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
    if not given['cameras']:
        found = drive_cameras(bag)
        given['cameras'] = _text(found.namespaces)
        given['transport'] = given['transport'] or found.transport
        given['remap'] = _text(f'{old}:={new}' for old, new in found.remappings)
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(DETECTOR)),
        launch_arguments={**given, 'use_sim_time': 'true'}.items(),
    )
    player = _player(context, bag)
    actions = [detector, TimerAction(period=float(_value(context, 'delay')), actions=[player])]
    if _value(context, 'keep') != 'true':
        end = EmitEvent(event=Shutdown(reason=f'{bag} was played to its end'))
        actions.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end])))
    return actions


def _player(context: LaunchContext, bag: Path) -> Any:
    """`ros2 bag play` where rosbag2 is installed, else the player of this package."""
    loop = ['--loop'] if _value(context, 'loop') == 'true' else []
    options = ['--clock', '--rate', _value(context, 'rate'), *loop]
    try:
        get_package_prefix('ros2bag')
    except PackageNotFoundError:
        return Node(
            package='vq_anomaly_ros',
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


def _value(context: LaunchContext, name: str) -> str:
    return str(LaunchConfiguration(name).perform(context))
