"""Real processes over real DDS: a node of the test's own, and the programs under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.dds_profile import PROFILE, profile_variable
from vq_anomaly_ros.replay.demo import unused_domain

ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = '/dev/shm/'  # noqa: S108  where DDS has its segments
# Against hanging only: a loaded machine may take its time.
PATIENCE = 90.0


class Program:
    """A program of the package in a process of its own; its output is collected in a file."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self.log = log
        self.segments_before = set(Path(SHARED_MEMORY).iterdir())
        with log.open('wb') as output:
            self.process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors='replace')

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Return the exit code."""
        return self.process.wait(patience)

    def wait_for(self, text: str, patience: float = PATIENCE) -> None:
        """Wait until the program has said `text`."""
        end = time.monotonic() + patience
        while text not in self.output:
            assert self.process.poll() is None, f'ended without {text!r}:\n{self.output}'
            assert time.monotonic() < end, f'never said {text!r}:\n{self.output}'
            time.sleep(0.05)

    def shared_memory(self) -> set[Path]:
        """The DDS segments that the process has mapped."""
        return _mapped(str(self.process.pid))

    def end(self) -> None:
        """End it gently: a killed process leaves its segments in shared memory."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture(scope='session')
def ros() -> Iterator[SimpleNamespace]:
    """rclpy in a domain of this run's own, on this host only, with the profile that is shipped."""
    rclpy = pytest.importorskip('rclpy', reason='ROS is not installed')
    from rclpy import executors, qos

    domain = unused_domain()
    environment = {
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        profile_variable(): str(ROOT / 'config' / PROFILE),
        'OMP_NUM_THREADS': '1',
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    yield SimpleNamespace(rclpy=rclpy, executors=executors, qos=qos, context=context, domain=domain)
    rclpy.shutdown(context=context)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def peer(ros: SimpleNamespace) -> Iterator[Any]:
    """A node of the test's own (trials.peer.Peer)."""
    from vq_anomaly_ros.trials.peer import Peer

    peer = Peer(ros.context)
    yield peer
    peer.close()


@pytest.fixture
def start_module(ros: SimpleNamespace, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """start_module(module, *arguments): a Program, ended with the test."""
    programs: list[Program] = []

    def start_one(module: str, *arguments: str) -> Program:
        log = tmp_path / f'{module}-{len(programs)}.log'
        programs.append(Program(module, list(arguments), log))
        return programs[-1]

    yield start_one
    for program in programs:
        program.end()


@pytest.fixture
def start(start_module: Callable[..., Program]) -> Callable[..., Program]:
    """start(name, *arguments): a program of the node's package."""
    return lambda name, *arguments: start_module(f'vq_anomaly_ros.node.{name}', *arguments)


@pytest.fixture
def start_detector(start: Callable[..., Program], tiny_model: Path) -> Callable[..., Program]:
    """start_detector(name=value): the node with these parameters and a name of its own."""

    def start_one(wait: str = 'active: listening', **values: Any) -> Program:
        values = {'model': str(tiny_model), 'threads': 1, 'diagnostics_period': 0.1, **values}
        arguments = [part for name, value in values.items() for part in ('-p', f'{name}:={value}')]
        program = start('detector_node', '--ros-args', *arguments)
        program.wait_for(wait)
        return program

    return start_one


@pytest.fixture
def ended_well() -> Callable[[Program, int], None]:
    """ended_well(program, signal): the signal ends it with code 0, quietly, leaving nothing."""

    def check(program: Program, number: int = signal.SIGINT) -> None:
        mapped = program.shared_memory()
        assert mapped, 'no shared memory to leave: is the profile in use?'
        program.signal(number)
        assert program.wait() == 0, program.output
        assert 'Traceback' not in program.output, program.output
        assert '[ERROR]' not in program.output, program.output
        # A program that still runs opens the port of one that has ended, and has it not yet mapped.
        deadline = time.monotonic() + 5
        while left := mapped & set(Path(SHARED_MEMORY).iterdir()) - program.segments_before:
            left -= _mapped()
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert not left, f'left in shared memory: {left}'

    return check


def _mapped(process: str = '[0-9]*') -> set[Path]:
    """The segments in shared memory that a process, or any, has mapped."""
    mapped = set()
    for maps in Path('/proc').glob(f'{process}/maps'):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # ended meanwhile
            continue
        mapped |= {Path(line.split()[5]) for line in lines if SHARED_MEMORY in line}
    return mapped


@pytest.fixture(scope='session')
def image_message(ros: SimpleNamespace) -> Callable[..., Any]:
    """image_message(pixels, encoding='bgr8', stamp=1, frame_id='camera', padding=0): an Image."""
    from sensor_msgs.msg import Image

    def make(
        pixels: np.ndarray,
        encoding: str = 'bgr8',
        stamp: int = 1,
        frame_id: str = 'camera',
        padding: int = 0,
    ) -> Any:
        height, width = pixels.shape[:2]
        rows = pixels.reshape(height, -1)
        rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=200)
        message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
        message.data.frombytes(rows.tobytes())
        message.header.frame_id = frame_id
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        return message

    return make
