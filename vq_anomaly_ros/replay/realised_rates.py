"""How often a threshold that was set on some frames is exceeded on others.

Neighbouring frames resemble one another, so nothing is drawn frame by frame: a drive is cut into
contiguous blocks, each held out in turn, and the bootstrap draws whole blocks (Kunsch, The
jackknife and the bootstrap for general stationary observations, Annals of Statistics 1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from vq_anomaly_ros.detection.calibration_file import FrameTable, RealisedRate

# Each has to outlast what a street keeps repeating: with twice as many, of half the length, the
# intervals hold fewer of the rates that they promise (docs/calibration.md).
BLOCKS = 10
LEVEL = 0.95
_REPLICATES = 2000
# Logarithms end there, times the target: a drive drawn without a single alarm says no more.
_LOWEST_FACTOR = 0.02


def block_numbers(lengths: Sequence[int], blocks: int = BLOCKS) -> np.ndarray:
    """Number of the block of every frame of drives with these lengths: int64 [F], from 0.

    About `blocks` in all, of neighbouring frames and about the same length; none spans two drives.
    """
    longest = max(1, -(-sum(lengths) // blocks))
    numbers: list[np.ndarray] = []
    first = 0
    for length in lengths:
        parts = -(-length // longest)
        numbers.append(first + np.arange(length) * parts // length)
        first += parts
    return np.concatenate(numbers)


def pixel_rates(
    above: np.ndarray,
    bounded: np.ndarray,
    pixels: np.ndarray,
    blocks: np.ndarray,
    targets: Sequence[float],
    seed: int = 0,
) -> tuple[RealisedRate, ...]:
    """The realised rates a pixel.

    Args:
        above: how many pixels of each frame lie above each of ascending thresholds, float64 [F, T].
        bounded: the same as the calibration counts it (see normal_scores.winsorised).
        pixels: of each frame, all of them, int64 [F].
        blocks: of every frame, int64 [F].
        targets: rates in (0, 1), each within what the table can tell.
        seed: of the bootstrap.
    """
    size = np.bincount(blocks, pixels)
    found, kept = (_sums(values, blocks) for values in (above, bounded))
    draws = _draws(len(size), seed)
    rates = []
    for target in targets:
        drawn = [
            _rate_at(found, size, other, _threshold(kept, size, one, target))
            for one, other in zip(*draws, strict=True)
        ]
        out = _left_out(found, kept, size, target)
        low, high = _interval_of_factors(np.array(drawn), target, len(size))
        rates.append(RealisedRate('pixel', target, out, low, high, LEVEL))
    return tuple(rates)


def observed_rates(
    above: np.ndarray, pixels: np.ndarray, blocks: np.ndarray, targets: Sequence[float]
) -> tuple[RealisedRate, ...]:
    """The rates of a drive at thresholds that are given; empty for one of few frames or no pixel.

    Args:
        above: of each frame, the pixels above the threshold of each target, int64 [F, T].
        pixels: of each frame, all of them, int64 [F].
        blocks: of every frame, int64 [F], see `block_numbers`.
        targets: [T].
    """
    size, found = _sums(pixels[:, None], blocks)[:, 0], _sums(above, blocks)
    if len(size) < BLOCKS or not size.all():
        return ()
    times, _ = _draws(len(size), seed=0)
    drawn = (times @ found) / (times @ size)[:, None]
    rates = found.sum(0) / size.sum()
    bounds = [_interval(column, len(size)) for column in drawn.T]
    return tuple(
        RealisedRate('pixel', target, float(rate), low, high, LEVEL)
        for target, rate, (low, high) in zip(targets, rates, bounds, strict=True)
    )


def frame_rates(
    scores: np.ndarray, blocks: np.ndarray, targets: Sequence[float], seed: int = 0
) -> tuple[RealisedRate, ...]:
    """The realised rates a frame, of those targets that half of the frames could vouch for.

    scores: of all frames, float32 [F], see calibration_file.frame_score; blocks, seed: as above.
    """
    parts = [scores[blocks == number] for number in range(int(blocks.max()) + 1)]
    draws = _draws(len(parts), seed)
    rates = []
    for target in targets:
        if len(scores) // 2 < 1 / target:
            continue
        drawn = [
            _frame_rate(_repeated(parts, other), _repeated(parts, one), target)
            for one, other in zip(*draws, strict=True)
        ]
        alarms = sum(
            _frame_rate(part, np.concatenate(parts[:n] + parts[n + 1 :]), target) * part.size
            for n, part in enumerate(parts)
        )
        low, high = _interval(np.array(drawn), len(parts))
        rates.append(RealisedRate('frame', target, alarms / len(scores), low, high, LEVEL))
    return tuple(rates)


def _draws(blocks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each block is drawn for setting and for judging: two int64 [R, B]."""
    generator = np.random.default_rng(seed)
    even = np.full(blocks, 1 / blocks)
    setting, judging = generator.multinomial(blocks, even, size=(2, _REPLICATES))
    return setting, judging


