"""The pages say what the code does: topics, parameters, measured figures, commands, links."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from vq_anomaly_ros.images import ENCODINGS
from vq_anomaly_ros.node.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')])


def page(name: str) -> str:
    return (ROOT / 'docs' / name).read_text(encoding='utf-8')


def test_every_result_topic_is_described() -> None:
    source = (ROOT / 'vq_anomaly_ros' / 'node' / 'camera_outputs.py').read_text()
    names = set(re.findall(r"_(?:stream|latched)\(\s*'([a-z_/]+)'", source))
    names |= {'score', 'mask', 'overlay', 'semantic_mask', 'explain_at'}
    assert len(names) >= 10
    described = set(re.findall(r'`<camera>/anomaly/([a-z_/]+)`', page('topics.md')))
    assert described == names


def test_every_encoding_is_listed() -> None:
    text = page('topics.md')
    for encoding in ENCODINGS:
        assert encoding in text or encoding.startswith('bayer_')


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_parameters_that_are_named_exist(path: Path) -> None:
    """In parameter style: `name: value` or `name:=value`."""
    known = {spec.name for spec in PARAMETERS}
    launch = (ROOT / 'launch' / 'detector.launch.py').read_text()
    launch += (ROOT / 'launch' / 'replay.launch.py').read_text()
    named = set(re.findall(r'\b([a-z_]+):=', path.read_text(encoding='utf-8')))
    for name in named - {'image_raw', 'old', 'b'}:
        assert name in known or f"'{name}'" in launch, name


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r'\]\(([^)#]+)', path.read_text(encoding='utf-8')):
        if not target.startswith('http'):
            assert (path.parent / target).exists(), target


def test_the_measured_transport_is_that_of_the_rows() -> None:
    rows = json.loads((ROOT / 'docs' / 'benchmarks' / 'transport.json').read_text())
    text = ' '.join(page('troubleshooting.md').split())
    assert [(row['cameras'], row['profile']) for row in rows] == [
        (1, False), (4, False), (1, True), (4, True),
    ]  # fmt: skip
    told = [f'{row["received"]} of {row["sent"]}' for row in rows]
    assert f'one camera {told[0]} frames without the profile, {told[2]} with it' in text
    assert f'four cameras {told[1]} without, {told[3]} with it' in text


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_options_of_commands_exist(path: Path) -> None:
    """Options in lines that run a module are options of that module."""
    text = path.read_text(encoding='utf-8')
    for module, rest in re.findall(r'python -m (vq_anomaly_ros[\w.]+)(.*)', text):
        if '--ros-args' in rest:
            continue
        for option in re.findall(r'(--[a-z-]+)', rest.split('#')[0]):
            assert option in help_of(module), f'{module} {option}'


@cache
def help_of(module: str) -> str:
    """What a module says of its options."""
    command = [sys.executable, '-m', module, '--help']
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
