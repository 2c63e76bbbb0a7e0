"""test_matrix: the test suite on the Pythons that are here and on two releases of ROS as wheels.

Each cell is an environment of its own below --out, made from constraints.txt; those of ROS's
packages hold for Jazzy only, Kilted takes its newest. The training and its tests need torch and are
left out. A Python that is missing, or that a dependency refuses, is skipped with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ('3.10', '3.11', '3.12', '3.13')
RELEASES = ('jazzy', 'kilted')
# The pins of constraints.txt are of these Pythons.
OLDEST = (3, 11)
# What the tests need beside the run time; ROS's wheels and the runtimes come from requirements/.
FOR_TESTS = (
    'pytest<9', 'pytest-xdist', 'hypothesis', 'mcap', 'zstandard', 'rerun-sdk', 'scipy',
    'scikit-learn',
)  # fmt: skip
SHARED_OUT = ('-n', '2', '--dist', 'loadgroup')
TESTS = ('test', '--ignore=test/training', '--ignore=test/launch')
_PATIENCE_S = 3600
# Of the Python and the release that started this; a cell has its own.
_OF_THE_STARTER = (
    '_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'FASTRTPS_DEFAULT_PROFILES_FILE',
    'FASTDDS_DEFAULT_PROFILES_FILE', 'ROS_DISTRO', 'AMENT_PREFIX_PATH', 'PYTHONPATH',
)  # fmt: skip


class SkippedError(Exception):
    """A cell that cannot be here; the message says why."""


class FailedError(Exception):
    """A cell whose environment or tests fail; the message is the end of what they said."""


def interpreter(version: str) -> str:
    """Path of python<version>, also of pyenv's; raises SkippedError."""
    folder = Path.home() / '.pyenv' / 'versions'
    of_pyenv = [str(path / 'bin' / 'python') for path in sorted(folder.glob(f'{version}.*'))]
    # The shim of a version that pyenv has switched off is found, but does not run.
    for candidate in (shutil.which(f'python{version}'), *of_pyenv):
        if candidate and not subprocess.run([candidate, '-c', ''], capture_output=True).returncode:
            return candidate
    raise SkippedError(f'python{version} is not installed')


def constraints(release: str) -> str:
    """The pins for a release: for another than Jazzy those of ROS's packages are left out."""
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    if release != 'jazzy':
        lines = [line for line in lines if not line.startswith('ros-')]
    return '\n'.join(lines) + '\n'


def wheels(release: str) -> list[str]:
    """ROS's packages of a release."""
    names = (ROOT / 'requirements' / 'ros-wheels.txt').read_text().split()
    return [name.replace('ros-jazzy-', f'ros-{release}-') for name in names]


def run_cell(version: str, release: str, out: Path, tests: list[str]) -> str:
    """Make the environment and run the tests; returns pytest's last line.

    Raises SkippedError, FailedError.
    """
    if tuple(map(int, version.split('.'))) < OLDEST:
        raise SkippedError(f'constraints.txt holds for Python {OLDEST[0]}.{OLDEST[1]} and later')
    cell = out / f'python{version}-{release}'
    python = cell / 'venv' / 'bin' / 'python'
    _run([interpreter(version), '-m', 'venv', str(cell / 'venv')])
    pins = cell / 'constraints.txt'
    pins.write_text(constraints(release))
    install = [str(python), '-m', 'pip', '--disable-pip-version-check', 'install', '-q', '-c']
    runtime = str(ROOT / 'requirements' / 'runtime.txt')
    try:
        _run([*install, str(pins), '-r', runtime, *wheels(release), *FOR_TESTS])
    except FailedError as error:
        if re.search(r'No matching distribution|Requires-Python', str(error)):
            raise SkippedError(f'no wheels: {_last_line(str(error))}') from error
        raise
    suite = [str(python), '-m', 'pytest', '-p', 'no:cacheprovider', *SHARED_OUT, *tests]
    return _last_line(_run(suite, cell / 'tests.log'))


def own_environment() -> dict[str, str]:
    """The environment without what belongs to the ROS of this process: its release, its libraries.

    ros_wheels_bootstrapper sets the folders of the libraries once a process tree: a cell would run
    on those of the environment that started it.
    """
    left = {name: value for name, value in os.environ.items() if name not in _OF_THE_STARTER}
    folders = left.pop('LD_LIBRARY_PATH', '').split(os.pathsep)
    if kept := [one for one in folders if one and not one.startswith(sys.prefix)]:
        left['LD_LIBRARY_PATH'] = os.pathsep.join(kept)
    return left


def _run(command: list[str], log: Path | None = None) -> str:
    """Return what a command says, which is kept in `log`, too; raises FailedError."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S, env=own_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise FailedError(f'{command[:4]} takes more than {_PATIENCE_S} s') from error
    if log is not None:
        log.write_text(done.stdout)
    if done.returncode:
        raise FailedError(done.stdout[-4000:])
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip(' =') if lines else ''


def main() -> int:
    """Run all cells; returns 1 where one failed."""
    parser = argparse.ArgumentParser('test_matrix', description=__doc__)
    add = parser.add_argument
    add('--python', nargs='+', default=PYTHONS, choices=PYTHONS, help='versions')
    add('--ros', nargs='+', default=RELEASES, choices=RELEASES, help='releases')
    add('--tests', nargs='+', default=list(TESTS), help='arguments of pytest')
    add('--out', type=Path, default=ROOT / 'out' / 'matrix', help='folder of the environments')
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for release in options.ros:
        for version in options.python:
            row: dict[str, Any] = {'python': version, 'ros': release}
            start = time.monotonic()
            (options.out / f'python{version}-{release}').mkdir(parents=True, exist_ok=True)
            try:
                row |= {'outcome': 'passed', 'said': run_cell(
                    version, release, options.out.resolve(), options.tests
                )}  # fmt: skip
            except SkippedError as error:
                row |= {'outcome': 'skipped', 'said': str(error)}
            except FailedError as error:
                row |= {'outcome': 'failed', 'said': str(error)}
            rows.append({**row, 'seconds': round(time.monotonic() - start)})
            (options.out / 'matrix.json').write_text(json.dumps(rows, indent=1) + '\n')
            print(f'{release:<7} {version:<5} {row["outcome"]:<8} {_last_line(row["said"])}')
    return int(any(row['outcome'] == 'failed' for row in rows))


if __name__ == '__main__':
    sys.exit(main())
