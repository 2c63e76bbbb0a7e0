"""Full-size cameras between processes: with the shipped profile no frame goes missing uncounted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray

from vq_anomaly_ros.node import transport

ROOT = Path(__file__).resolve().parents[2]
# Against hanging only: a loaded machine may take its time.
PATIENCE = 90.0
SHARED_MEMORY = ('/dev/shm/fastrtps_', '/dev/shm/fastdds_')  # noqa: S108  of Fast DDS 2 and 3
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
        assert row['cpu'] and row['cores'] == len(os.sched_getaffinity(0))
        assert row['commit'].startswith(head()[:7])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['rows.json'], 'no scratch is left'
    assert rows.stat().st_mode & 0o777 == 0o644
    assert '| 2 | no | 40 | 40 |' in capsys.readouterr().out


def test_without_the_profile_nothing_is_called_measured_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, 'profile_setting', lambda environment: {})
    rows = tmp_path / 'rows.json'
    size = ['--width', '64', '--height', '48']
    options = ['--cameras', '1', '--rate', '20', '--seconds', '1', *size, '--json', str(rows)]
    assert transport.main(options) == 1
    said = capsys.readouterr()
    assert 'fastdds_large_images.xml is not installed' in said.err
    assert '| 1 | yes |' not in said.out and not rows.exists()


def head() -> str:
    git = ['git', 'rev-parse', 'HEAD']
    return subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_measurement_and_both_its_processes(
    start: Any, tmp_path: Path, number: int
) -> None:
    """The signal goes to the parent alone, as `kill` sends it, while images are on their way."""
    rows = tmp_path / 'rows.json'
    rows.write_text('of an earlier run')
    options = ['--cameras', '1', '--seconds', '600', '--width', '64', '--height', '48']
    program = start('transport', *options, '--json', str(rows))
    end = time.monotonic() + PATIENCE
    while len(children := ends_of(program.process.pid)) < 2 or not mapped(children):
        assert program.process.poll() is None and time.monotonic() < end, program.output
        time.sleep(0.05)
    # Not those that a process before left behind: one whose engine hung cannot take leave.
    segments = mapped(children) - program.segments_before
    assert segments
    program.signal(number)
    assert program.wait() == 130, program.output
    assert 'Traceback' not in program.output
    assert 'interrupted; both processes have ended, no file was written' in program.output
    assert not [pid for pid in children if Path(f'/proc/{pid}').exists()]
    assert not [segment for segment in segments if segment.exists()], 'left in shared memory'
    assert rows.read_text() == 'of an earlier run'


def ends_of(parent: int) -> list[int]:
    """The processes that a process has started."""
    children = Path(f'/proc/{parent}/task/{parent}/children')
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def mapped(processes: list[int]) -> set[Path]:
    """The segments of shared memory that all of these processes have of their own."""
    found = []
    for pid in processes:
        try:
            lines = Path(f'/proc/{pid}/maps').read_text().splitlines()
        except OSError:
            return set()
        names = {line.split()[5] for line in lines if any(start in line for start in SHARED_MEMORY)}
        if not names:
            return set()
        found.append({Path(name) for name in names})
    return set().union(*found)


@pytest.mark.parametrize(
    ('option', 'value', 'word'),
    [
        ('--cameras', '0', 'no whole number above 0'),
        ('--cameras', '1.5', 'no whole number above 0'),
        ('--seconds', '0', 'no number above 0'),
        ('--seconds', 'inf', 'up to 2764800'),
        ('--rate', '0', 'no number above 0'),
        ('--rate', 'nan', 'no number above 0'),
        ('--width', '-1', 'no whole number above 0'),
        ('--height', '0', 'no whole number above 0'),
    ],
)
def test_senseless_numbers_are_refused(
    option: str, value: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        transport.main([f'{option}={value}'])
    assert ended.value.code == 2
    assert option in (said := capsys.readouterr().err) and word in said
