"""How far normal positions of a class lie from its codevectors: the unit that distances come in.

The distance of two unit vectors z and e is |z - e| = sqrt(2 - 2 <z, e>), 0 to 2. For every class
the quantiles of the distance of its positions to the nearest of its codevectors are kept; the unit,
the class's spread, is the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vq_anomaly_ros.detection.calibration import CalibrationError

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)
FEWEST_POSITIONS = 200
_MEDIAN = SHARES.index(0.5)
_BINS = 4000
_FARTHEST = 2.0


@dataclass(frozen=True, eq=False)
class Spread:
    """Of one class: float64 [SHARES] quantiles of distances, ascending; of how many positions."""

    quantiles: np.ndarray
    positions: int

    @property
    def unit(self) -> float:
        """The median distance."""
        return float(self.quantiles[_MEDIAN])

    def farther(self, distance: float) -> float:
        """The share of the class's normal positions that are nearer than this distance, 0..0.999.

        Linear between quantiles; what is beyond the last one is told as that.
        """
        return float(np.interp(distance, self.quantiles, SHARES, left=0.0))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields."""
        return {'positions': self.positions, 'quantiles': self.quantiles.tolist()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Spread:
        """The spread that to_dict wrote; raises CalibrationError where it makes no sense."""
        try:
            quantiles = np.array(fields['quantiles'], np.float64)
            positions = int(fields['positions'])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f'a spread makes no sense ({error!r}): calibrate again'
            ) from error
        known = quantiles.shape == (len(SHARES),) and np.isfinite(quantiles).all()
        if not known or (np.diff(quantiles) < 0).any() or quantiles[0] < 0 or positions < 1:
            raise CalibrationError('a spread is none of distances: calibrate again')
        return cls(quantiles, positions)


class SpreadCounts:
    """Counts distances a class; can be pickled, and added up."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Start without any."""
        self.classes = tuple(classes)
        self._counts = np.zeros((len(self.classes), _BINS), np.int64)

    def add(self, distance: np.ndarray, labels: np.ndarray) -> None:
        """Take in distances to the nearest codevector of each position's class, and the classes.

        distance: float [h, w]; labels: uint8 [h, w], class ids.
        """
        bins = np.minimum((distance * (_BINS / _FARTHEST)).astype(np.int64), _BINS - 1)
        known = labels < len(self.classes)
        flat = labels[known].astype(np.int64) * _BINS + bins[known]
        self._counts += np.bincount(flat, minlength=self._counts.size).reshape(self._counts.shape)

    def __iadd__(self, other: SpreadCounts) -> SpreadCounts:
        """Take in what another one counted."""
        self._counts += other._counts
        return self

    def spreads(self) -> dict[str, Spread]:
        """The spread of every class with enough positions, to the width of a bin (1/2000)."""
        found = {}
        for name, counts in zip(self.classes, self._counts, strict=True):
            total = int(counts.sum())
            if total >= FEWEST_POSITIONS:
                below = np.cumsum(counts) / total
                bins = np.searchsorted(below, SHARES) + 0.5
                found[name] = Spread(bins * (_FARTHEST / _BINS), total)
        return found


def read_spreads(section: dict[str, Any] | None) -> dict[str, Spread]:
    """The spreads of the section of a calibration file, by class; raises CalibrationError."""
    return {name: Spread.from_dict(fields) for name, fields in (section or {}).items()}


def distance_of(cosine: np.ndarray) -> np.ndarray:
    """|z - e| of unit vectors of these cosines."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine, 0)))


def nearest_of_class(cosines: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest codevector and its class: float [K, h, w] -> [h, w], uint8 [h, w]."""
    nearest = cosines.argmax(axis=0)
    best = np.take_along_axis(cosines, nearest[None], axis=0)[0]
    return distance_of(best), (nearest // (len(cosines) // classes)).astype(np.uint8)
