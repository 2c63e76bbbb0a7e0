"""The file that `calibrate` writes, read back by those that use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.detection import calibration_file
from vq_anomaly_ros.detection.calibration import Calibration, CalibrationError
from vq_anomaly_ros.detection.calibration_file import (
    CalibratedBag,
    CalibrationFile,
    FrameTable,
    RealisedRate,
    frame_score,
    thinned,
)
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.images import Frame

RATE = {'per': 'pixel', 'target': 0.1, 'rate': 0.1, 'low': 0.0, 'high': 1.0}


@pytest.fixture
def file(tiny_info: ModelInfo) -> CalibrationFile:
    scores = np.random.default_rng(0).uniform(-1, 1, 50_000)
    table = Calibration.from_scores([scores], 'a drive', date='2026-01-01')
    return CalibrationFile(
        model_name='tiny',
        method='codebook',
        weights_sha256=tiny_info.weights_sha256,
        date='2026-01-01',
        bags=(CalibratedBag('a drive', '/front/image_raw', 30),),
        polluted=0.01,
        overall=table,
        frame_table=FrameTable(np.linspace(-0.5, 0.5, 30), 30),
        classes={'road': table},
        realised=(RealisedRate('pixel', 1e-2, 0.011, 0.004, 0.02),),
        drift={'anything': [1, 2.5]},
        regions=None,
    )


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / 'calibration.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_written_is_read(tmp_path: Path, file: CalibrationFile) -> None:
    again = calibration_file.read(written(tmp_path, file.to_json()))
    assert again.to_dict() == file.to_dict()
    assert again.sha256 == file.sha256
    assert replace(file, drift=None).sha256 != file.sha256
    assert again.overall.raw.tobytes() == file.overall.raw.tobytes()


@pytest.mark.parametrize(
    ('field', 'value', 'word'),
    [
        ('format', 'another', 'is no calibration'),
        ('format_version', 2, 'format version 2'),
        ('model', {'name': 'tiny'}, "'model' is not"),
        ('bags', [], "'bags' is not"),
        ('bags', [{'name': 'a', 'topic': 'b', 'frames': 0}], "'bags' is not"),
        ('bags', [{'name': 'a', 'frames': 50}], 'makes no sense'),
        ('polluted', True, "'polluted' is not"),
        ('polluted', 1.5, "'polluted' is not"),
        ('overall', {}, 'no valid field'),
        ('classes', {'road': 3}, "'classes' is not"),
        ('frame_scores', [], 'frame scores is unusable'),
        ('frame_scores', [2.0, 1.0], 'frame scores is unusable'),
        ('frame_scores', ['a'], 'makes no sense'),
        ('realised', [{'per': 'pixel'}], 'makes no sense'),
        ('realised', [RATE | {'per': 'day'}], 'makes no sense'),
        ('drift', 'none', "'drift' is not"),
    ],
)
def test_rubbish_is_refused_by_the_name_of_the_file(
    tmp_path: Path, file: CalibrationFile, field: str, value: Any, word: str
) -> None:
    path = written(tmp_path, file.to_dict() | {field: value})
    with pytest.raises(CalibrationError, match=word) as told:
        calibration_file.read(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    ('content', 'word'),
    [('{"format": "vq', 'damaged'), ('[' * 100_000, 'damaged'), ('[]', 'no calibration')],
)
def test_what_is_no_calibration(tmp_path: Path, content: str, word: str) -> None:
    with pytest.raises(CalibrationError, match=word):
        calibration_file.read(written(tmp_path, content))


def test_files_that_are_not_there_not_numbers_or_too_large(
    tmp_path: Path, file: CalibrationFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CalibrationError, match='no such file'):
        calibration_file.read(tmp_path / 'none.json')
    path = written(tmp_path, file.to_json().replace('"polluted": 0.01', '"polluted": NaN'))
    with pytest.raises(CalibrationError, match='holds NaN'):
        calibration_file.read(path)
    monkeypatch.setattr(calibration_file, 'LARGEST_FILE', 100)
    with pytest.raises(CalibrationError, match='more than'):
        calibration_file.read(path)


@given(st.integers(1, 400), st.floats(0.001, 0.999))
def test_the_threshold_of_frames_is_exact_for_frames_that_may_change_places(
    frames: int, target: float
) -> None:
    """Of n + 1 places that a new frame may take, at most the target share lies above."""
    table = FrameTable(np.arange(frames), frames)
    if target < table.smallest_rate * (1 - 1e-6):
        with pytest.raises(CalibrationError, match='ask for'):
            table.threshold(target)
        return
    places_above = frames - table.threshold(target)
    assert places_above / (frames + 1) <= target + 1e-6
    assert (places_above + 1) / (frames + 1) > target - 1e-6


def test_the_score_of_a_frame_is_what_a_thousandth_of_it_reaches() -> None:
    raw = np.random.default_rng(0).permutation(5000).astype(np.float32).reshape(50, 100)
    assert np.count_nonzero(raw >= frame_score(raw)) == 5
    assert frame_score(raw[:1]) == raw[:1].max()


def test_thinned_scores_keep_their_ends_and_order() -> None:
    scores = np.random.default_rng(0).normal(size=12_345)
    kept = thinned(scores, 100)
    assert (kept[0], kept[-1], kept.size) == (
        np.float32(scores.min()),
        np.float32(scores.max()),
        100,
    )
    assert abs(np.median(kept) - np.median(scores)) < 0.05
    assert thinned(scores).size == 5000 and thinned(scores[:7]).size == 7


def test_the_detector_uses_a_file_of_its_model_and_refuses_another(
    tmp_path: Path,
    tiny_model: Path,
    file: CalibrationFile,
    picture: Callable[..., np.ndarray],
) -> None:
    with Detector(DetectorConfig(tiny_model)) as detector:
        weights = detector.info.weights_sha256
        (plain,) = detector.detect([Frame(picture(1), 'bgr')])
        assert detector.calibration_file is None
    path = written(tmp_path, replace(file, weights_sha256=weights).to_json())
    config = DetectorConfig(tiny_model, calibration=path, output_size='network')
    with Detector(config) as detector:
        (calibrated,) = detector.detect([Frame(picture(1), 'bgr')])
        assert detector.calibration_file is not None
    assert calibrated.raw_score.tobytes() == plain.raw_score.tobytes()
    assert np.array_equal(calibrated.score, file.overall.apply(plain.raw_score))
    path = written(tmp_path, replace(file, weights_sha256='f' * 64).to_json())
    with pytest.raises(CalibrationError, match=r"belongs to the model 'tiny'.*not to 'tiny'"):
        Detector(config)
