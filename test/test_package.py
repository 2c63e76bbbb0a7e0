"""The package as colcon installs it: executables where ros2 run looks, files where nodes look."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    'package.xml', 'setup.py', 'setup.cfg', 'resource', 'vq_anomaly_ros', 'launch', 'config',
    'models', 'LICENSE',
)  # fmt: skip
EXECUTABLES = {
    'anomaly_detector', 'evaluate_bag', 'images_to_bag', 'measure_transport', 'play_bag',
    'record_bag', 'sample_drive',
}  # fmt: skip


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The install space of a build of this checkout."""
    pytest.importorskip('colcon_core', reason='colcon is not installed')
    space = tmp_path_factory.mktemp('workspace')
    source = space / 'src' / 'vq_anomaly_ros'
    source.mkdir(parents=True)
    for part in PARTS:
        origin = ROOT / part
        copy = shutil.copytree if origin.is_dir() else shutil.copy
        copy(origin, source / part)
    command = [sys.executable, '-m', 'colcon', 'build']
    done = subprocess.run(command, cwd=space, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return space / 'install'


def test_executables_land_where_ros2_run_looks(installed: Path) -> None:
    folder = installed / 'vq_anomaly_ros' / 'lib' / 'vq_anomaly_ros'
    assert {path.name for path in folder.iterdir()} == EXECUTABLES


def test_launch_files_settings_models_and_templates_are_installed(installed: Path) -> None:
    share = installed / 'vq_anomaly_ros' / 'share' / 'vq_anomaly_ros'
    expected = [
        'package.xml', 'launch/detector.launch.py', 'launch/replay.launch.py',
        'config/detector.yaml', 'config/detector.rviz', 'config/foxglove_layout.json',
        'config/fastdds_large_images.xml', 'config/palettes/cityscapes.yaml', 'models/LICENSE',
    ]  # fmt: skip
    assert [name for name in expected if not (share / name).is_file()] == []
    assert (
        installed / 'vq_anomaly_ros/share/ament_index/resource_index/packages/vq_anomaly_ros'
    ).is_file()
    assert list(installed.rglob('replay/templates/*.j2'))


@pytest.mark.parametrize(
    'name', ['evaluate_bag', 'images_to_bag', 'measure_transport', 'sample_drive']
)
def test_an_installed_command_tells_its_use(installed: Path, name: str) -> None:
    script = (
        f'source {installed}/local_setup.bash && '
        f'exec {installed}/vq_anomaly_ros/lib/vq_anomaly_ros/{name} --help'
    )
    done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'usage:' in done.stdout
