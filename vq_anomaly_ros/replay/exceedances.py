"""How often pixels of a drive exceed the thresholds of target false-positive rates.

How sure such a rate is says `realised_rates.observed_rates`.
"""

from __future__ import annotations

import numpy as np

TARGETS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)


def counts_above(score: np.ndarray) -> np.ndarray:
    """Return how many calibrated scores exceed 1 - t for each t of TARGETS, int64 [T].

    score: float32 of any shape, in [0, 1].
    """
    thresholds = np.array([1 - target for target in TARGETS], np.float32)
    # Few pixels lie above the first threshold: only they are looked at again.
    rest = score[score > thresholds[0]]
    return np.array([np.count_nonzero(rest > t) for t in thresholds], np.int64)


def name_of(target: float) -> str:
    """Return the name of a target in summary.json, without a dot: 3e-3."""
    mantissa, exponent = f'{target:.0e}'.split('e')
    return f'{mantissa}e{int(exponent)}'


def named(above: np.ndarray, pixels: int) -> dict[str, float | None]:
    """Return {name of the target: share}, None without pixels; above: int64 [T], summed up."""
    return {
        name_of(target): int(count) / pixels if pixels else None
        for target, count in zip(TARGETS, above, strict=True)
    }
