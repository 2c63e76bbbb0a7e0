"""Full-size cameras between processes: with the shipped profile no frame goes missing uncounted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray

from vq_anomaly_ros.node import transport

CAMERAS = [f'/camera_{number}' for number in range(4)]
FRAMES = 40
PARTS = ('published', 'superseded', 'rejected', 'failed', 'in flight')


def test_four_cameras_of_1080p_at_10_hz_are_received_or_counted(
    peer: Any, start_detector: Any, start: Any
) -> None:
    start_detector(cameras=json.dumps(CAMERAS), output_size='network')
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    sender = start('transport', 'send', '--cameras', '4', '--rate', '10', '--seconds', '4')

    def counts() -> list[dict[str, int]]:
        found = {s.hardware_id: s for s in diagnostics[-1].status} if diagnostics else {}
        if not set(CAMERAS) <= set(found):
            return []
        values = [{v.key: v.value for v in found[camera].values} for camera in CAMERAS]
        return [
            {name: int(one[name]) for name in ('received', 'lost in transport', *PARTS)}
            for one in values
        ]

    def arrived() -> bool:
        return bool(counts()) and all(
            one['received'] + one['lost in transport'] == FRAMES and not one['in flight']
            for one in counts()
        )

    assert peer.spin_until(arrived), f'{counts()}\n{sender.output}'
    assert sender.wait() == 0
    assert json.loads(sender.output)['sent'] == 4 * FRAMES
    for one in counts():
        assert one['received'] == sum(one[part] for part in PARTS)
        assert one['received'] >= 0.9 * FRAMES
        assert one['published'] > 0


def test_the_measurement_says_what_was_sent_and_received(
    ros: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / 'rows.json'
    size = ['--width', '64', '--height', '48']
    options = ['--cameras', '2', '--rate', '20', '--seconds', '1', *size, '--json', str(rows)]
    assert transport.main(options) == 0
    without, with_profile = json.loads(rows.read_text())
    assert [row['profile'] for row in (without, with_profile)] == [False, True]
    for row in (without, with_profile):  # so small that either way all arrive
        assert (row['sent'], row['received'], row['share']) == (40, 40, 1.0)
        assert 0 < row['latency_p50_ms'] <= row['latency_p99_ms']
    assert '| 2 | no | 40 | 40 |' in capsys.readouterr().out
