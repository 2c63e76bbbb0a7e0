"""measure_transport: how many camera images arrive between two processes, with and without the
profile config/fastdds_large_images.xml.

For each number of cameras and each setting a sender and a receiver are started as processes of
their own on this host. A sum below 100 % means that a node would never see the missing frames.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from vq_anomaly_ros.node.messages import stream_qos
from vq_anomaly_ros.share import share_folders

PROFILE = 'fastdds_large_images.xml'
VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
_SETTLE = 1.0
_IDLE = 3.0
_PATIENCE = 60.0


def send(node: Node, options: argparse.Namespace) -> dict[str, Any]:
    """Publish images at the rate asked for; returns how many, and how late the last one was."""
    qos = stream_qos('best_effort', 5)
    publishers = [
        node.create_publisher(Image, f'/camera_{number}/image_raw', qos)
        for number in range(options.cameras)
    ]
    end = time.monotonic() + _PATIENCE
    while not all(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > end:
            raise SystemExit('measure_transport: the receiver does not appear')
        time.sleep(0.05)
    # A writer knows its reader a little before the reader knows the writer.
    time.sleep(_SETTLE)
    message = Image(
        height=options.height, width=options.width, encoding='bgr8', step=3 * options.width
    )
    message.data = array.array('B', bytes(3 * options.width * options.height))
    start, frames = time.monotonic(), round(options.rate * options.seconds)
    for number in range(frames):
        time.sleep(max(0.0, start + number / options.rate - time.monotonic()))
        for publisher in publishers:
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
    late = time.monotonic() - start - (frames - 1) / options.rate
    time.sleep(_SETTLE)
    return {'sent': frames * options.cameras, 'late_s': late}


def receive(node: Node, options: argparse.Namespace) -> dict[str, Any]:
    """Count images until none has come for a while; latency from the stamp to the callback."""
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
    while time.monotonic() < last + _IDLE:
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
        environment.update(dict.fromkeys(VARIABLES, _profile()))
    values = {
        'cameras': cameras,
        'rate': options.rate,
        'seconds': options.seconds,
        'width': options.width,
        'height': options.height,
    }
    arguments = [part for name, value in values.items() for part in (f'--{name}', str(value))]
    ends = [
        subprocess.Popen(
            [sys.executable, '-m', 'vq_anomaly_ros.node.transport', role, *arguments],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for role in ('receive', 'send')
    ]
    said: dict[str, Any] = {}
    for end in ends:
        output = end.communicate()[0]
        if end.returncode:
            raise SystemExit(f'measure_transport: a process ended with {end.returncode}')
        said.update(json.loads(output))
    return {**values, 'profile': profile, **said, 'share': said['received'] / said['sent']}


def _profile() -> str:
    """Path of the profile, of the installed package or of the checkout."""
    candidates = [folder / PROFILE for folder in share_folders('config')]
    return str(next(candidate for candidate in candidates if candidate.is_file()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='measure_transport', description=__doc__)
    add = parser.add_argument
    add('role', nargs='?', choices=('measure', 'send', 'receive'), default='measure')
    add('--cameras', type=int, nargs='+', default=[1, 4], help='numbers of cameras')
    add('--rate', type=float, default=10.0, help='images a second and camera')
    add('--seconds', type=float, default=10.0, help='of each measurement')
    add('--width', type=int, default=1920, help='of the images, in pixels')
    add('--height', type=int, default=1080, help='of the images, in pixels')
    add('--json', type=Path, help='write the rows there')
    return parser


def _measure_all(options: argparse.Namespace) -> int:
    rows = []
    print('| cameras | profile | sent | received | p50 ms | p99 ms |\n|---|---|---|---|---|---|')
    for profile in (False, True):
        for cameras in options.cameras:
            row = measure(options, cameras, profile)
            rows.append(row)
            cells = (cameras, 'yes' if profile else 'no', row['sent'], row['received'])
            times = f'{row["latency_p50_ms"]:.1f} | {row["latency_p99_ms"]:.1f}'
            print(f'| {" | ".join(map(str, cells))} | {times} |', flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + '\n')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or be one of the two ends; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.role == 'measure':
        return _measure_all(options)
    (options.cameras,) = options.cameras
    rclpy.init(args=[])
    node = rclpy.create_node(f'measure_transport_{options.role}')
    try:
        print(json.dumps((send if options.role == 'send' else receive)(node, options)))
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
