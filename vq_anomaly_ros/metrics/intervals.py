"""Bootstrap over images: how far a figure of a small set could have come out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Statistic = Callable[[NDArray[np.int64]], Mapping[str, float]]


def bootstrap_interval(
    statistic: Statistic,
    images: int,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap interval of every metric that `statistic` returns.

    `statistic` is given how often each image was drawn (int64 [images], summing to `images`; drawn
    with replacement) and returns metrics by name. Draws on which a metric is undefined (NaN, for
    instance no anomalous image among them) are left out; where none is left, it is (NaN, NaN).
    Empty for fewer than two images: one image says nothing about others. Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, section 13.3. The same seed gives the same interval.
    """
    if images < 2:
        return {}
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(replicates):
        picks = generator.integers(0, images, images)
        for name, value in statistic(np.bincount(picks, minlength=images)).items():
            drawn.setdefault(name, []).append(value)
    return {name: _percentiles(np.array(values), level) for name, values in drawn.items()}


def _percentiles(values: NDArray[np.float64], level: float) -> Interval:
    defined = values[np.isfinite(values)]
    if not defined.size:
        return float('nan'), float('nan')
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
