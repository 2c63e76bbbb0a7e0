"""Raw score -> calibrated score: the share of normal pixels that scored lower.

A table of quantiles of a calibration drive (or of the training set), the same for all classes. A
calibrated score above 1 - 1e-3 then means a false-positive rate of 1e-3 on such a drive, whatever
the method.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

SMALLEST_TAIL = 1e-5
# Fewer pixels than these above a quantile say little of where it lies (about 30 % of its rate).
PIXELS_OF_A_QUANTILE = 10
_BINS = 2**18
_SLACK = 1e-3  # of the score range: a cosine computed in float32 may exceed 1 a little
# Targets of the table: every percent of the bulk, twenty a decade of the tail.
_BULK = np.arange(0, 100) / 100
_TAIL = 1 - 10 ** (-2 - np.arange(0, 61) / 20)


class CalibrationError(ValueError):
    """A calibration that cannot be made or read; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A monotone table from raw to calibrated scores.

    raw: float32 [Q], strictly increasing raw scores; probability: float64 [Q] in [0, 1], strictly
    increasing, the share of the normal pixels that scored lower; pixels: how many there were;
    source: 'training set' or the names of the bags; model_sha256: the weights that scored them, or
    ''; date: ISO date. Raises CalibrationError where the table is none.
    """

    raw: np.ndarray
    probability: np.ndarray
    pixels: int
    source: str
    model_sha256: str
    date: str

    def __post_init__(self) -> None:
        """Check the table and keep read-only copies of it."""
        raw = np.array(self.raw, np.float32)
        probability = np.array(self.probability, np.float64)
        if problem := _problem_of(raw, probability):
            raise CalibrationError(
                f'the calibration table of {self.source!r} is unusable ({problem}): '
                'calibrate again on a drive of normal frames'
            )
        raw.setflags(write=False)
        probability.setflags(write=False)
        object.__setattr__(self, 'raw', raw)
        object.__setattr__(self, 'probability', probability)

    @classmethod
    def from_scores(
        cls,
        scores: Iterable[np.ndarray],
        source: str,
        score_range: tuple[float, float] = (-1.0, 1.0),
        model_sha256: str = '',
        date: str = '',
    ) -> Calibration:
        """The table of raw scores of normal pixels, streamed: memory does not grow with them.

        scores: float arrays of any shape within score_range (ModelInfo.score_range), which is
        divided into 2^18 bins; date: ISO date, today where it is empty. Raises CalibrationError.
        """
        histogram = ScoreHistogram(score_range, source)
        for values in scores:
            histogram.add(values)
        return histogram.table(model_sha256, date)

    @classmethod
    def from_histogram(
        cls,
        counts: np.ndarray,
        edges: np.ndarray,
        source: str,
        model_sha256: str = '',
        date: str = '',
    ) -> Calibration:
        """The table of a histogram: counts int [B] of the pixels in [edges[i], edges[i + 1]).

        The tail reaches to 1e-5, or to where ten pixels are left above. Beyond it the score rises
        to 1 at the last edge, so that what is above all normal pixels keeps its order.
        """
        total = int(np.sum(counts))
        if total == 0:
            raise CalibrationError(
                f'{source}: there are no pixels to calibrate on, give frames with normal pixels'
            )
        below = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        raw, share = _quantile_edges(below, np.asarray(edges, np.float64), total)
        return cls(raw, share, total, source, model_sha256, date or _today())

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Calibration:
        """The calibration that to_dict wrote; raises CalibrationError where something is amiss."""
        for name, kind in _KINDS.items():
            if not isinstance(fields.get(name), kind) or isinstance(fields.get(name), bool):
                raise CalibrationError(
                    f'the calibration has no valid field {name!r}: calibrate again'
                )
        try:
            return cls(**{name: fields[name] for name in _KINDS})
        except CalibrationError:
            raise
        except (TypeError, ValueError) as error:
            raise CalibrationError(
                f'the calibration table holds what is no number ({error}): calibrate again'
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields, from which from_dict makes the same calibration to the bit."""
        return {
            'raw': self.raw.tolist(),
            'probability': self.probability.tolist(),
            'pixels': self.pixels,
            'source': self.source,
            'model_sha256': self.model_sha256,
            'date': self.date,
        }

    @property
    def sha256(self) -> str:
        """Hash of all fields, to tell one calibration from another in reports."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def with_fewer_above(self, kept: np.ndarray) -> Calibration:
        """The table as it is if only a part of the pixels above each point count as normal.

        kept: float64 [Q], that part for every point of `raw`, 0..1. The tail ends where none is
        left, or where the shares would not rise any more.
        """
        above = np.minimum.accumulate((1 - self.probability) * kept)
        chosen = np.flatnonzero(above[:-1] > 0)
        chosen = chosen[np.concatenate([[True], np.diff(above[chosen]) < 0])]
        raw = np.append(self.raw[chosen], self.raw[-1])
        return replace(self, raw=raw, probability=np.append(1 - above[chosen], 1.0))

    @property
    def smallest_fpr(self) -> float:
        """The lowest false-positive rate that pixels of the calibration stand behind."""
        return max(float(1 - self.probability[-2]), SMALLEST_TAIL)

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Calibrated scores, float32 in [0, 1], of raw scores of any shape; linear in the table.

        Exact at the points of the table and monotone: the table's values are rounded to float32
        first, so that no rounding of the result can step over the next one.
        """
        table = self.probability.astype(np.float32).astype(np.float64)
        score = np.interp(raw, self.raw.astype(np.float64), table)
        return np.asarray(score, np.float32)

    def threshold(self, target_fpr: float) -> float:
        """Raw score above which the calibrated one exceeds 1 - target_fpr (up to rounding)."""
        check_target_fpr(target_fpr)
        return float(np.interp(1 - target_fpr, self.probability, self.raw.astype(np.float64)))


