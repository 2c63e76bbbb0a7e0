"""measure_transport: how many camera images arrive between two processes, with and without the
profile config/fastdds_large_images.xml.

For each number of cameras and each setting a sender and a receiver are started as processes of
their own on this host. A sum below 100 % means that a node would never see the missing frames.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import Image

from vq_anomaly_ros.dds_profile import PROFILE, VARIABLES, profile_setting
from vq_anomaly_ros.images import as_message_data
from vq_anomaly_ros.machine import cpu_name, usable_cores
from vq_anomaly_ros.node.messages import stream_qos
from vq_anomaly_ros.node.signals import parse_arguments, ros_until_signal
from vq_anomaly_ros.replay.files import write_text
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.processes import Child, ProcessError, start_child

_SETTLE = 1.0
_IDLE = 3.0
_PATIENCE = 60.0
_MODULE = 'vq_anomaly_ros.node.transport'
_HIGHEST_RATE = 1000.0
_LONGEST = 32 * 86400.0
_MOST_CAMERAS = 64
_LARGEST = 16384


def send(node: Node, options: argparse.Namespace, stop: Future) -> dict[str, Any]:
    """Publish images at the rate asked for; returns how many, and how late the last one was.

    Ends early when `stop` completes.
    """
    qos = stream_qos('best_effort', 5)
    publishers = [
        node.create_publisher(Image, f'/camera_{number}/image_raw', qos)
        for number in range(options.cameras)
    ]
    _await_receiver(publishers, stop)
    message = Image(
        height=options.height, width=options.width, encoding='bgr8', step=3 * options.width
    )
    message.data = as_message_data(_pixels(options).ravel())
    start, frames = time.monotonic(), _frames(options)
    sent = 0
    for number in range(frames):
        time.sleep(max(0.0, start + number / options.rate - time.monotonic()))
        if stop.done():
            break
        for publisher in publishers:
            message.header.stamp = node.get_clock().now().to_msg()
            message.data[0] = sent % 256  # a detector warns of pictures that stay the same
            publisher.publish(message)
            sent += 1
    late = time.monotonic() - start - (frames - 1) / options.rate
    time.sleep(_SETTLE)
    return {'sent': sent, 'late_s': late}


def _pixels(options: argparse.Namespace) -> np.ndarray:
    """What is sent, BGR [H, W, 3]: a picture stretched to the size, or black."""
    if options.picture is None:
        return np.zeros((options.height, options.width, 3), np.uint8)
    # Not imread, which only says None.
    picture = cv2.imdecode(np.fromfile(options.picture, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise SystemExit(f'measure_transport: {options.picture}: no picture that OpenCV reads')
    return cv2.resize(picture, (options.width, options.height))


def _await_receiver(publishers: Sequence[Publisher], stop: Future) -> None:
    end = time.monotonic() + _PATIENCE
    while not all(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > end:
            raise SystemExit('measure_transport: the receiver does not appear')
        if stop.done():
            return
        time.sleep(0.05)
    # A writer knows its reader a little before the reader knows the writer.
    time.sleep(_SETTLE)


def _frames(options: argparse.Namespace) -> int:
    """Images of each camera; one at least."""
    return max(1, round(options.rate * options.seconds))


def receive(node: Node, options: argparse.Namespace, stop: Future) -> dict[str, Any]:
    """Count images until none has come for a while; latency from the stamp to the callback.

    Ends early when `stop` completes.
    """
    latencies: list[float] = []

    def on_image(message: Image) -> None:
        """Note when an image came."""
        age = node.get_clock().now().nanoseconds - _nanoseconds(message)
        latencies.append(1e-6 * age)

    for number in range(options.cameras):
        topic = f'/camera_{number}/image_raw'
        node.create_subscription(Image, topic, on_image, stream_qos('best_effort', 5))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    last, seen = time.monotonic() + _PATIENCE, 0
    while time.monotonic() < last + _IDLE and not stop.done():
        executor.spin_once(timeout_sec=0.1)
        if len(latencies) > seen:
            last, seen = time.monotonic(), len(latencies)
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (np.nan, np.nan)
    return {'received': seen, 'latency_p50_ms': float(p50), 'latency_p99_ms': float(p99)}


def _nanoseconds(message: Image) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def measure(options: argparse.Namespace, cameras: int, profile: bool) -> dict[str, Any]:
    """Run a sender and a receiver as processes of their own; return what both say."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    if profile:
        setting = profile_setting(environment)
        if not setting:
            raise ProcessError(f'{PROFILE} is not installed; install the package as a whole')
        environment |= setting
    values = {
        'cameras': cameras,
        'rate': options.rate,
        'seconds': options.seconds,
        'width': options.width,
        'height': options.height,
    }
    arguments = [part for name, value in values.items() for part in (f'--{name}', str(value))]
    patience = 2 * _PATIENCE + 10 * options.seconds
    said: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix='measure_transport.') as folder, ExitStack() as stack:

        def start(role: str) -> Child:
            log = Path(folder) / f'{role}.txt'
            return start_child(stack, _MODULE, [role, *arguments], environment, log)

        receiver, sender = start('receive'), start('send')
        sender.wait(patience, (receiver,))
        receiver.wait(patience)
        for end in (receiver, sender):
            # The last line: before it DDS may have had something to say.
            said.update(json.loads(end.log.read_text().splitlines()[-1]))
    return {**values, 'profile': profile, **said, 'share': said['received'] / max(said['sent'], 1)}


