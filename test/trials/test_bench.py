"""The bench: what it counts, what it says moved, and that every way of a frame is one."""

from __future__ import annotations

import copy
import json
import os
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')

from vq_anomaly_ros.timing import in_turns
from vq_anomaly_ros.trials import bench, bench_picture
from vq_anomaly_ros.trials.bench_cameras import first_result, under_load
from vq_anomaly_ros.trials.bench_ways import batch_ways, engine_ways, ways_of
from vq_anomaly_ros.trials.detector_process import Status, counts_of, usage
from vq_anomaly_ros.trials.peer import TrialError, own_domain
from vq_anomaly_ros.trials.stage import Load, Stage

ROW = {
    'cameras': 4, 'size': (720, 1280), 'rate': 9.0, 'output_size': 'network', 'fairness': 0.97,
    'share_of_engine': 0.85,
}  # fmt: skip
RESULT: dict[str, Any] = {
    'detector_over_engine': 1.08, 'node_over_detector': 1.1, 'four_camera_share': 0.85,
    'fairness': 0.97, 'first_result_s': 1.4, 'model': 'street',
    'machine': {'cpu': 'a CPU', 'cores': 2, 'date': '2026-01-01', 'load': 0.1},
    'ms': {'engine': 30.0, 'detector network': 32.4, 'node network 32FC1': 35.6},
    'engine_ms': {}, 'cameras': [ROW, {**ROW, 'cameras': 8}], 'starts_s': [1.4],
}  # fmt: skip


def test_what_moved_is_said_with_its_direction() -> None:
    result = copy.deepcopy(RESULT)
    assert bench.moved(result, RESULT) == []
    result |= {'detector_over_engine': 1.12, 'four_camera_share': 0.95, 'first_result_s': 2.8}
    assert bench.moved(result, RESULT) == [
        'four_camera_share: 0.85 -> 0.95 (+12%), better',
        'first_result_s: 1.4 -> 2.8 (+100%), worse',
    ]


def test_only_a_machine_of_the_same_kind_is_compared_with(tmp_path: Path) -> None:
    assert bench.kept_one(RESULT, tmp_path) is None
    for number, cores in enumerate((4, 2)):
        kept = {**RESULT, 'machine': {**RESULT['machine'], 'cores': cores, 'date': str(cores)}}
        (tmp_path / f'bench_{number}.json').write_text(json.dumps(kept))
    found = bench.kept_one(RESULT, tmp_path)
    assert found is not None and found['machine']['date'] == '2'
    other = {**RESULT, 'machine': {**RESULT['machine'], 'cpu': 'another'}}
    assert bench.kept_one(other, tmp_path) is None


@pytest.mark.parametrize('suffix', ['svg', 'png'])
def test_the_picture_is_small_and_tells_the_figures(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'bench.{suffix}'
    bench_picture.draw(RESULT, path)
    assert path.stat().st_size < 150_000
    if suffix == 'svg':
        text = ''.join(ET.parse(path).getroot().itertext())  # noqa: S314  our own
        assert '1.08' in text and 'least served 0.97' in text
    else:
        assert cv2.imread(str(path)).shape[1] > 500


def test_counts_that_do_not_add_up_are_found() -> None:
    figures = dict.fromkeys(
        ('received', 'published', 'superseded', 'rejected', 'failed', 'in flight'), '1'
    )
    with pytest.raises(TrialError, match='the account is not whole'):
        counts_of(Status(0, '', figures))
    assert counts_of(Status(0, '', {**figures, 'received': '5'})).received == 5


@pytest.mark.parametrize('option', [('--rounds', '0'), ('--seconds', 'nan'), ('--starts', 'x')])
def test_nonsense_is_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(option)
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(['--model', 'nowhere', '--out', str(tmp_path / 'out')]) == 2
    assert 'nowhere' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_every_way_runs_and_is_published(tiny_model: Path, picture: Callable[..., Any]) -> None:
    with own_domain() as (peer, _), ways_of(str(tiny_model), peer, picture(0)) as ways:
        times = in_turns(ways, rounds=1, calls=1)
    assert {'engine', 'detector network', 'node network 32FC1', 'node from jpeg'} <= set(times)
    assert all(value > 0 for found in times.values() for value in found)


def test_engines_of_all_runtimes_are_timed(tiny_model: Path) -> None:
    with ExitStack() as stack:
        ways = engine_ways([str(tiny_model)], stack)
        assert [name.split()[1] for name in ways] == ['openvino', 'onnxruntime']
        in_turns(ways, rounds=1, calls=1)
        batches = in_turns(batch_ways(str(tiny_model), stack), rounds=1, calls=1)
    assert set(bench._batch_ratios(batches)) == {'2', '4'}
    assert bench._batch_ratios({'1': [10.0], '2': [30.0]}) == {'2': 1.5}


def test_cameras_are_served_and_counted_at_the_node(
    tiny_model: Path, picture: Callable[..., Any], tmp_path: Path
) -> None:
    sent = picture(0, 90, 160)
    file = tmp_path / 'picture.png'
    cv2.imwrite(str(file), sent)
    logs = tmp_path / 'logs'
    logs.mkdir()
    with own_domain() as (peer, environment):
        stage = Stage(peer.node.context, environment, logs, file)
        load = Load(2, (90, 160), 20.0)
        row = under_load(stage, str(tiny_model), load, lambda: time.sleep(0.005), 2.0)
        assert first_result(stage, str(tiny_model), np.ascontiguousarray(sent)) > 0
    # How much of an engine of 200 Hz a busy machine gives is no matter of this test.
    assert 0 < row['published_hz'] <= row['received_hz'] + 1
    assert row['engine_ms'] >= 5
    share = row['published_hz'] * row['engine_ms'] / 1e3
    assert row['share_of_engine'] == pytest.approx(share, rel=0.01)
    assert 0 < row['fairness'] <= 1
    assert row['cpu_ms_per_frame'] > 0 and row['rss_mb'] > 10 and row['threads'] > 1
    assert row['waited_p99_ms'] >= 0


def test_usage_is_that_of_the_process() -> None:
    before = usage(os.getpid())
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with open(os.devnull):  # noqa: PTH123
        during = usage(os.getpid())
    stop.set()
    thread.join()
    assert (during.threads, during.descriptors) == (before.threads + 1, before.descriptors + 1)
    assert during.rss_mb > 20 and during.cpu_s >= before.cpu_s > 0
