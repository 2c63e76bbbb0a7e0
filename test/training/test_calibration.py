"""The study of calibrations: what its figures mean, and the page holds what the JSON says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import calibration
from training.maps_on_disk import Maps, MapsOnDisk
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.model_file import ModelInfo

ROOT = Path(__file__).resolve().parents[2]
SIZE = (20, 40)


@pytest.fixture(scope='module')
def found() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / 'docs/benchmarks/calibration.json').read_text())
    return found


@pytest.fixture
def info(tiny_info: ModelInfo) -> ModelInfo:
    return replace(tiny_info, score_range=(-1.0, 1.0))


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """Independent scores, float32 [F, h, w]: rates come out as asked for."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(-0.4, 0.1, (frames, *SIZE)), -1, 1).astype(np.float32)


def test_the_page_says_what_was_found(found: dict[str, Any]) -> None:
    page = (ROOT / 'docs/calibration.md').read_text(encoding='utf-8')
    assert calibration.markdown(found) in page


def test_what_the_page_promises_was_found(found: dict[str, Any]) -> None:
    total = calibration.summary(found)
    for row in total['splits']:
        assert row['splits'] == 50
        assert 1 / 1.5 <= row['mean_factor'] <= 1.5
        assert row['share_inside'] >= 0.9
    assert all(row['moved_worst'] < 0.2 for row in total['polluted'])
    off = [
        row
        for row in found['crossed']
        if any(not 1 / 3 <= factor <= 3 for factor in row['factors'].values())
    ]
    assert {row['run'] for row in off if row['calibrated'] == 'motorway'} >= {'Seq05VD'}
    assert all(row['drift']['share'] > 0.5 for row in off)


def test_splits_of_noise_keep_their_rate(info: ModelInfo) -> None:
    cases = list(calibration.split_cases(info, noise(60), splits=4))
    rows = {(row['per'], row['target']): row for row in calibration.summed_up(cases)}
    assert {('pixel', 1e-2), ('pixel', 1e-3)} <= set(rows)
    row = rows['pixel', 1e-2]
    assert row['splits'] == 4 and row['share_within'] == row['share_inside'] == 1.0
    low, high = row['interval']
    assert 0.7 < low < 1 < high < 1.4


def test_a_split_that_is_off_is_told(info: ModelInfo) -> None:
    """One block scores far higher: in half of the splits it is judged, in half it calibrates."""
    raw = noise(60)
    raw[:3] += 0.5
    cases = list(calibration.split_cases(info, raw, splits=6))
    (row,) = [r for r in calibration.summed_up(cases) if (r['per'], r['target']) == ('pixel', 1e-2)]
    assert row['share_within'] < 1 and row['mean_factor'] > 1.5


def test_objects_move_a_bounded_threshold_less(info: ModelInfo) -> None:
    raw = noise(100)
    objects = np.zeros((1, *SIZE), bool)
    objects[0, 5:15, 5:30] = True
    seen = raw[[40]].copy()
    seen[objects] = 0.6
    dirty = [(np.array([40]), Maps(seen, None), objects)]
    for case in calibration.pollution_cases(info, raw, dirty):
        assert case['distance'] == pytest.approx(0.6 + 0.4, abs=0.45)
        assert abs(case['moved']) < 0.1
        if case['target'] == 1e-3:
            assert case['moved_plain'] > 0.3


def test_maps_come_back_from_the_disk(tiny_model: Path, picture: Any, tmp_path: Path) -> None:
    config = DetectorConfig(tiny_model, 'onnxruntime', output_size='network', threads=1)
    with Detector(config) as detector:
        kept = MapsOnDisk(detector, tmp_path)
        first = kept.of('two', lambda: [picture(1), picture(2)])

        def not_again() -> list[np.ndarray]:
            raise AssertionError('they are on disk')

        again = kept.of('two', not_again)
    assert first.labels is not None and again.labels is not None
    assert first.raw.shape == (2, 16, 32) and first.labels.dtype == np.uint8
    assert first.raw.tobytes() == again.raw.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()


def test_data_that_are_not_there_are_named(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--data', str(tmp_path), '--model', str(tiny_model)]
    assert calibration.main(arguments) == 2
    assert 'check --data' in capsys.readouterr().err
