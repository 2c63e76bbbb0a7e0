"""A small stand-in for ROS's launch and launch_ros that records what a launch file makes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Recorded:
    """Any action or description: remembers its arguments."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args = args
        self.options = options


class LaunchConfiguration(Recorded):
    def perform(self, context: SimpleNamespace) -> str:
        return str(context.launch_configurations[self.args[0]])


def _modules() -> dict[str, ModuleType]:
    contents: dict[str, dict[str, Any]] = {
        'launch': {},
        'launch.actions': {
            name: type(name, (Recorded,), {})
            for name in (
                'DeclareLaunchArgument',
                'EmitEvent',
                'ExecuteProcess',
                'IncludeLaunchDescription',
                'OpaqueFunction',
                'RegisterEventHandler',
                'SetEnvironmentVariable',
                'TimerAction',
            )
        },
        'launch.event_handlers': {
            name: type(name, (Recorded,), {}) for name in ('OnProcessExit', 'OnShutdown')
        },
        'launch.events': {'Shutdown': type('Shutdown', (Recorded,), {})},
        'launch.launch_description_sources': {
            'PythonLaunchDescriptionSource': type('PythonSource', (Recorded,), {})
        },
        'launch.launch_context': {'LaunchContext': SimpleNamespace},
        'launch.launch_description': {'LaunchDescription': type('Description', (Recorded,), {})},
        'launch.substitutions': {'LaunchConfiguration': LaunchConfiguration},
        'launch_ros': {},
        'launch_ros.actions': {'Node': type('Node', (Recorded,), {})},
        'launch_ros.parameter_descriptions': {
            'ParameterValue': type('ParameterValue', (Recorded,), {})
        },
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, members in contents.items():
        vars(modules[name]).update(members)
    return modules


@pytest.fixture
def run_launch_file(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """run_launch_file(name, **arguments): its nodes, declared arguments and environment."""

    def run(name: str, **given: str) -> SimpleNamespace:
        for module_name, stand_in in _modules().items():
            monkeypatch.setitem(sys.modules, module_name, stand_in)
        spec = importlib.util.spec_from_file_location('launch_file', ROOT / 'launch' / name)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return _execute(module.generate_launch_description().args[0], given)

    return run


def _execute(entities: list[Any], given: dict[str, str]) -> SimpleNamespace:
    """Do what `ros2 launch` does with the actions, one after the other."""
    result = SimpleNamespace(arguments={}, environment={}, nodes=[])
    context = SimpleNamespace(launch_configurations=dict(given))
    for entity in entities:
        kind = type(entity).__name__
        if kind == 'DeclareLaunchArgument':
            _declare(entity, result, context)
        elif kind == 'SetEnvironmentVariable':
            result.environment[entity.args[0]] = entity.args[1]
        else:
            result.nodes.extend(entity.options['function'](context))
    unknown = set(given) - set(result.arguments)
    assert not unknown, f'arguments that the launch file does not declare: {unknown}'
    return result


def _declare(entity: Any, result: SimpleNamespace, context: SimpleNamespace) -> None:
    (name,) = entity.args
    result.arguments[name] = entity.options
    if 'default_value' not in entity.options:
        assert name in context.launch_configurations, f'{name} has to be given'
    value = context.launch_configurations.setdefault(name, entity.options.get('default_value'))
    choices = entity.options.get('choices')
    assert choices is None or value in choices
