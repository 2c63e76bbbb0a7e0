"""Start the detector, and rviz2 if asked.

ros2 launch vq_anomaly_ros detector.launch.py cameras:="['/front','/rear']" rviz:=true
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).resolve().parents[1] / 'config'
# Fast DDS 2 (Humble, Jazzy) and Fast DDS 3 (Kilted and later) read different names.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
# What is left empty is taken from the parameter file.
FROM_FILE = {
    'model': 'model file: a path, or the name of a shipped one',
    'backend': 'auto, openvino or onnxruntime',
    'cameras': "namespaces of the cameras, such as \"['/front','/rear']\"",
    'target_fpr': 'share of normal pixels that the mask may hold, such as 0.001',
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes follow once their values are known."""
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=f'{text} (empty: params_file)')
        for name, text in FROM_FILE.items()
    ]
    return LaunchDescription(
        [
            *arguments,
            DeclareLaunchArgument(
                'params_file',
                default_value=str(CONFIG / 'detector.yaml'),
                description='parameter file of the detector',
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='false',
                choices=['true', 'false'],
                description='take the time from /clock',
            ),
            DeclareLaunchArgument(
                'respawn',
                default_value='false',
                choices=['true', 'false'],
                description='start the detector again when it dies',
            ),
            DeclareLaunchArgument(
                'rviz',
                default_value='false',
                choices=['true', 'false'],
                description='show the results in rviz2',
            ),
            # Most images between two processes are lost without it (see the file); a profile of
            # the user's own stays.
            *(
                SetEnvironmentVariable(name, str(CONFIG / 'fastdds_large_images.xml'))
                for name in PROFILE_VARIABLES
                if name not in os.environ
            ),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context: LaunchContext) -> list[Node]:
    """Make the nodes from the values of the arguments."""
    use_sim_time = {'use_sim_time': _is_true(context, 'use_sim_time')}
    detector = Node(
        package='vq_anomaly_ros',
        executable='anomaly_detector',
        name='anomaly_detector',
        output='screen',
        parameters=[_value(context, 'params_file'), _overrides(context), use_sim_time],
        respawn=_is_true(context, 'respawn'),
        respawn_delay=2.0,
    )
    if not _is_true(context, 'rviz'):
        return [detector]
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        name='rviz2',
        output='screen',
        arguments=['-d', str(CONFIG / 'detector.rviz')],
        parameters=[use_sim_time],
    )
    return [detector, rviz]


def _overrides(context: LaunchContext) -> dict[str, Any]:
    """Collect the parameters that were given as arguments, typed as the node declares them."""
    given = {name: _value(context, name) for name in FROM_FILE}
    return {name: _typed(name, text) for name, text in given.items() if text}


def _typed(name: str, text: str) -> Any:
    if name == 'target_fpr':
        return float(text)
    if name == 'cameras':
        cameras = yaml.safe_load(text)
        return cameras if isinstance(cameras, list) else [text]
    # Plain text would be read as YAML: a model called 'on' or '007' would lose its name.
    return ParameterValue(text, value_type=str)


def _value(context: LaunchContext, name: str) -> str:
    return str(LaunchConfiguration(name).perform(context))


def _is_true(context: LaunchContext, name: str) -> bool:
    return _value(context, name) == 'true'
