"""The table from raw to calibrated scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.detection.calibration import (
    Calibration,
    CalibrationError,
    check_target_fpr,
    rarity,
)


def table(
    raw: object = (0.0, 1.0, 3.0), probability: object = (0.0, 0.5, 1.0), **changes: object
) -> Calibration:
    fields = {
        'pixels': 10,
        'source': 'test',
        'model_sha256': '',
        'date': '2026-01-01',
        **changes,
    }
    return Calibration(raw=raw, probability=probability, **fields)  # type: ignore[arg-type]


@st.composite
def tables(draw: st.DrawFn) -> Calibration:
    """Any valid table: strictly increasing float32 scores and float64 shares."""
    size = draw(st.integers(2, 30))
    finite = st.floats(-1e6, 1e6, width=32)
    raw = draw(st.lists(finite, min_size=size, max_size=size, unique=True))
    share = st.floats(0, 1, allow_subnormal=False)
    probability = draw(st.lists(share, min_size=size, max_size=size, unique=True))
    raw32 = np.unique(np.array(raw, np.float32))
    return table(raw32, np.sort(probability)[: raw32.size]) if raw32.size > 1 else table()


def test_a_table_is_linear_between_its_points_and_flat_beyond() -> None:
    raw = np.array([[-5.0, 0.0, 0.5], [1.0, 2.0, 9.0]], np.float32)
    score = table().apply(raw)
    assert score.dtype == np.float32
    assert score.tolist() == [[0.0, 0.0, 0.25], [0.5, 0.75, 1.0]]


@given(tables())
def test_apply_is_exact_at_the_points(calibration: Calibration) -> None:
    expected = calibration.probability.astype(np.float32)
    assert np.array_equal(calibration.apply(calibration.raw), expected)


@given(tables(), st.lists(st.floats(-2e6, 2e6, width=32), min_size=1))
def test_apply_is_monotone_and_in_range(calibration: Calibration, raw: list[float]) -> None:
    near = np.nextafter(calibration.raw, np.float32(np.inf))
    before = np.nextafter(calibration.raw, np.float32(-np.inf))
    values = np.sort(np.concatenate([np.array(raw, np.float32), calibration.raw, near, before]))
    score = calibration.apply(values)
    assert (np.diff(score) >= 0).all()
    assert score.min() >= 0
    assert score.max() <= 1


@given(tables())
def test_json_round_trip_to_the_bit(calibration: Calibration) -> None:
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again.raw.tobytes() == calibration.raw.tobytes()
    assert again.probability.tobytes() == calibration.probability.tobytes()
    assert again.sha256 == calibration.sha256


def test_the_hash_tells_tables_apart() -> None:
    assert table().sha256 != table(raw=(0.0, 1.0, 4.0)).sha256
    assert table().sha256 != table(source='another').sha256


def test_the_table_cannot_be_changed_afterwards() -> None:
    raw = np.array([0.0, 1.0, 3.0], np.float32)
    calibration = table(raw)
    raw[1] = 2
    assert calibration.raw[1] == 1
    with pytest.raises(ValueError, match='read-only'):
        calibration.raw[0] = 7


@pytest.mark.parametrize(
    ('raw', 'probability'),
    [
        ((0.0, 1.0), (0.0, 0.5, 1.0)),
        ((0.0,), (0.0,)),
        ((), ()),
        ((0.0, 0.0, 1.0), (0.0, 0.5, 1.0)),
        ((0.0, 1.0, 2.0), (0.0, 0.6, 0.6)),
        ((0.0, 1.0, 2.0), (-0.1, 0.6, 1.0)),
        ((0.0, 1.0, 2.0), (0.0, 0.6, 1.1)),
        ((0.0, 1.0, np.nan), (0.0, 0.6, 1.0)),
        ((0.0, 1.0, np.inf), (0.0, 0.6, 1.0)),
        ((1.0, 1.0 + 1e-12), (0.0, 1.0)),
    ],
)
def test_what_is_no_table_is_refused(raw: object, probability: object) -> None:
    with pytest.raises(CalibrationError, match=r"'test'.*calibrate again"):
        table(raw, probability)


@pytest.mark.parametrize(
    'change',
    [
        {'raw': None},
        {'raw': 'abc'},
        {'raw': ['a', 'b', 'c']},
        {'raw': [[0.0], [1.0], [2.0]]},
        {'raw': [0.0, None, 2.0]},
        {'probability': [0.0, {}, 1.0]},
        {'pixels': 'many'},
        {'pixels': True},
        {'source': 3},
        {'date': None},
    ],
)
def test_fields_of_a_wrong_kind_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CalibrationError):
        Calibration.from_dict({**table().to_dict(), **change})


@pytest.mark.parametrize('field', list(table().to_dict()))
def test_every_field_is_due(field: str) -> None:
    fields = table().to_dict()
    del fields[field]
    with pytest.raises(CalibrationError, match=field):
        Calibration.from_dict(fields)


class TestFromScores:
    def test_uniform_scores_are_their_own_calibration(self) -> None:
        """The distribution function of the uniform one on [0, 1] is the identity."""
        scores = (np.arange(1_000_000) + 0.5) / 1_000_000
        calibration = Calibration.from_scores(np.split(scores, 10), 'test', (0.0, 1.0))
        raw = np.linspace(0, 1 - 1e-5, 1000, dtype=np.float32)
        assert np.abs(calibration.apply(raw) - raw).max() < 1e-5
        assert calibration.pixels == 1_000_000

    @pytest.mark.parametrize('target', [1e-1, 1e-2, 1e-3, 1e-4])
    def test_the_target_rate_is_kept_on_the_scores_themselves(self, target: float) -> None:
        scores = np.tanh(np.random.default_rng(0).normal(size=1_000_000)).astype(np.float32)
        calibration = Calibration.from_scores([scores], 'test')
        rate = (calibration.apply(scores) > np.float32(1 - target)).mean()
        assert rate == pytest.approx(target, rel=0.03)
        assert (scores > calibration.threshold(target)).mean() == pytest.approx(target, rel=0.03)

    def test_shares_are_exact_at_the_points(self) -> None:
        scores = np.random.default_rng(1).beta(2, 5, 100_000)
        calibration = Calibration.from_scores([scores], 'test', (0.0, 1.0))
        below = [(scores < raw).mean() for raw in calibration.raw[:-1].astype(np.float64)]
        # a float32 score may lie a hair beside its bin's edge: a pixel of 100,000, at most
        assert np.abs(np.array(below) - calibration.probability[:-1]).max() <= 1.001e-5

    def test_the_order_of_the_scores_does_not_matter(self) -> None:
        scores = np.random.default_rng(2).random((10, 8, 8))
        one = Calibration.from_scores(scores, 'test', date='x')
        other = Calibration.from_scores(scores[::-1], 'test', date='x')
        assert one.to_dict() == other.to_dict()

    def test_the_tail_reaches_to_one_in_a_hundred_thousand(self) -> None:
        scores = (np.arange(2_000_000) + 0.5) / 2_000_000
        calibration = Calibration.from_scores([scores], 'test', (0.0, 1.0))
        assert 1 - calibration.probability[-2] == pytest.approx(1e-5, rel=0.5)
        assert calibration.smallest_fpr == pytest.approx(1e-5, rel=0.5)

    @pytest.mark.parametrize('pixels', [1, 3, 11, 100, 5000])
    def test_few_pixels_make_no_fine_tail(self, pixels: int) -> None:
        scores = np.random.default_rng(3).random(pixels)
        calibration = Calibration.from_scores([scores], 'test', (0.0, 1.0))
        assert np.count_nonzero(scores >= calibration.raw[-2]) >= min(pixels, 10)
        assert calibration.smallest_fpr >= min(1.0, 10 / pixels) * (1 - 1e-9)

    def test_what_is_above_all_normal_pixels_keeps_its_order(self) -> None:
        scores = np.random.default_rng(4).uniform(-1, 0, 100_000)
        calibration = Calibration.from_scores([scores], 'test')
        score = calibration.apply(np.linspace(0.01, 1, 100, dtype=np.float32))
        assert (np.diff(score) > 0).all()
        assert score[0] > 1 - 1e-3
        assert score[-1] == 1

    def test_equal_scores_are_normal(self) -> None:
        calibration = Calibration.from_scores([np.zeros(1000)], 'test')
        assert calibration.apply(np.float32([-0.1]))[0] == 0
        assert calibration.apply(np.float32([0]))[0] <= 0.99

    def test_scores_at_the_ends_of_the_range_count(self) -> None:
        scores = np.array([-1.0, 1.0, 1 + 1e-7, -1 - 1e-7] * 100, np.float32)
        assert Calibration.from_scores([scores], 'test').pixels == 400

    @pytest.mark.parametrize('bad', [1.5, -1.5, np.nan, np.inf])
    def test_scores_out_of_the_range_are_refused(self, bad: float) -> None:
        with pytest.raises(CalibrationError, match='score_range'):
            Calibration.from_scores([np.array([0.0, bad])], 'test')

    @pytest.mark.parametrize('scores', [[], [np.zeros((0, 4))]])
    def test_no_pixels_are_refused(self, scores: list[np.ndarray]) -> None:
        with pytest.raises(CalibrationError, match='no pixels'):
            Calibration.from_scores(scores, 'empty.bag')

    @given(
        st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200),
        st.sampled_from([(-1.0, 1.0), (-100.0, 3.0), (-1.0, 1e6)]),
    )
    def test_any_scores_make_a_valid_table(
        self, scores: list[float], score_range: tuple[float, float]
    ) -> None:
        values = np.array(scores, np.float32)
        calibration = Calibration.from_scores([values], 'test', score_range)
        assert calibration.apply(values).max() <= 1
        assert calibration.raw[-1] == np.float32(score_range[1])

    def test_the_date_is_today_unless_given(self) -> None:
        assert (
            Calibration.from_scores([np.zeros(9)], 'test', date='2020-02-02').date == '2020-02-02'
        )
        assert len(Calibration.from_scores([np.zeros(9)], 'test').date) == len('2026-01-01')


def test_a_histogram_by_hand() -> None:
    """100 pixels, 90 of them in the first bin: the share below each edge is 0, 0.9, 1."""
    calibration = Calibration.from_histogram(
        np.array([90, 10, 0]), np.array([0.0, 1.0, 2.0, 3.0]), 'test'
    )
    assert calibration.raw.tolist() == [0.0, 1.0, 3.0]
    assert calibration.probability.tolist() == [0.0, 0.9, 1.0]


def test_threshold_inverts_apply() -> None:
    assert table().threshold(0.25) == pytest.approx(2.0)
    assert table().threshold(0.75) == pytest.approx(0.5)


@pytest.mark.parametrize('target', [0.0, 1.0, -0.1, 2.0, float('nan')])
def test_a_target_rate_has_to_be_a_share(target: float) -> None:
    with pytest.raises(CalibrationError, match='out of range'):
        check_target_fpr(target)
    with pytest.raises(CalibrationError):
        table().threshold(target)


def test_rarity_counts_decades() -> None:
    score = np.array([0.0, 0.9, 0.99, 0.999, 0.99999, 1.0], np.float32)
    assert rarity(score) == pytest.approx([0.0, 0.2, 0.4, 0.6, 1.0, 1.0], abs=2e-3)


@given(st.lists(st.floats(0, 1, width=32), min_size=2))
def test_rarity_is_monotone_and_in_range(score: list[float]) -> None:
    values = rarity(np.sort(np.array(score, np.float32)))
    assert values.dtype == np.float32
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0
    assert values.max() <= 1
