"""The parameter table: its documentation, its parameter file, its verdicts."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.node import parameters
from vq_anomaly_ros.node.parameters import PARAMETERS, Changes, ParameterSpec, Settings

ROOT = Path(__file__).resolve().parents[2]
SPECS = {spec.name: spec for spec in PARAMETERS}


def test_the_documentation_is_the_table() -> None:
    page = (ROOT / 'docs' / 'parameters.md').read_text(encoding='utf-8')
    assert page == parameters.markdown(), (
        'make it again: python -m vq_anomaly_ros.node.parameters > docs/parameters.md'
    )
    for spec in PARAMETERS:
        assert f'| `{spec.name}` | {spec.type_name} |' in page


def test_the_page_is_made_without_ros() -> None:
    script = (
        "import sys; sys.modules['rclpy'] = sys.modules['rcl_interfaces'] = None\n"
        'from vq_anomaly_ros.node import parameters; print(parameters.markdown(), end="")'
    )
    made = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, env=os.environ, capture_output=True, check=True
    )
    assert made.stdout.decode() == parameters.markdown()


def test_the_parameter_file_holds_every_default() -> None:
    content = yaml.safe_load((ROOT / 'config' / 'detector.yaml').read_text(encoding='utf-8'))
    given_values = content['/**']['ros__parameters']
    declared = parameters.resolve(given_values)
    assert declared == (Settings(), {}, [])
    assert set(given_values) == set(SPECS)


@pytest.mark.parametrize('spec', PARAMETERS, ids=lambda spec: spec.name)
def test_every_parameter_is_described_and_its_default_allowed(spec: ParameterSpec) -> None:
    assert spec.description.endswith('.') and len(spec.description) > 20
    assert spec.problem(spec.default) == ''


@pytest.mark.parametrize(
    ('name', 'value', 'word'),
    [
        ('target_fpr', 0.9, 'outside 1e-05 to 0.5'),
        ('target_fpr', float('nan'), 'outside'),
        ('target_fpr', 'small', 'is no double'),
        ('target_fpr', True, 'is no double'),
        ('threads', -1, 'outside 0 to 256'),
        ('threads', 1.0, 'is no integer'),
        ('backend', 'cuda', 'none of auto, tensorrt, openvino, onnxruntime'),
        ('autostart', 'yes', 'is no bool'),
        ('cameras', [], 'the list is empty'),
        ('cameras', ['/front', '/front'], 'named twice'),
        ('cameras', ['front camera'], 'is no namespace'),
        ('cameras', '/front', "is no string array; give one, such as ['/front']"),
        ('autostart', 1, 'is no bool; give one, such as true'),
        ('cameras', ['/front/'], 'is no namespace'),
        ('image_topic', '/image_raw', 'without leading /'),
        ('model', 3, 'is no string'),
        ('region', ['0,0 1,1'], '2 corners'),
        ('region', ['/front: 0,0 1,0 1,3'], 'outside of the picture'),
        ('region', ['lane'], 'is no corner'),
        ('smoothing', 1.0, 'outside 0 to 0.95'),
        ('obstacle_persistence', 0, 'outside 1 to 100'),
    ],
)
def test_a_refused_value_is_named_with_its_reason(name: str, value: Any, word: str) -> None:
    problem = SPECS[name].problem(value)
    assert problem.startswith(f'parameter {name}: ')
    assert word in problem
    declared = parameters.resolve({name: value})
    assert declared == (Settings(), {name: problem}, [])


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_a_bounded_double_takes_exactly_its_bounds(value: float) -> None:
    allowed = parameters.LOWEST_FPR <= value <= 0.5
    assert (SPECS['target_fpr'].problem(value) == '') == allowed


def test_a_double_may_come_as_an_integer() -> None:
    settings = parameters.resolve({'warn_silence': 3}).settings
    assert settings == dataclasses.replace(Settings(), warn_silence=3.0)
    assert isinstance(settings.warn_silence, float)


def test_an_unknown_name_gets_its_likely_spelling() -> None:
    given = {'target_frp': 0.1, 'use_sim_time': True, 'zzz': 1}
    unknown = parameters.resolve(given, of_ros=['use_sim_time']).unknown
    assert unknown == [
        'parameter target_frp: the node has none of this name; did you mean target_fpr?',
        'parameter zzz: the node has none of this name; it has no effect',
    ]


def test_changes_at_run_time() -> None:
    assert parameters.refusal({'target_fpr': 0.01, 'use_sim_time': True}, unconfigured=False) == ''
    assert 'outside' in parameters.refusal({'target_fpr': 1.0}, unconfigured=False)
    assert 'clean it up first' in parameters.refusal({'model': 'x'}, unconfigured=False)
    assert parameters.refusal({'model': 'x'}, unconfigured=True) == ''
    changed = parameters.updated(Settings(), {'cameras': ['/a', '/b'], 'use_sim_time': True})
    assert changed == dataclasses.replace(Settings(), cameras=('/a', '/b'))


@pytest.mark.parametrize(
    ('transport', 'topic'),
    [('raw', '/front/image_raw'), ('compressed', '/front/image_raw/compressed')],
)
def test_the_input_topic_follows_the_transport(transport: str, topic: str) -> None:
    assert Settings(transport=transport).input_topic('/front') == topic


@pytest.mark.parametrize('spec', PARAMETERS, ids=lambda spec: spec.name)
def test_the_descriptor_says_what_the_table_says(spec: ParameterSpec) -> None:
    pytest.importorskip('rcl_interfaces', reason='ROS is not installed')
    descriptor = parameters.descriptor(spec)
    assert descriptor.description == spec.description
    assert descriptor.read_only == (spec.changes is Changes.NEVER)
    assert spec.allowed in descriptor.additional_constraints
    ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
    assert [(r.from_value, r.to_value) for r in ranges] == ([spec.bounds] if spec.bounds else [])
