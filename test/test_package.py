"""The package as colcon installs it: executables where ros2 run looks, files where nodes look."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    'package.xml', 'setup.py', 'setup.cfg', 'resource', 'vq_anomaly_ros', 'launch', 'config',
    'models', 'LICENSE',
)  # fmt: skip
EXECUTABLES = {
    'anomaly_detector', 'build_engine', 'calibrate', 'drive_cameras', 'evaluate_bag', 'faults',
    'images_to_bag', 'measure_transport', 'play_bag', 'record_bag', 'sample_drive',
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
    'name',
    ['calibrate', 'drive_cameras', 'evaluate_bag', 'images_to_bag', 'measure_transport'],
)
def test_an_installed_command_tells_its_use(installed: Path, name: str) -> None:
    script = (
        f'source {installed}/local_setup.bash && '
        f'exec {installed}/vq_anomaly_ros/lib/vq_anomaly_ros/{name} --help'
    )
    done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'usage:' in done.stdout


# Modules of Debian's and pip's packages, as rosdep calls those; the others are ROS packages.
ROSDEP_KEYS = {
    'cv2': 'python3-opencv', 'jinja2': 'python3-jinja2', 'matplotlib': 'python3-matplotlib',
    'numpy': 'python3-numpy',
    'onnxruntime': 'python3-onnxruntime-pip', 'rich': 'python3-rich',
    'rosbags': 'python3-rosbags-pip', 'yaml': 'python3-yaml',
}  # fmt: skip
WITHOUT_KEY = {'atheris', 'tensorrt', 'onnx', 'openvino', 'ray', 'rerun'}
# Not imported: services of a lifecycle node, the middleware that the profile is for, vision_msgs
# that is looked for by name, what `ros2 launch` runs, what rviz2 reads compressed images by.
STARTED = {
    'compressed_image_transport', 'lifecycle_msgs', 'rmw_fastrtps_cpp', 'ros2launch', 'rviz2',
    'vision_msgs',
}  # fmt: skip


def imported(*folders: str) -> set[str]:
    """Top-level modules that the code of some folders imports, wherever in it."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition('.')[0])
    return found - set(sys.stdlib_module_names) - {'vq_anomaly_ros'}


def test_package_xml_names_all_that_is_imported_or_started() -> None:
    package = ET.parse(ROOT / 'package.xml').getroot()  # noqa: S314  our own
    declared = {element.text for element in package.iter('exec_depend')}
    modules = imported('vq_anomaly_ros', 'launch') - WITHOUT_KEY
    assert declared == {ROSDEP_KEYS.get(module, module) for module in modules} | STARTED
    for_tests = {element.text for element in package.iter('test_depend')}
    assert for_tests == {'launch_testing', 'python3-pytest'}


# A Python that says it is 3.10, and is none further on.
OLD_PYTHON = """#!/bin/sh
[ "$1" = -c ] || exit 99
exec {python} -c 'import sys; sys.version_info = (3, 10, 12); exec(sys.argv[1])' "$2"
"""


def make(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which('make') is None:
        pytest.skip('make is not installed')
    command = ['make', '--no-print-directory', *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_make_refuses_a_python_that_the_constraints_refuse(tmp_path: Path) -> None:
    old = tmp_path / 'python3.10'
    old.write_text(OLD_PYTHON.format(python=sys.executable))
    old.chmod(0o755)
    venv = tmp_path / 'venv'
    done = make(f'PYTHON={old}', f'VENV={venv}', f'{venv}/bin/python')
    assert done.returncode == 2
    assert 'is too old or lacks venv' in done.stdout and '(Python >= 3.11)' in done.stdout
    assert not venv.exists()


def test_make_help_names_every_target_that_the_pages_name() -> None:
    said = make('help').stdout
    pages = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]
    text = '\n'.join(page.read_text(encoding='utf-8') for page in pages)
    named = set(re.findall(r'(?:`|^)make ([a-z]+)', text, re.MULTILINE))
    assert {'setup', 'demo', 'build'} <= named
    for target in named:
        assert f'make {target} ' in said, target


def needed(*files: str) -> set[str]:
    """The packages that the named requirements need here, with all that those need in turn."""
    asked, found = [one for file in files for one in listed(file)], set[str]()
    while asked:
        requirement = Requirement(asked.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate()):
            found.add(name)
            try:
                asked += metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # a sourced ROS brings it
                continue
    return found


def listed(file: str) -> list[str]:
    lines = (ROOT / 'requirements' / file).read_text(encoding='utf-8').splitlines()
    plain = [line.partition('#')[0].strip() for line in lines]
    return [line for line in plain if line and not line.startswith('-')]


def test_what_is_installed_beside_the_run_time_is_none_of_what_it_needs() -> None:
    """Two pips at once (`make test`) must never write the same file."""
    beside = {canonicalize_name(name) for name in listed('large.txt') + listed('tensorrt-gate.txt')}
    assert {'torch', 'scipy'} < beside
    assert not beside & needed('runtime.txt', 'ros-wheels.txt', 'build.txt')
    assert needed('runtime.txt') > {'numpy', 'openvino', 'jinja2', 'markupsafe'}
