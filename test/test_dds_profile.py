"""One variable names the profile: the one that the Fast DDS of the release reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vq_anomaly_ros import dds_profile
from vq_anomaly_ros.dds_profile import PROFILE, profile_setting, profile_variable

ROOT = Path(__file__).resolve().parents[1]
OLD, NEW = dds_profile.VARIABLES


@pytest.mark.parametrize(
    ('release', 'variable'),
    [('humble', OLD), ('jazzy', OLD), ('kilted', NEW), ('rolling', NEW), ('one-of-2040', NEW)],
)
def test_the_variable_is_that_of_the_sourced_release(release: str, variable: str) -> None:
    assert profile_variable({'ROS_DISTRO': release}) == variable


@pytest.mark.parametrize(('wheels', 'variable'), [('jazzy', OLD), ('kilted', NEW)])
def test_without_a_sourced_ros_it_is_that_of_the_wheels(
    monkeypatch: pytest.MonkeyPatch, wheels: str, variable: str
) -> None:
    def version(name: str) -> str:
        if name == f'ros-{wheels}-rclpy':
            return '1'
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(dds_profile.metadata, 'version', version)
    assert profile_variable({}) == variable


def test_the_library_that_is_here_knows_the_variable() -> None:
    """The name stands in the text of Fast DDS or of ROS's layer above it."""
    pytest.importorskip('rclpy', reason='ROS is not installed')
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    libraries = [path for one in prefixes for path in Path(one, 'lib').glob('libfast*s.so')]
    if not libraries:
        pytest.skip('no libfastrtps or libfastdds lies beside this ROS')
    assert any(profile_variable().encode() in path.read_bytes() for path in libraries)


def test_the_profile_is_added_unless_the_user_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    jazzy, kilted = {'ROS_DISTRO': 'jazzy'}, {'ROS_DISTRO': 'kilted'}
    ours = str(ROOT / 'config' / PROFILE)
    assert profile_setting(jazzy) == {OLD: ours}
    assert profile_setting(kilted) == {NEW: ours}
    assert profile_setting(jazzy | {OLD: 'mine.xml'}) == {}
    assert profile_setting(kilted | {NEW: 'mine.xml'}) == {}
    assert profile_setting(kilted | {OLD: 'mine.xml'}) == {}, 'Fast DDS 3 reads both names'
    assert profile_setting(jazzy | {NEW: 'mine.xml'}) == {OLD: ours}, 'Fast DDS 2 does not'


def test_the_profile_of_an_installed_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / 'share' / 'vq_anomaly_ros' / 'config' / PROFILE
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/opt/ros/none{os.pathsep}{tmp_path}')
    assert profile_setting({'ROS_DISTRO': 'jazzy'}) == {OLD: str(installed)}
    monkeypatch.setattr(dds_profile, 'share_folders', lambda name: [tmp_path / 'none'])
    assert profile_setting({'ROS_DISTRO': 'jazzy'}) == {}


@pytest.mark.parametrize(
    ('release', 'variable'), [('', OLD), ('humble', OLD), ('jazzy', OLD), ('kilted', NEW)]
)
def test_the_makefile_sets_the_same(release: str, variable: str) -> None:
    """Without a sourced ROS it installs the wheels of Jazzy."""
    if shutil.which('make') is None:
        pytest.skip('make is not installed')
    rule = 'show:\n\t@echo old=$$FASTRTPS_DEFAULT_PROFILES_FILE new=$$FASTDDS_DEFAULT_PROFILES_FILE'
    environment = {n: v for n, v in os.environ.items() if n not in (OLD, NEW) and n[:4] != 'MAKE'}
    said = subprocess.run(
        ['make', '--no-print-directory', '-f', 'Makefile', '-f', '-', 'show'],
        cwd=ROOT, env=environment | {'ROS_DISTRO': release}, input=rule + '\n', text=True,
        capture_output=True,
    )  # fmt: skip
    path = ROOT / 'config' / PROFILE
    expected = f'old={path} new=' if variable == OLD else f'old= new={path}'
    assert said.stdout.strip() == expected, said.stderr
