"""A program that is interrupted before it has begun: while rclpy and the messages are imported."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
ROOT = Path(__file__).resolve().parents[2]
# Against hanging only: a loaded machine may take its time.
PATIENCE = 90.0
# As setuptools writes the executables.
EXECUTABLE = """#!{python}
import sys
sys.path.insert(0, {root!r})
from vq_anomaly_ros.node.detector_node import main
sys.exit(main())
"""


def interrupted_while_importing(command: list[str]) -> tuple[int, str]:
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    maps = Path(f'/proc/{process.pid}/maps')
    end = time.monotonic() + PATIENCE
    # The first of many libraries: the messages and the runtimes are still to come.
    while '_rclpy_pybind11' not in maps.read_text():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


@pytest.mark.parametrize('module', ['detector_node', 'player', 'recorder', 'transport'])
def test_a_module_ends_without_a_traceback(module: str) -> None:
    command = [sys.executable, '-m', f'vq_anomaly_ros.node.{module}', '--help']
    code, errors = interrupted_while_importing(command)
    assert (code, errors) == (-signal.SIGINT, '')


def test_an_installed_executable_ends_without_a_traceback(tmp_path: Path) -> None:
    program = tmp_path / 'lib' / 'vq_anomaly_ros' / 'anomaly_detector'
    program.parent.mkdir(parents=True)
    program.write_text(EXECUTABLE.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    code, errors = interrupted_while_importing([str(program)])
    assert (code, errors) == (-signal.SIGINT, '')


def test_ctrl_c_elsewhere_is_left_alone() -> None:
    script = (
        'import signal, vq_anomaly_ros.node.parameters\n'
        'assert signal.getsignal(signal.SIGINT) is signal.default_int_handler'
    )
    # A shell's background job inherits an ignored SIGINT; here Python's own handler is at stake.
    ready = f'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{script}'
    subprocess.run([sys.executable, '-c', ready], cwd=ROOT, check=True, timeout=PATIENCE)
