"""docs/reliability.md is what the recorded runs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from vq_anomaly_ros.trials import faults
from vq_anomaly_ros.trials.page import page

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {'cpu': 'a CPU', 'cores': 2, 'load': 0.1, 'date': '2026-01-01', 'commit': 'abc'}
END = {
    'rss_mb': 300.0, 'threads': 20, 'descriptors': 30, 'latency_p50_ms': 30.0, 'published_hz': 40.0,
}  # fmt: skip


def test_the_page_is_that_of_the_recorded_runs() -> None:
    assert (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8') == page()


def test_every_outcome_is_told(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        'bench': {
            'model': 'm', 'detector_over_engine': 1.1, 'node_over_detector': 1.3,
            'four_camera_share': 0.7, 'fairness': 0.95, 'first_result_s': 1.5,
            'starts_s': [2.0, 1.5],
        },
        'node_trials': {'trials': [
            {'title': 'bursts', 'outcome': 'held', 'recovery_s': 0.1,
             'counts': {'received': 9, 'superseded': 4, 'rejected': 1, 'failed': 1}},
            {'title': 'parted', 'outcome': 'skipped', 'why': 'not allowed\nhere'},
            {'title': 'memory', 'outcome': 'failed', 'why': 'it has died\nlog'},
        ]},
        'lifecycle': {'lifecycle': {
            'cycles': 1000, 'cameras': 1, 'frames_sent': 5, 'model': 'm', 'backend': 'b',
            'rss_mb': [1.0, 9.0],
            'rss_growth_mb': 8.0, 'threads': [3, 3], 'descriptors': [4, 4],
            'bare_publisher_kb': 0.2,
        }},
        'fuzz': {'targets': [
            {'target': 'bag', 'inputs': 7, 'found': [{'number': 1}], 'rss_growth_mb': 0.0},
        ]},
        'soak': {'soak': {
            'seconds': 3600.0, 'cameras': 4, 'size': [720, 1280], 'rate': 10.0, 'first': END,
            'last': {**END, 'threads': 25}, 'samples': [{'failed': 0}],
        }},
    }  # fmt: skip
    told['lifecycle_openvino'] = {'lifecycle': {**told['lifecycle']['lifecycle'], 'cameras': 2}}
    for name, content in told.items():
        (tmp_path / f'{name}.json').write_text(json.dumps({'machine': MACHINE, **content}))
    text = page(tmp_path)
    assert '| node_over_detector | 1.3 | ≤ 1.25 | **does not hold** |' in text
    assert '| bursts | held | 9 received, 4 superseded, 2 rejected or failed | 0.1 s |' in text
    assert '| parted | **skipped** | not allowed | – |' in text
    assert '| memory | **failed** | it has died | – |' in text
    assert '**Does not hold** (5 MB): memory grew by 8.0 MB' in text
    assert 'while 2 camera(s) sent 5 frames' in text
    assert '| bag | 7 | 1 | 0.0 MB |' in text
    assert '60 minutes, 4 cameras of 1280x720 at 10 Hz: threads: 20 at the start, 25 at' in text
    assert page(tmp_path / 'nothing').count('Not recorded yet.') == 6


def test_recorded_trials_are_all_trials_and_held_or_were_skipped() -> None:
    path = ROOT / 'docs' / 'benchmarks' / 'node_trials.json'
    if not path.is_file():
        pytest.skip('no trials are recorded')
    rows = json.loads(path.read_text())['trials']
    assert {row['trial'] for row in rows} == set(faults.TRIALS)
    assert all(row['outcome'] in ('held', 'skipped') for row in rows)
