"""Charts of rates and of drift against what they are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vq_anomaly_ros.detection.calibration_file import RealisedRate
from vq_anomaly_ros.replay import charts
from vq_anomaly_ros.replay.exceedances import TARGETS
from vq_anomaly_ros.replay.frame_results import DriveStatistics, FrameRow
from vq_anomaly_ros.replay.report_charts import (
    RateRow,
    drift_charts,
    frame_score_chart,
    rate_chart,
    rate_rows,
)


def frame(place: int, above: Sequence[int] = (), **fields: object) -> FrameRow:
    known = {'above': tuple(above) or None, 'pixels': 1000 if above else 0, **fields}
    return FrameRow(10**8 * place, 'a', '/image_raw', 1.0, 0.0, None, None, **known)  # type: ignore[arg-type]


def test_rates_of_a_run_are_its_shares_above() -> None:
    statistics = DriveStatistics(())
    counts = [100, 30, 10, 3, 1, 0, 0]
    statistics.rows = [frame(place, counts) for place in range(4)]
    rows = rate_rows(statistics, None)
    assert [row.rate.target for row in rows] == list(TARGETS)
    assert [row.rate.rate for row in rows] == [count / 1000 for count in counts]
    assert not any(row.interval for row in rows), 'four frames tell no interval'
    assert rows[2].factor == pytest.approx(1.0)
    statistics.rows = [frame(place, counts) for place in range(40)]
    assert all(
        row.interval and row.of == 'all pixels of this run' for row in rate_rows(statistics, None)
    )
    statistics.rows = []
    assert rate_rows(statistics, None) == () and rate_chart(()) is None


def test_points_lie_where_their_logarithms_are() -> None:
    rate = RealisedRate('pixel', 1e-2, 1e-3, 1e-4, 1e-2)
    chart = rate_chart([RateRow('this run', rate, True)])
    assert chart is not None
    (dots,) = [shape for shape in chart.shapes if shape.style.startswith('dots')]
    assert dots.path == 'M60.00,60.00h0.01'
    (bars,) = [shape for shape in chart.shapes if shape.style.startswith('interval')]
    assert bars.path == 'M60.00,80.00V40.00'
    assert [tick.text for tick in chart.x_ticks] == ['1e-5', '1e-4', '1e-3', '1e-2', '1e-1', '1']
    assert '0.001 where 0.01' in chart.summary


@given(
    npst.arrays(np.float64, (7, 2), elements=st.floats(0, 1)),
)
def test_a_rate_chart_stays_within_its_frame(points: np.ndarray) -> None:
    series = charts.Series('s', points[:, 0], points[:, 1], np.sort(points, axis=1))
    chart = charts.log_chart('t', 's', [series])
    for shape in chart.shapes:
        for number in re.findall(r'-?[\d.]+', shape.path):
            assert -0.01 <= float(number) <= 100.01


def test_drift_is_drawn_where_it_was() -> None:
    rows = [
        frame(place, drift={'brightness': excess, 'blind': 0.5, 'frozen': 0.0}, drift_level=0)
        for place, excess in enumerate([0.2, 0.5, 1.5, 2.5, 0.1])
    ]
    line, strips = drift_charts(rows, np.arange(5.0))
    assert 'highest 2.5' in line.summary
    assert [shape.text for shape in line.shapes if 'level' in shape.style] == [
        'WARN begins',
        'ERROR begins',
    ]
    assert [tick.text for tick in strips.y_ticks] == ['brightness']
    warn, error = strips.shapes
    assert (warn.style, error.style) == ('strip warn', 'strip error')
    assert (warn.path[:6], error.path[:6]) == ('M37.50', 'M62.50')
    assert 'H87.50' in warn.path and 'H87.50' in error.path
    assert warn.text == 'brightness: WARN in 40% of the frames'


def test_calm_drives_have_no_strips_and_unwatched_ones_no_charts() -> None:
    calm = [frame(place, drift={'blind': 0.5}) for place in range(3)]
    assert len(drift_charts(calm, np.arange(3.0))) == 1
    assert drift_charts([frame(0), frame(1)], np.arange(2.0)) == ()
    lone = drift_charts([frame(0, drift={'blind': 3.0})], np.zeros(1))
    assert 'M0.00' in lone[1].shapes[0].path and 'H100.00' in lone[1].shapes[0].path


def test_frames_that_were_not_watched_leave_a_gap_not_nan() -> None:
    rows = [frame(0, drift={'blind': 1.5}), frame(1), frame(2, drift={'blind': 1.5})]
    line, strips = drift_charts(rows, np.arange(3.0))
    assert 'nan' not in line.shapes[0].path + strips.shapes[0].path + strips.summary
    assert strips.shapes[0].path.count('M') == 2


def test_the_score_of_a_frame_is_its_mean_over_time() -> None:
    rows = [frame(place, mean_score=1.0 + 3.0 * (place == 2)) for place in range(5)]
    chart = frame_score_chart(rows, np.arange(5.0))
    assert chart is not None
    assert 'Median 1, highest 4 at 2.0 s' in chart.summary
    (level,) = [shape for shape in chart.shapes if shape.style == 'level']
    assert level.text == 'median of this run: 1'
    # A method whose scores are below 0 has no such chart, nor has a run of an older version.
    assert frame_score_chart([frame(0, mean_score=-0.5)], np.zeros(1)) is None
    assert frame_score_chart([frame(0)], np.zeros(1)) is None