def _sums(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Sums of the frames' rows by block: float64 [B, T] of [F, T]."""
    sums = np.zeros((int(blocks.max()) + 1, values.shape[1]))
    np.add.at(sums, blocks, values)
    return sums


def _threshold(kept: np.ndarray, size: np.ndarray, times: np.ndarray, target: float) -> float:
    """Place between the thresholds (0..T - 1) that the target share exceeds, block b `times` b."""
    share = (times @ kept) / (times @ size)
    return float(np.interp(-target, -share, np.arange(share.size)))


def _rate_at(found: np.ndarray, size: np.ndarray, times: np.ndarray, place: float) -> float:
    """Share of the pixels above the threshold at `place`, block b counted `times` b."""
    share = (times @ found) / (times @ size)
    return float(np.interp(place, np.arange(share.size), share))


def _left_out(found: np.ndarray, kept: np.ndarray, size: np.ndarray, target: float) -> float:
    """Rate over all blocks, each at the threshold that the others set."""
    alarms = 0.0
    for out in range(len(size)):
        one = np.arange(len(size)) == out
        place = _threshold(kept, size, (~one).astype(np.int64), target)
        alarms += size[out] * _rate_at(found, size, one.astype(np.int64), place)
    return float(alarms / size.sum())


def _repeated(parts: Sequence[np.ndarray], times: np.ndarray) -> np.ndarray:
    return np.concatenate([part for part, n in zip(parts, times, strict=True) for _ in range(n)])


def _frame_rate(judged: np.ndarray, setting: np.ndarray, target: float) -> float:
    """Share of the judged frame scores above the threshold that the others set."""
    threshold = FrameTable(np.sort(setting), setting.size).threshold(target)
    return float(np.mean(judged > threshold))


def _interval_of_factors(drawn: np.ndarray, target: float, blocks: int) -> tuple[float, float]:
    """Bootstrap-t interval around the target on the logarithm of the rate.

    A few blocks hold most alarms, and where none of them was drawn the percentiles are too low:
    rates are right-skewed, their logarithms hardly. Both what sets the threshold and what is judged
    were drawn, so the deviation is that of the one against the other.
    """
    factors = np.log(np.maximum(drawn / target, _LOWEST_FACTOR))
    half = _standard_errors(blocks) * float(factors.std())
    return target * math.exp(-half), min(1.0, target * math.exp(half))


def _interval(drawn: np.ndarray, blocks: int) -> tuple[float, float]:
    """Percentiles, set wider for few blocks, whose bootstrap is too narrow by itself.

    Expanded percentile interval: Hesterberg, What teachers should know about the bootstrap, The
    American Statistician 2015, section 5.3.
    """
    beyond = NormalDist().cdf(-_standard_errors(blocks))
    low, high = np.quantile(drawn, [beyond, 1 - beyond])
    return float(low), float(high)


def _standard_errors(blocks: int) -> float:
    """Half the width of an interval in deviations of the bootstrap, which are short by themselves.

    sqrt(B / (B - 1)): the bootstrap divides by B; Student's t: the deviation itself is estimated.
    """
    shortfall = math.sqrt(blocks / (blocks - 1))
    return shortfall * _student_quantile((1 + LEVEL) / 2, blocks - 1)


def _student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t, within a hundredth from 5 degrees on.

    Expansion in 1 / degrees: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
