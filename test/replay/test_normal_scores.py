"""From the scores of drives to a calibration: robust, held out in blocks, with an interval."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.detection.calibration import Calibration, CalibrationError
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.replay.normal_scores import (
    DriveScores,
    OrderStatistics,
    fit,
    pixels_above,
    winsorised,
)
from vq_anomaly_ros.replay.realised_rates import _student_quantile, block_numbers, pixel_rates

SIZE = (40, 60)


@pytest.fixture
def info(tiny_info: ModelInfo) -> ModelInfo:
    return replace(tiny_info, score_range=(-1.0, 1.0))


def frames(count: int, seed: int = 0, drift: float = 0.05) -> np.ndarray:
    """Raw scores float32 [F, h, w] of a drive whose level wanders slowly."""
    rng = np.random.default_rng(seed)
    level = np.cumsum(rng.normal(size=count))
    level = drift * np.sin(level / 4)
    noise = rng.normal(0, 0.1, (count, *SIZE)) - 0.4
    return np.clip(noise + level[:, None, None], -1, 1).astype(np.float32)


def drive(info: ModelInfo, raw: np.ndarray, name: str = 'drive') -> DriveScores:
    labels = np.zeros(SIZE, np.uint8)
    labels[20:] = 1
    scores = DriveScores(info, name, '/front/image_raw')
    for one in raw:
        scores.add(one, labels)
    return scores


@given(st.integers(1, 3000), st.integers(0, 99))
def test_order_statistics_count_what_lies_above(size: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    kept = OrderStatistics(values)
    assert kept.count == size
    thresholds = np.concatenate([np.sort(values)[::-1][:16] - 1e-12, np.linspace(-3, 3, 31)])
    exact = np.count_nonzero(values[None] > thresholds[:, None], axis=1)
    found = kept.above(thresholds)
    assert np.allclose(found[: min(16, size)], exact[: min(16, size)], atol=1e-3)
    assert (np.abs(found - exact) <= np.maximum(1, 0.11 * exact)).all()


def test_without_pollution_the_table_is_that_of_all_pixels(info: ModelInfo) -> None:
    raw = frames(30)
    file = fit([drive(info, raw)], info, date='2026-01-01')
    plain = Calibration.from_scores([raw], 'drive', date='2026-01-01')
    assert file.overall.raw.tobytes() == plain.raw.tobytes()
    assert file.overall.probability.tobytes() == plain.probability.tobytes()
    road = Calibration.from_scores([raw[:, :20]], 'road', date='2026-01-01')
    assert file.classes['road'].raw.tobytes() == road.raw.tobytes()
    assert set(file.classes) == {'road', 'tree'}
    assert (file.frames, file.overall.pixels) == (30, raw.size)


def test_only_the_region_counts(info: ModelInfo) -> None:
    """The table is that of its pixels; a frame that shows nothing of it says nothing."""
    raw, labels, region = frames(30), np.zeros(SIZE, np.uint8), np.zeros(SIZE, bool)
    region[25:, :40] = True
    scores = DriveScores(info, 'drive', '/front/image_raw')
    for one in raw:
        scores.add(one, labels, region)
    scores.add(raw[0], labels, np.zeros(SIZE, bool))
    file = fit([scores], info, date='2026-01-01')
    plain = Calibration.from_scores([raw[:, region]], 'drive', date='2026-01-01')
    assert file.overall.raw.tobytes() == plain.raw.tobytes()
    assert (file.frames, file.overall.pixels) == (30, 30 * 15 * 40)
    assert 0 < file.realised[0].low < 1e-2 < file.realised[0].high


def test_two_drives_together_are_one_calibration(info: ModelInfo) -> None:
    """Sent from another process as well."""
    raw = frames(60)
    sent = pickle.dumps(drive(info, raw[25:]))
    parts = [drive(info, raw[:25]), pickle.loads(sent)]  # noqa: S301  our own
    both, whole = fit(parts, info), fit([drive(info, raw)], info)
    assert both.overall.raw.tobytes() == whole.overall.raw.tobytes()
    assert both.frame_table.score.tobytes() == whole.frame_table.score.tobytes()
    assert [bag.frames for bag in both.bags] == [25, 35]


def test_polluted_frames_hardly_move_the_threshold(info: ModelInfo) -> None:
    """Two frames of a hundred hold an object, as bright as nothing else."""
    raw = frames(100)
    dirty = raw.copy()
    dirty[[20, 70], 10:25, 10:30] = 0.9
    for target in (1e-2, 1e-3):
        clean = fit([drive(info, raw)], info).overall.threshold(target)
        naive = fit([drive(info, dirty)], info).overall.threshold(target)
        robust = fit([drive(info, dirty)], info, polluted=0.02).overall.threshold(target)
        assert abs(robust - clean) < 0.1 * (0.9 - clean)
        assert abs(robust - clean) < 0.5 * abs(naive - clean)


def test_bounding_clean_frames_costs_little(info: ModelInfo) -> None:
    raw = frames(200)
    threshold = fit([drive(info, raw)], info, polluted=0.01).overall.threshold(1e-2)
    assert 1e-2 <= np.mean(raw > threshold) < 1.1e-2


@given(st.integers(2, 60), st.floats(0, 0.5), st.integers(0, 99))
def test_winsorised_columns_fall_like_the_counts(size: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stats = [OrderStatistics(rng.normal(size=200)) for _ in range(size)]
    above = pixels_above(stats, np.linspace(-2, 3, 20))
    bounded = winsorised(above, share)
    assert (bounded <= above).all()
    assert (np.diff(bounded.sum(axis=0)) <= 1e-9).all()
    assert (np.count_nonzero(bounded < above, axis=0) <= np.ceil(share * size)).all()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_blocks_are_contiguous_even_and_within_a_drive(lengths: list[int]) -> None:
    blocks = block_numbers(lengths)
    assert blocks.size == sum(lengths) and blocks[0] == 0
    assert set(np.diff(blocks)) <= {0, 1}
    ends = np.cumsum(lengths)[:-1]
    assert (np.diff(blocks)[ends - 1] == 1).all()
    sizes = np.bincount(blocks)
    assert sizes.max() <= -(-sum(lengths) // 10)


def test_the_interval_is_wider_where_neighbours_are_alike(info: ModelInfo) -> None:
    """The same frames, in the order of a drive and in no order."""
    raw = frames(300, drift=0.1)
    shuffled = raw[np.random.default_rng(1).permutation(len(raw))]
    widths = []
    for one in (raw, shuffled):
        rate = fit([drive(info, one)], info).realised[0]
        assert (rate.per, rate.target) == ('pixel', 1e-2)
        assert rate.low < 1e-2 < rate.high and rate.low < rate.rate < rate.high
        widths.append(rate.high - rate.low)
    assert widths[0] > 1.3 * widths[1]


def test_the_interval_holds_the_rate_of_other_drives(info: ModelInfo) -> None:
    """Known distribution: blocks of frames at random levels, 40 pairs of drives."""
    inside = 0
    thresholds = np.linspace(-1, 3, 200)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drives = []
        for _ in range(2):
            level = np.repeat(rng.normal(0, 0.3, 20), 10)
            values = rng.normal(0, 0.5, (200, 500)) + level[:, None]
            drives.append(pixels_above([OrderStatistics(v) for v in values], thresholds))
        one, two = drives
        pixels = np.full(200, 500)
        (rate,) = pixel_rates(one, one, pixels, block_numbers([200]), [1e-2], seed)
        place = np.interp(-1e-2, -one.mean(axis=0) / 500, np.arange(200))
        other = np.interp(place, np.arange(200), two.mean(axis=0) / 500)
        inside += rate.low <= other <= rate.high
    assert inside >= 34


def test_quantiles_of_student() -> None:
    stats = pytest.importorskip('scipy.stats')
    for degrees in (5, 8, 19, 200):
        exact = stats.t.ppf(0.975, degrees)
        assert _student_quantile(0.975, degrees) == pytest.approx(exact, abs=0.01)


def test_drives_that_say_nothing_are_refused(info: ModelInfo) -> None:
    raw = frames(30)
    with pytest.raises(CalibrationError, match='19 frames are too few'):
        fit([drive(info, raw[:19])], info)
    with pytest.raises(CalibrationError, match='no drive: 0 frames'):
        fit([], info)
    with pytest.raises(CalibrationError, match='all 30 frames are the same picture'):
        fit([drive(info, np.repeat(raw[:1], 30, axis=0))], info)
