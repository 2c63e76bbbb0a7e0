"""The charts of a report beside rarity and mask: the frame's score, realised rates and drift."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vq_anomaly_ros.detection.calibration_file import CalibrationFile, RealisedRate
from vq_anomaly_ros.detection.drift import FROZEN, STATISTICS
from vq_anomaly_ros.replay import charts
from vq_anomaly_ros.replay.exceedances import TARGETS
from vq_anomaly_ros.replay.frame_results import DriveStatistics, FrameRow
from vq_anomaly_ros.replay.realised_rates import LEVEL, block_numbers, observed_rates

# Where WARN and ERROR begin, in units of excess; what is above the top is drawn at it.
_WARN, _ERROR = 1.0, 2.0
_TOP = 4.0


@dataclass(frozen=True)
class RateRow:
    """A line of the table beside the chart of rates: what it is of, target, rate, interval."""

    of: str
    rate: RealisedRate
    interval: bool

    @property
    def factor(self) -> float:
        """Realised over target."""
        return self.rate.rate / self.rate.target


def rate_rows(statistics: DriveStatistics, file: CalibrationFile | None) -> tuple[RateRow, ...]:
    """What came out where rates of false alarms a pixel were asked for.

    Of this run: the normal pixels where there are labels, else all pixels, among which those of
    real anomalies count as alarms, too. Of the calibration: on its own frames held out.
    """
    labels = statistics.labels
    if labels is not None and len(labels.exceedances[1]):
        above, pixels = labels.exceedances
        rows = _of_run('normal pixels of this run', above, pixels, [len(pixels)])
    else:
        known = [row for row in statistics.rows if row.above is not None]
        above = np.array([row.above for row in known], np.int64).reshape(-1, len(TARGETS))
        pixels = np.array([row.pixels for row in known], np.int64)
        lengths = [len(list(group)) for _, group in itertools.groupby(known, _drive)]
        rows = _of_run('all pixels of this run', above, pixels, lengths)
    held_out = () if file is None else file.realised
    calibrated = [
        RateRow('calibration, held out', rate, True) for rate in held_out if rate.per == 'pixel'
    ]
    return (*rows, *calibrated)


def _drive(row: FrameRow) -> tuple[str, str]:
    return row.source, row.topic


def _of_run(
    of: str, above: np.ndarray, pixels: np.ndarray, lengths: Sequence[int]
) -> list[RateRow]:
    if not pixels.sum():
        return []
    known = observed_rates(above, pixels, block_numbers(lengths), TARGETS)
    if known:
        return [RateRow(of, rate, True) for rate in known]
    shares = above.sum(0) / pixels.sum()
    pairs = zip(TARGETS, shares.tolist(), strict=True)
    return [RateRow(of, RealisedRate('pixel', t, s, s, s, LEVEL), False) for t, s in pairs]


def frame_score_chart(rows: Sequence[FrameRow], times: np.ndarray) -> charts.Chart | None:
    """The mean raw score of each frame over time: what lies over the whole frame (fog, a colour).

    None where a frame has none, or one below 0, where such a line has no foot.
    """
    means = np.array([row.mean_score for row in rows], np.float64)
    if not np.isfinite(means).all() or means.min() < 0:
        return None
    middle = float(np.median(means))
    return charts.line_chart(
        'Mean raw score of the frame',
        times,
        means,
        top=1.08 * max(float(means.max()), 1e-6),
        level=(middle, f'median of this run: {middle:.3g}'),
    )


def rate_chart(rows: Sequence[RateRow]) -> charts.Chart | None:
    """Realised against asked for, both on logarithms; None without rows."""
    if not rows:
        return None
    series = {
        of: [row for row in rows if row.of == of] for of in dict.fromkeys(row.of for row in rows)
    }
    found = [
        charts.Series(
            name,
            np.array([row.rate.target for row in group]),
            np.array([row.rate.rate for row in group]),
            _bounds(group) if group[0].interval else None,
        )
        for name, group in series.items()
    ]
    far = max(rows, key=lambda row: abs(np.log(max(row.factor, 1e-9))))
    return charts.log_chart(
        'False alarms: what came out where a rate was asked for',
        f'Farthest from what was asked for: {far.rate.rate:.2g} where {far.rate.target:.2g} was '
        f'asked for ({far.of}).',
        found,
    )


def _bounds(rows: Sequence[RateRow]) -> np.ndarray:
    return np.array([[row.rate.low, row.rate.high] for row in rows])


def drift_charts(rows: Sequence[FrameRow], times: np.ndarray) -> tuple[charts.Chart, ...]:
    """The largest excess over time, and which statistics left their limits; empty without any."""
    told = [row.drift for row in rows]
    if not any(told):
        return ()
    names = [
        name
        for name in (*STATISTICS, FROZEN)
        if any(one is not None and name in one for one in told)
    ]
    excess = np.array(
        [[(one or {}).get(name, np.nan) for name in names] for one in told], np.float64
    )
    worst = np.nanmax(np.c_[excess, np.zeros(len(rows))], axis=1)
    line = charts.line_chart(
        'Distance of the camera’s pictures from the calibration drive',
        times,
        worst,
        top=_TOP,
        level=(_WARN, 'WARN begins'),
    )
    height = 100 - _ERROR / _TOP * 100
    error = charts.Shape(f'M0,{height:.2f}L100,{height:.2f}', 'error-level', text='ERROR begins')
    line = dataclasses.replace(line, shapes=(*line.shapes, error))
    shown = [place for place in range(len(names)) if (excess[:, place] > _WARN).any()]
    if not shown:
        return (line,)
    strips = charts.strip_chart(
        'What left its limits',
        times,
        {names[place]: excess[:, place] for place in shown},
        (_WARN, _ERROR),
        ('WARN', 'ERROR'),
    )
    return line, strips