class ScoreHistogram:
    """Exact counts of raw scores in 2^18 bins, from which a Calibration is made; bounded memory."""

    def __init__(self, score_range: tuple[float, float], source: str) -> None:
        """Prepare for scores within score_range (ModelInfo.score_range) of `source`, a name."""
        self.score_range = score_range
        self.source = source
        self.counts = np.zeros(_BINS, np.int64)

    @property
    def pixels(self) -> int:
        """How many scores were counted."""
        return int(self.counts.sum())

    def add(self, values: np.ndarray) -> None:
        """Count raw scores, floats of any shape; CalibrationError for those outside the range."""
        self.counts += _histogram(values, self.score_range, self.source)

    def table(self, model_sha256: str = '', date: str = '') -> Calibration:
        """The calibration of what was counted; see Calibration.from_histogram."""
        edges = np.linspace(*self.score_range, _BINS + 1)
        return Calibration.from_histogram(self.counts, edges, self.source, model_sha256, date)


def rarity(score: np.ndarray) -> np.ndarray:
    """How rare a calibrated score is among normal pixels: min(-log10(1 - p), 5) / 5, in [0, 1].

    score: float array in [0, 1], any shape; returns float32. 0.2 = one pixel in ten scores as
    high, 0.6 = one in a thousand, 1 = one in 100,000 or fewer.
    """
    above = np.maximum(1 - np.asarray(score, np.float32), np.float32(SMALLEST_TAIL))
    decades = np.log10(above) / np.log10(np.float32(SMALLEST_TAIL))
    return np.asarray(np.clip(decades, 0, 1), np.float32)


_KINDS: dict[str, type] = {
    'raw': list,
    'probability': list,
    'pixels': int,
    'source': str,
    'model_sha256': str,
    'date': str,
}


def check_target_fpr(target_fpr: float) -> float:
    """The target false-positive rate itself where it lies in (0, 1), else CalibrationError."""
    if not 0.0 < target_fpr < 1.0:
        raise CalibrationError(
            f'a target false-positive rate of {target_fpr} is out of range: '
            'give one above 0 and below 1, such as 0.001'
        )
    return float(target_fpr)


def _problem_of(raw: np.ndarray, probability: np.ndarray) -> str:
    if raw.ndim != 1 or raw.shape != probability.shape or raw.size < 2:
        return f'{raw.size} scores for {probability.size} shares, two or more of each are needed'
    if not (np.isfinite(raw).all() and np.isfinite(probability).all()):
        return 'it holds values that are not finite'
    if (np.diff(raw) <= 0).any() or (np.diff(probability) <= 0).any():
        return 'it does not increase'
    if probability[0] < 0 or probability[-1] > 1:
        return 'its shares leave [0, 1]'
    return ''


def _histogram(values: np.ndarray, score_range: tuple[float, float], source: str) -> np.ndarray:
    """int64 [_BINS] of scores; CalibrationError for those outside the range."""
    flat = np.asarray(values, np.float64).ravel()
    low, high = score_range
    slack = _SLACK * (high - low)
    if not ((flat >= low - slack) & (flat <= high + slack)).all():
        raise CalibrationError(
            f'{source}: raw scores leave the range [{low}, {high}] or are not finite: '
            'give the score_range of the model'
        )
    index = ((flat - low) * (_BINS / (high - low))).astype(np.int64)
    return np.bincount(np.clip(index, 0, _BINS - 1), minlength=_BINS)


def _quantile_edges(
    below: np.ndarray, edges: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """The edges nearest above the targeted quantiles and the exact share of pixels below each."""
    tail = max(SMALLEST_TAIL, PIXELS_OF_A_QUANTILE / total)
    targets = np.concatenate([_BULK[1:], _TAIL])
    targets = targets[targets < 1 - tail * (1 - 1e-9)]
    targets = np.append(targets, 1 - tail) if tail < 1 else targets
    first = int(np.searchsorted(below, 0, side='right')) - 1  # the last edge with nothing below
    chosen = np.searchsorted(below, np.ceil(targets * total - 1e-6), side='left')
    # an edge that is above all pixels would leave no room for what scores higher still
    index = np.unique(np.concatenate([[first], chosen[below[chosen] < total]]))
    raw, share = edges[index].astype(np.float32), below[index] / total
    raw, share = np.append(raw, np.float32(edges[-1])), np.append(share, 1.0)
    # float32 may merge neighbours; of two with the same share or score the earlier one stays
    keep = np.concatenate([[True], (np.diff(raw) > 0) & (np.diff(share) > 0)])
    return raw[keep], share[keep]


def _today() -> str:
    return time.strftime('%Y-%m-%d', time.gmtime())
