"""The policy names what the node speaks; the pages and tools say what they are."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def expressions(kind: str, **attributes: str) -> set[str]:
    """What the policy allows: kind 'topic' or 'service', under elements of these attributes."""
    policy = ET.parse(ROOT / 'config' / 'sros2' / 'policy.xml').getroot()  # noqa: S314  our own
    return {
        str(element.text)
        for group in policy.iter(f'{kind}s')
        if attributes.items() <= group.attrib.items()
        for element in group.iter(kind)
    }


def test_the_policy_allows_exactly_the_topics_that_are_described() -> None:
    page = (ROOT / 'docs' / 'topics.md').read_text(encoding='utf-8')
    heard, said = (
        {f'front/{name}' for name in re.findall(r'^\| `<camera>/([a-z_/]+)` \|', part, re.M)}
        for part in (page.partition('## Out')[0], page.partition('## Out')[2])
    )
    assert expressions('topic', subscribe='ALLOW') == heard | {'clock', 'parameter_events'}
    own = {'diagnostics', 'parameter_events', 'rosout', '~/transition_event'}
    assert expressions('topic', publish='ALLOW') == said | own


def test_the_policy_allows_the_services_of_a_lifecycle_node() -> None:
    rclpy = pytest.importorskip('rclpy', reason='ROS is not installed')
    from rclpy.context import Context
    from rclpy.lifecycle import LifecycleNode

    context = Context()
    rclpy.init(context=context, domain_id=101)
    node = LifecycleNode('policy', context=context)
    offered = node.get_service_names_and_types_by_node('policy', '/')
    node.destroy_node()
    rclpy.shutdown(context=context)
    names = {name.replace('/policy/', '~/') for name, _ in offered}
    # get_type_description is of Jazzy and later.
    assert names <= expressions('service', reply='ALLOW') <= names | {'~/get_type_description'}


def test_bandit_would_find_what_it_is_there_for(tmp_path: Path) -> None:
    pytest.importorskip('bandit', reason='bandit is not installed')
    bad = tmp_path / 'bad.py'
    bad.write_text(
        'import pickle, subprocess\npickle.loads(b"")\nsubprocess.run(input(), shell=True)\n'
    )
    command = [sys.executable, '-m', 'bandit', '-q', '--severity-level', 'medium', str(bad)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'B301' in done.stdout and 'B602' in done.stdout
    makefile = (ROOT / 'Makefile').read_text()
    assert 'bandit --quiet --recursive vq_anomaly_ros training launch' in makefile


@pytest.mark.parametrize('name', ['docker/Dockerfile', '.github/workflows/ros.yml'])
def test_what_was_not_run_says_so(name: str) -> None:
    assert 'NOT RUN BY US' in (ROOT / name).read_text(encoding='utf-8')


def test_the_workflow_is_one_and_runs_targets_that_exist() -> None:
    text = (ROOT / '.github' / 'workflows' / 'ros.yml').read_text(encoding='utf-8')
    jobs = yaml.safe_load(text)['jobs']
    assert set(jobs) == {'ros', 'wheels'}
    makefile = (ROOT / 'Makefile').read_text()
    for target in re.findall(r'(?:&&|run:) make ([a-z-]+)', text):
        assert f'\n{target}:' in makefile, target
