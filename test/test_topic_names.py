"""Topics on command lines: what is taken is what ROS takes, and every command refuses the rest."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.topic_names import LONGEST, absolute_topic_name, topic_name

ROOT = Path(__file__).resolve().parents[1]
BAD = [
    'bad topic!', '', '/', '~', '~x', '/a/', '//a', 'a//b', '/a/1b', '/\u00e9', '/a\n', '/a-b',
    '/' + 'a' * LONGEST,
]  # fmt: skip
GOOD = ['/a', 'a', '~/a', '/a/b_2/_c', '/a__b', '/' + 'a' * (LONGEST - 1)]


def taken(text: str) -> bool:
    try:
        return absolute_topic_name(text).startswith('/')
    except argparse.ArgumentTypeError:
        return False


@pytest.mark.parametrize('text', BAD)
def test_a_bad_topic_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r'is no topic|are allowed'):
        topic_name(text)


@pytest.mark.parametrize('text', GOOD)
def test_a_good_topic_is_taken_as_it_is(text: str) -> None:
    assert topic_name(text) == text


def test_in_a_bag_every_topic_is_absolute() -> None:
    assert absolute_topic_name('front/image_raw') == absolute_topic_name('/front/image_raw')
    with pytest.raises(argparse.ArgumentTypeError, match='without ~'):
        absolute_topic_name('~/image_raw')


@given(st.text('ab1_/ ~-', max_size=8) | st.sampled_from([*BAD, *GOOD]))
def test_what_is_taken_is_what_ros_takes(text: str) -> None:
    ros = pytest.importorskip('rclpy.validate_full_topic_name', reason='ROS is not installed')
    name = text if text.startswith('/') or not text else f'/{text}'
    try:
        ros.validate_full_topic_name(name)
        valid = True
    except ros.InvalidTopicNameException:
        valid = False
    assert taken(text) == (valid and not text.startswith('~'))


@pytest.mark.parametrize(
    'words',
    [
        ['node.recorder', 'out', '--topics', '/good', 'bad topic!'],
        ['node.player', 'bag', '--remap', '/a:=bad topic!'],
        ['replay.images_to_bag', 'pictures', 'out', '--topic', 'bad topic!'],
        ['replay.sample_drive', 'out', '--topic', 'bad topic!'],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_a_bad_topic(words: list[str]) -> None:
    if words[0].startswith('node.'):
        pytest.importorskip('rclpy', reason='ROS is not installed')
    command = [sys.executable, '-m', f'vq_anomaly_ros.{words[0]}', *words[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "'bad topic!' is no topic; use letters, digits" in done.stderr
    assert 'Traceback' not in done.stderr
