"""The launch files under a real `ros2 launch`; run where the package is built and sourced."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.demo import unused_domain

PATIENCE = 120.0


class Launch:
    """`ros2 launch` of a file of the package in a session of its own."""

    def __init__(self, log: Path, file: str, arguments: list[str]) -> None:
        self.log = log
        with log.open('wb') as output:
            self.process = subprocess.Popen(
                ['ros2', 'launch', 'vq_anomaly_ros', file, *arguments],
                env={**os.environ, 'ROS_DOMAIN_ID': str(unused_domain())},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors='replace')

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + PATIENCE
        while text not in self.output:
            assert self.process.poll() is None and time.monotonic() < end, self.output
            time.sleep(0.1)

    def interrupt(self) -> None:
        """What Ctrl-C does: SIGINT to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(PATIENCE) == 0, self.output


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """launch(file, *arguments): a Launch, killed with the test if it still runs."""
    pytest.importorskip('launch_testing', reason='ROS is not sourced: no launch, no ros2')
    packages = pytest.importorskip('ament_index_python.packages')
    try:
        packages.get_package_prefix('vq_anomaly_ros')
    except packages.PackageNotFoundError:
        pytest.skip('the package is not built and sourced: colcon build, then source install/')
    launches: list[Launch] = []

    def start(file: str, *arguments: str) -> Launch:
        launches.append(Launch(tmp_path / f'launch_{len(launches)}.log', file, list(arguments)))
        return launches[-1]

    yield start
    for one in launches:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def test_the_detector_starts_and_ends(launch: Any, tiny_model: Path) -> None:
    started = launch(
        'detector.launch.py',
        f'model:={tiny_model}',
        "cameras:=['/left','/right']",
        'target_fpr:=0.01',
    )
    started.wait_for('active: listening to /left/image_raw, /right/image_raw')
    started.interrupt()
    assert 'Traceback' not in started.output
    assert 'process has finished cleanly' in started.output


def test_the_detector_respawns(launch: Any, tiny_model: Path) -> None:
    started = launch('detector.launch.py', f'model:={tiny_model}', 'respawn:=true')
    started.wait_for('active: listening')
    subprocess.run(['pkill', '-KILL', '-s', str(started.process.pid), '-f', 'lib/vq_anomaly_ros'])
    end = time.monotonic() + PATIENCE
    while started.output.count('active: listening') < 2:
        assert time.monotonic() < end, started.output
        time.sleep(0.2)
    started.interrupt()


def test_a_namespace_and_a_remapping(launch: Any, tiny_model: Path) -> None:
    started = launch(
        'detector.launch.py',
        f'model:={tiny_model}',
        'namespace:=robot',
        "cameras:=['front']",
        "remap:=['/robot/front/image_raw:=/cam0/image']",
    )
    started.wait_for('[robot.anomaly_detector]: active: listening to /cam0/image')
    started.interrupt()


def test_a_bag_is_replayed_to_its_end(
    launch: Any, tiny_model: Path, tmp_path: Path, picture: Any
) -> None:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        for number in range(20):
            writer.write_image('/cam/image_color', number * 10**8 + 1, picture(number), 'bgr8')
    started = launch(
        'replay.launch.py', f'bag:={tmp_path / "drive"}', f'model:={tiny_model}', 'rviz:=false'
    )
    started.wait_for('active: listening to /cam/image_color')
    assert started.process.wait(PATIENCE) == 0, started.output
    assert 'was played to its end' in started.output
    assert 'Traceback' not in started.output


def test_a_missing_bag_is_named(launch: Any, tmp_path: Path) -> None:
    started = launch('replay.launch.py', f'bag:={tmp_path / "none"}')
    assert started.process.wait(PATIENCE) != 0
    assert f'{tmp_path / "none"}: no such bag' in started.output
