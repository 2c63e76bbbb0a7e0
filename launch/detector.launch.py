"""Start the detector, and rviz2 if asked.

ros2 launch vq_anomaly_ros detector.launch.py cameras:="['/front','/rear']" rviz:=true
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnShutdown
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from vq_anomaly_ros.dds_profile import profile_setting
from vq_anomaly_ros.rviz_config import absolute_remapping, parameters_of, rviz_config

NODE = 'anomaly_detector'
CONFIG = Path(__file__).resolve().parents[1] / 'config'
# What is left empty is taken from the parameter file.
FROM_FILE = {
    'model': 'model file: a path, or the name of a shipped one',
    'backend': 'auto, tensorrt, openvino or onnxruntime',
    'cameras': "namespaces of the cameras, such as \"['/front','/rear']\"",
    'transport': 'raw or compressed',
    'target_fpr': 'share of normal pixels that the mask may hold, such as 0.001',
}
SWITCHES = {
    'use_sim_time': 'take the time from /clock',
    'respawn': 'start the detector again when it dies',
    'rviz': 'show the results in rviz2',
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes follow once their values are known."""
    return LaunchDescription(
        [
            *(
                _argument(name, '', f'{text} (empty: as params_file says)')
                for name, text in FROM_FILE.items()
            ),
            _argument('params_file', str(CONFIG / 'detector.yaml'), 'parameters of the detector'),
            _argument('namespace', '', 'namespace of the detector, and of cameras without a /'),
            _argument('remap', '', 'other topics, such as "[\'/front/image_raw:=/cam0/image\']"'),
            _argument('log_level', 'info', 'debug, info, warn, error or fatal'),
            *(
                DeclareLaunchArgument(
                    name, default_value='false', choices=['true', 'false'], description=text
                )
                for name, text in SWITCHES.items()
            ),
            # Most images between two processes are lost without it (see the file); a profile of
            # the user's own stays.
            *(SetEnvironmentVariable(name, path) for name, path in profile_setting().items()),
            OpaqueFunction(function=_nodes),
        ]
    )


def _argument(name: str, default: str, description: str) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description)


def _nodes(context: LaunchContext) -> list[Any]:
    """Make the nodes from the values of the arguments."""
    use_sim_time = _value(context, 'use_sim_time') == 'true'
    namespace = _value(context, 'namespace')
    remappings = [_remapping(text) for text in _list(_value(context, 'remap'))]
    detector = Node(
        package='vq_anomaly_ros',
        executable=NODE,
        name=NODE,
        namespace=namespace,
        output='screen',
        parameters=[
            _value(context, 'params_file'),
            {**_overrides(context), 'use_sim_time': use_sim_time},
        ],
        remappings=remappings,
        arguments=['--ros-args', '--log-level', _value(context, 'log_level')],
        respawn=_value(context, 'respawn') == 'true',
        respawn_delay=2.0,
    )
    if _value(context, 'rviz') != 'true':
        return [detector]
    config = _rviz_file(context)
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        name='rviz2',
        output='screen',
        arguments=['-d', str(config)],
        # It is in no namespace: what is relative in the detector's would mean other topics.
        remappings=[absolute_remapping(rule, namespace, NODE) for rule in remappings],
        parameters=[{'use_sim_time': use_sim_time}],
    )

    def remove(event: Any, context: LaunchContext) -> None:
        """Take the temporary file away."""
        config.unlink(missing_ok=True)

    return [detector, rviz, RegisterEventHandler(OnShutdown(on_shutdown=remove))]


def _rviz_file(context: LaunchContext) -> Path:
    """Write rviz2's configuration for the cameras of this launch to a temporary file."""
    namespace = _value(context, 'namespace')
    from_file = _file_parameters(Path(_value(context, 'params_file')), namespace)
    cameras = _list(_value(context, 'cameras')) or from_file.get('cameras', ['/front'])
    topic = from_file.get('image_topic', 'image_raw')
    transport = _value(context, 'transport') or from_file.get('transport', 'raw')
    text = rviz_config(CONFIG / 'detector.rviz', cameras, topic, transport, namespace)
    handle, name = tempfile.mkstemp(prefix='detector.', suffix='.rviz')
    with os.fdopen(handle, 'w', encoding='utf-8') as file:
        file.write(text)
    return Path(name)


def _file_parameters(path: Path, namespace: str) -> dict[str, Any]:
    """Return the parameters of the detector in a parameter file; none if it cannot be read."""
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # the node will say what is wrong with it
    return parameters_of(content, namespace, NODE)


def _overrides(context: LaunchContext) -> dict[str, Any]:
    """Collect the parameters that were given as arguments, typed as the node declares them."""
    given = {name: _value(context, name) for name in FROM_FILE}
    return {name: _typed(name, text) for name, text in given.items() if text}


def _typed(name: str, text: str) -> Any:
    if name == 'target_fpr':
        try:
            return float(text)
        except ValueError:
            raise ValueError(f'{name}:={text!r} is no number; write {name}:=0.001') from None
    if name == 'cameras':
        return _list(text)
    # Plain text would be read as YAML: a model called 'on' or '007' would lose its name.
    return ParameterValue(text, value_type=str)


def _list(text: str) -> list[str]:
    """Read "['a','b']", or a single name without brackets."""
    if not text:
        return []
    values = yaml.safe_load(text)
    return values if isinstance(values, list) else [text]


def _remapping(text: str) -> tuple[str, str]:
    old, separator, new = text.partition(':=')
    if not (separator and old and new):
        raise ValueError(f"remap:={text!r} is no remapping; write ['/old:=/new']")
    return old, new


def _value(context: LaunchContext, name: str) -> str:
    return str(LaunchConfiguration(name).perform(context))