def provenance() -> dict[str, Any]:
    """Return what a row was measured with: commit ('' outside of a checkout), CPU and its cores."""
    return {'commit': _commit(), 'cpu': cpu_name(), 'cores': usable_cores()}


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / '.git').exists():
        return ''
    # Without tags it is the commit, with -dirty where files differ from it.
    git = ['git', 'describe', '--always', '--dirty', '--abbrev=10', '--exclude=*']
    try:
        return subprocess.run(git, cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ''


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='measure_transport', description=__doc__)
    add = parser.add_argument
    add('role', nargs='?', choices=('measure', 'send', 'receive'), default='measure')
    cameras = _number(int, _MOST_CAMERAS)
    add('--cameras', type=cameras, nargs='+', default=[1, 4], help='numbers of cameras')
    rate = _number(float, _HIGHEST_RATE)
    add('--rate', type=rate, default=10.0, help='images a second and camera')
    add('--seconds', type=_number(float, _LONGEST), default=10.0, help='of each measurement')
    pixels = _number(int, _LARGEST)
    add('--width', type=pixels, default=1920, help='of the images, in pixels')
    add('--height', type=pixels, default=1080, help='of the images, in pixels')
    add('--picture', type=Path, help='send this one instead of a black one')
    add('--json', type=Path, help='write the rows there')
    return parser


def _number(kind: Callable[[str], float], most: float) -> Callable[[str], float]:
    """Make an argparse type: a number of a kind above 0, up to `most`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        # Written so that nan, which compares with nothing, is refused.
        if not 0 < value <= most:
            what = 'whole number' if kind is int else 'number'
            raise argparse.ArgumentTypeError(f'{text!r} is no {what} above 0, up to {most:.15g}')
        return value

    return read


def _measure_all(options: argparse.Namespace) -> int:
    rows = []
    print('| cameras | profile | sent | received | p50 ms | p99 ms |\n|---|---|---|---|---|---|')
    for profile in (False, True):
        for cameras in options.cameras:
            row = measure(options, cameras, profile)
            rows.append({**row, **provenance()})
            cells = (cameras, 'yes' if profile else 'no', row['sent'], row['received'])
            times = f'{row["latency_p50_ms"]:.1f} | {row["latency_p99_ms"]:.1f}'
            print(f'| {" | ".join(map(str, cells))} | {times} |', flush=True)
    if options.json is not None:
        write_text(options.json, json.dumps(rows, indent=1) + '\n')
    return 0


def _be_an_end(
    parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: list[str]
) -> None:
    """Send or receive until it is done or a signal comes, and print what was counted."""
    (options.cameras,) = options.cameras
    with ros_until_signal(parser, arguments) as stop:
        node = rclpy.create_node(f'measure_transport_{options.role}')
        try:
            print(json.dumps((send if options.role == 'send' else receive)(node, options, stop)))
        finally:
            node.destroy_node()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or be one of the two ends; returns the exit code."""
    parser = _parser()
    options, arguments = parse_arguments(parser, argv)
    if options.role != 'measure':
        _be_an_end(parser, options, arguments)
        return 0
    try:
        with interruptible():
            return _measure_all(options)
    except (ProcessError, OSError) as error:
        print(f'measure_transport: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            'measure_transport: interrupted; both processes have ended, no file was written',
            file=sys.stderr,
        )
        return 130


if __name__ == '__main__':
    sys.exit(main())
