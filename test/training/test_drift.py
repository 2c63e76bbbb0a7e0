"""The study of the drift monitor: what counts as told, and the page holds what the JSON says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import drift
from training.drift_drives import DRIVES, DriveError, SignsOnDisk
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.frame_signs import FrameSigns

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def found() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / 'docs/benchmarks/drift.json').read_text())
    return found


@pytest.fixture(scope='module')
def detector(tiny_model: Path) -> Any:
    config = DetectorConfig(tiny_model, backend='onnxruntime', threads=1, with_codes=True)
    with Detector(config) as detector:
        yield detector


@pytest.fixture(scope='module')
def signs(detector: Detector, picture: Any) -> list[FrameSigns]:
    kept = SignsOnDisk(detector, None)
    return kept.of('noise', lambda: [picture(seed) for seed in range(40)])


def test_the_page_and_the_summary_say_what_was_found(found: dict[str, Any]) -> None:
    assert drift.summary(found) == found['summary']
    assert drift.markdown(found) in (ROOT / 'docs/drift.md').read_text(encoding='utf-8')


def test_what_the_page_promises_was_found(found: dict[str, Any]) -> None:
    """Faults of severity 3 in time in nine of ten cases, uneventful halves quiet."""
    assert found['severity'] == 3 and found['rate_hz'] == 10.0
    assert found['summary']['share_in_time'] >= 0.9
    assert found['summary']['uneventful_raised'] == 0
    motorway = {row['run']: row for row in found['crossed'] if row['calibrated'] == 'motorway'}
    assert motorway['Seq05VD']['factor'] > 3
    assert motorway['Seq05VD']['share'] > 0.5 and motorway['IDD-Lite']['share'] > 0.5


def test_a_fault_is_told_with_its_delay(signs: list[FrameSigns]) -> None:
    baseline = drift.baseline_of(signs[:30])
    case = drift.fault_case(baseline, signs[30:], [signs[-1]] * 21)
    # The last good frame is the first of the frozen ones.
    assert case == {'delay_s': 0.4, 'told_by': ['frozen'], 'alarm_before': False}
    assert drift.fault_case(baseline, signs[:20], signs[20:25])['delay_s'] is None


def test_an_alarm_before_the_fault_is_no_success(signs: list[FrameSigns]) -> None:
    baseline = drift.baseline_of(signs[:30])
    case = drift.fault_case(baseline, [signs[0]] * 10, [signs[0]] * 21)
    assert case == {'delay_s': None, 'told_by': [], 'alarm_before': True}


def test_rates_compare_the_tails(signs: list[FrameSigns]) -> None:
    def with_tail(count: int) -> list[FrameSigns]:
        scores = np.zeros(len(signs[0].scores), np.int64)
        scores[3], scores[100] = 10_000 - count, count
        return [dataclasses.replace(one, scores=scores) for one in signs]

    baseline = drift.baseline_of(with_tail(10))
    assert drift.rate_factor(baseline, with_tail(10)) == pytest.approx(1.0)
    assert drift.rate_factor(baseline, with_tail(40)) == pytest.approx(4.0)


def test_signs_come_back_from_the_disk(detector: Detector, picture: Any, tmp_path: Path) -> None:
    kept = SignsOnDisk(detector, tmp_path)
    first = kept.of('two', lambda: [picture(1), picture(2)])

    def not_again() -> list[np.ndarray]:
        raise AssertionError('they are on disk')

    for one, other in zip(first, kept.of('two', not_again), strict=True):
        assert one.picture == other.picture and one.fingerprint == other.fingerprint
        for name in ('cells', 'edges', 'scores', 'codes'):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    for drive in DRIVES.values():
        with pytest.raises(DriveError, match='check --data'):
            drive.read(tmp_path)
    assert drift.main(['--data', str(tmp_path), '--cost']) == 2


def test_the_cost_is_measured(detector: Detector, picture: Any) -> None:
    found = drift.cost(detector, picture(1), repeats=20)
    assert found['monitor_ms'] > 0 and found['signs_ms'] > 0
    assert found['picture'] == [64, 128]
