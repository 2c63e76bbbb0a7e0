import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from vq_anomaly_ros.dds_profile import VARIABLES
from vq_anomaly_ros.replay import bags, demo
from vq_anomaly_ros.replay.evaluate_bag import EvaluationConfig, evaluate

FRAMES = 8
SMALL = ['--frames', str(FRAMES), '--size', '64x128']


def command(out: Path, model: Path) -> list[str]:
    module = [sys.executable, '-m', 'vq_anomaly_ros.replay.demo']
    return [*module, '--out', str(out), '--model', str(model), *SMALL]


def processes_about(folder: Path) -> list[str]:
    """Command lines of all processes that name a folder."""
    found = []
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / 'cmdline').read_bytes().replace(b'\0', b' ').decode()
            except OSError:
                continue
            if str(folder) in line:
                found.append(line)
    return found


@pytest.fixture(scope='module')
def shown(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The results of a demo that replaced those of an earlier one."""
    pytest.importorskip('rclpy', reason='rclpy (ROS 2 or its wheels) is not installed')
    out = tmp_path_factory.mktemp('demo') / 'a folder whose name is longer than a line' / 'out'
    out.mkdir(parents=True)
    (out / 'report.html').write_text('of an earlier run')
    with bags.BagWriter(out / 'output') as writer:
        writer.write_string('/of_an_earlier_run', 1, '')
    result = subprocess.run(
        command(out, tiny_model), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f'{FRAMES} sent' in result.stdout
    for name in ('report.html', 'overlay.webm', 'output'):
        assert f'  {out / name}\n' in result.stdout
    return out


def test_the_demo_leaves_its_results_and_nothing_else(shown: Path) -> None:
    assert sorted(path.name for path in shown.iterdir()) == [
        'drive',
        'frames.json',
        'logs',
        'output',
        'overlay.webm',
        'report.html',
        'summary.json',
    ]
    report = (shown / 'report.html').read_text()
    assert 'of an earlier run' not in report
    assert 'figures do not compare with a benchmark of real pictures' in report
    assert processes_about(shown) == []


def test_the_node_answered_and_counted(shown: Path) -> None:
    summary = json.loads((shown / 'summary.json').read_text())
    counts = summary['counts']
    assert summary['frames'] == FRAMES
    assert FRAMES - summary['frames_dropped'] == counts['published'] > 0
    assert counts['received'] == counts['published'] + counts['superseded']
    assert 'OpenVINO' in summary['engine'] or 'ONNX' in summary['engine']
    assert summary['latency_ms']['p50'] > 0
    assert summary['metrics']['class_frames'] == counts['published']


def test_the_node_publishes_what_evaluate_bag_computes(
    shown: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = EvaluationConfig(
        (shown / 'drive',), tmp_path, tiny_model, output_size='network', video=False
    )
    evaluate(config)
    for name in ('semantic_mask', 'score', 'mask'):
        topic = f'/front/anomaly/{name}'
        computed = {s: m for s, _, m in bags.read_images(tmp_path / 'output', topic)}
        recorded = list(bags.read_images(shown / 'output', topic))
        assert recorded
        for stamp_ns, _, message in recorded:
            same = computed[stamp_ns]
            assert message.header == same.header
            assert (message.encoding, message.step) == (same.encoding, same.step)
            np.testing.assert_array_equal(message.data, same.data)


@pytest.mark.parametrize('moment', ['drawing', 'playing'])
def test_ctrl_c_ends_all_processes_and_leaves_nothing(
    tmp_path: Path, tiny_model: Path, moment: str
) -> None:
    pytest.importorskip('rclpy', reason='rclpy (ROS 2 or its wheels) is not installed')
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [*command(out, tiny_model), '--frames', '60'],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    drawn = 'fresh/.drive.*/drive/labels/*.png'
    sign = drawn if moment == 'drawing' else 'fresh/logs/player.txt'
    limit = time.monotonic() + 120
    while not list(out.glob(f'.unfinished-*/{sign}')) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert 'Traceback' not in errors
    assert not out.exists()
    assert processes_about(out) == []


def test_without_rclpy_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.importlib.util, 'find_spec', lambda name: None)
    assert demo.main(['--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert 'requirements/ros-wheels.txt' in error
    assert 'source /opt/ros' in error
    assert not (tmp_path / 'out').exists()


def test_the_processes_meet_on_this_host_with_room_for_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment = demo.child_environment()
    assert environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert 1 <= int(environment['ROS_DOMAIN_ID']) <= 100
    (name,) = set(VARIABLES) & set(environment)
    assert 'segment_size' in Path(environment[name]).read_text()


def test_a_domain_in_which_somebody_takes_part_is_left_alone() -> None:
    with ExitStack() as taken:
        for domain in range(1, 101):
            if domain != 42:
                port = taken.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                with suppress(OSError):  # somebody does take part there
                    port.bind(('', 7410 + 250 * domain))
        assert demo.unused_domain() == 42
    assert 1 <= demo.unused_domain() <= 100
