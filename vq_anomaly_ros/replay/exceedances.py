"""How often pixels of a drive exceed the thresholds of target false-positive rates.

A frame's count says little of its neighbours' independence: intervals are of blocks of frames that
follow one another, drawn as wholes (moving-block idea of Künsch, 1989, with blocks side by side).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vq_anomaly_ros.metrics.intervals import bootstrap_interval

TARGETS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
_MOST_BLOCKS = 20
_FEWEST_BLOCKS = 4


@dataclass(frozen=True)
class ObservedRate:
    """What became of a target rate: the rate, and its 95 % interval or None where it has none."""

    target: float
    rate: float
    interval: tuple[float, float] | None = None


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


def observed_rates(above: np.ndarray, pixels: np.ndarray) -> tuple[ObservedRate, ...]:
    """Return the rates of a drive with their intervals; empty where it has no pixel.

    Args:
        above: of each frame in the order of the drive, the pixels above each target, [F, T].
        pixels: of each frame, all of them, [F].
    """
    total = int(pixels.sum())
    if not total:
        return ()
    intervals = _intervals(above, pixels)
    return tuple(
        ObservedRate(target, int(count) / total, intervals.get(name_of(target)))
        for target, count in zip(TARGETS, above.sum(0), strict=True)
    )


def _intervals(above: np.ndarray, pixels: np.ndarray) -> dict[str, tuple[float, float]]:
    blocks = min(_MOST_BLOCKS, len(pixels) // 2)
    if blocks < _FEWEST_BLOCKS:
        return {}
    starts = np.linspace(0, len(pixels), blocks, endpoint=False).astype(int)
    block_above, block_pixels = np.add.reduceat(above, starts), np.add.reduceat(pixels, starts)

    def drawn(weights: np.ndarray) -> dict[str, float]:
        total = int(np.sum(weights * block_pixels))
        counts = np.sum(weights[:, None] * block_above, axis=0)
        return {
            name_of(target): int(count) / total if total else float('nan')
            for target, count in zip(TARGETS, counts, strict=True)
        }

    return bootstrap_interval(drawn, blocks)
