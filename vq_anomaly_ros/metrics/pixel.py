"""Pixel metrics of an anomaly score, exact: AP, FPR95, AUROC and best F1 over any number of images.

Only distinct scores of anomalous pixels matter: between two of them recall stands still, so the
step sum of AP gains nothing, F1 falls and the ROC curve runs level. Anomalous and normal pixels are
therefore kept apart as float32 (four bytes a pixel, no labels), sorted once in place, and the
curve is walked from the top in windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

VOID = 255
RECALL_LEVEL = 0.95
NO_ANOMALY = 'the labels hold no anomalous pixel'
NO_NORMAL = 'the labels hold no normal pixel'

Fpr95At = Literal['first', 'nearest']
Scores = NDArray[np.floating]

_WINDOW = 1 << 20
_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 16, 1 << 24


class MetricError(ValueError):
    """Scores or labels that no metric can be computed from."""


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Metrics of one score over a set of pixels, as fractions of 1; NaN where undefined.

    `best_f1_threshold` is in units of the score: pixels at or above it are predicted anomalous.
    `reason` says why metrics are NaN and is empty otherwise.
    """

    ap: float
    fpr95: float
    auroc: float
    best_f1: float
    best_f1_threshold: float
    reason: str = ''


def undefined(anomalous: int, normal: int) -> PixelMetrics | None:
    """Metrics that are all NaN with their reason, or None where both kinds of pixels are there."""
    if anomalous and normal:
        return None
    reason = NO_NORMAL if anomalous else NO_ANOMALY
    return PixelMetrics(*(float('nan'),) * 5, reason=reason)


@dataclass(frozen=True, slots=True)
class Points:
    """Operating points by descending threshold, each array [T].

    `tp`, `fp`: anomalous and normal pixels with score >= threshold; `fp_above`: normal pixels
    counted before any of this point's anomalous ones (the ROC curve is a line from there).
    """

    threshold: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fp_above: NDArray[np.int64]


def check_scores(scores: ArrayLike, dtype: DTypeLike = np.float32) -> Scores:
    """Return scores as an array of `dtype`; MetricError on NaN, infinity or overflow of `dtype`."""
    raw = np.asarray(scores)
    with np.errstate(over='ignore'):
        cast = raw.astype(dtype, copy=False)
    if np.isfinite(cast).all():
        return cast
    broken = np.count_nonzero(~np.isfinite(raw))
    if broken:
        raise MetricError(
            f'{broken} of {raw.size} scores are NaN or infinite; '
            'repair the model or its preprocessing, such pixels cannot be ranked'
        )
    raise MetricError(
        f'scores up to {np.abs(raw).max():g} do not fit {np.dtype(dtype).name}, '
        'which this protocol prescribes; scale the score down'
    )


def check_labels(labels: ArrayLike, void: int | None = VOID) -> NDArray[np.uint8]:
    """Return labels as uint8; MetricError where they hold more than 0, 1 and `void`."""
    array = np.asarray(labels)
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype != np.uint8:
        raise MetricError(
            f'labels are {array.dtype}; pass uint8 with 0 normal, 1 anomaly, 255 void'
        )
    held = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    known = {0, 1} if void is None else {0, 1, void}
    strange = sorted(set(held.tolist()) - known)
    if strange:
        raise MetricError(
            f'labels hold {strange} where this protocol knows {sorted(known)} only; '
            'recode them to 0 normal, 1 anomaly and void, or choose another protocol'
        )
    return array


def split_pixels(
    scores: ArrayLike,
    labels: ArrayLike,
    dtype: DTypeLike = np.float32,
    void: int | None = VOID,
) -> tuple[Scores, Scores]:
    """Split scores by labels of the same shape: 1-D copies (anomalous, normal), void dropped.

    Raises MetricError on different shapes, scores that are not finite and unknown labels.
    """
    checked, truth = check_scores(scores, dtype), check_labels(labels, void)
    if checked.shape != truth.shape:
        raise MetricError(
            f'scores of shape {checked.shape} meet labels of shape {truth.shape}; '
            "upsample the scores to the label's size first"
        )
    return checked[truth == 1], checked[truth == 0]


def operating_points(anomalous: Scores, normal: Scores, window: int = _WINDOW) -> Iterator[Points]:
    """Walk the distinct anomalous scores from the top, about `window` pixels at a time.

    Both arrays are 1-D and sorted ascending. Together the parts hold every point at which recall
    grows; equal scores always fall into one part.
    """
    end = anomalous.size
    while end:
        # Ties must not be cut: start at the first pixel that shares the window's lowest score.
        start = int(np.searchsorted(anomalous, anomalous[max(0, end - window)], side='left'))
        part = anomalous[start:end]
        heads = np.flatnonzero(np.concatenate(([True], part[1:] != part[:-1])))[::-1]
        values = part[heads]
        yield Points(
            threshold=values.astype(np.float64),
            tp=anomalous.size - (start + heads),
            fp=normal.size - np.searchsorted(normal, values, side='left'),
            fp_above=normal.size - np.searchsorted(normal, values, side='right'),
        )
        end = start


def summarise(points: Iterator[Points], anomalous: int, normal: int, fpr95: float) -> PixelMetrics:
    """Sum operating points up to metrics; `anomalous` and `normal` are the counts of pixels, > 0.

    AP = sum_n (R_n - R_{n-1}) P_n (the step sum, no interpolation); AUROC is the trapezoid area,
    which equals the Mann-Whitney statistic with ties counted half; F1 = 2 TP / (2 TP + FP + FN).
    """
    ap = area = best_f1 = 0.0
    threshold, tp_before = float('nan'), 0
    for part in points:
        gained = np.diff(part.tp, prepend=tp_before)
        # No dot products: the BLAS would share them among threads that wait for one another, thirty
        # times as long on a busy machine, and the last digits would depend on their number.
        ap += float(np.sum(gained * (part.tp / np.maximum(part.tp + part.fp, 1))))
        area += float(np.sum(gained * (normal - 0.5 * (part.fp + part.fp_above))))
        f1 = 2.0 * part.tp / (part.tp + part.fp + anomalous)
        best = int(np.argmax(f1))
        if f1[best] > best_f1:
            best_f1, threshold = float(f1[best]), float(part.threshold[best])
        tp_before = int(part.tp[-1])
    return PixelMetrics(ap / anomalous, fpr95, area / anomalous / normal, best_f1, threshold)


def exact_metrics(anomalous: Scores, normal: Scores, at: Fpr95At = 'first') -> PixelMetrics:
    """All pixel metrics of two 1-D arrays that are sorted ascending; NaN where one is empty."""
    nothing = undefined(anomalous.size, normal.size)
    if nothing is not None:
        return nothing
    points = operating_points(anomalous, normal)
    return summarise(points, anomalous.size, normal.size, exact_fpr95(anomalous, normal, at))


def exact_fpr95(anomalous: Scores, normal: Scores, at: Fpr95At = 'first') -> float:
    """False-positive rate at 95 % recall, of two non-empty 1-D arrays sorted ascending.

    'first': at the highest threshold with recall >= 0.95 (SMIYC, Fishyscapes). 'nearest': at the
    recall nearest to 0.95, equal distances to the higher one, and of the thresholds with that
    recall at the lowest, as the StreetHazards evaluation takes it.
    """
    reached = _count_at_recall(anomalous.size)
    value = anomalous[anomalous.size - reached]
    if at == 'nearest':
        return _nearest_fpr95(anomalous, normal, value)
    return _share_from(normal, value, 'left')


def _nearest_fpr95(anomalous: Scores, normal: Scores, value: np.floating) -> float:
    count = anomalous.size
    tp = count - int(np.searchsorted(anomalous, value, side='left'))
    tp_before = count - int(np.searchsorted(anomalous, value, side='right'))
    if abs(tp_before / count - RECALL_LEVEL) < abs(tp / count - RECALL_LEVEL):
        return _share_from(normal, value, 'right')
    if tp == count:
        return _share_from(normal, value, 'left')
    return _share_from(normal, anomalous[count - tp - 1], 'right')


def _share_from(normal: Scores, value: np.floating, side: Literal['left', 'right']) -> float:
    """Share of sorted `normal` at or above (`left`), or above (`right`), `value`."""
    return float(normal.size - np.searchsorted(normal, value, side=side)) / normal.size


def _count_at_recall(count: int) -> int:
    """Return the smallest k with k / count >= 0.95, in the very arithmetic of the curves."""
    k = max(1, int(RECALL_LEVEL * count) - 1)
    while k / count < RECALL_LEVEL:
        k += 1
    return k


class PixelScores:
    """Exact metrics over the pooled pixels of images that come one by one.

    Holds four bytes a pixel that is not void (up to five while there are few), also while `result`
    merges them, so 200 million pixels stay under 2 GB. More images may follow a result; the next
    one then needs as much again.
    """

    def __init__(self, void: int | None = VOID) -> None:
        self._void = void
        self._anomalous = _Column()
        self._normal = _Column()

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add one image: scores float [H, W], labels uint8 [H, W] (0 normal, 1 anomaly, void)."""
        self.add_pixels(*split_pixels(scores, labels, np.float32, self._void))

    def add_pixels(self, anomalous: Scores, normal: Scores) -> None:
        """Add pixels that `split_pixels` has told apart and copied: 1-D float32."""
        self._anomalous.append(anomalous)
        self._normal.append(normal)

    @property
    def anomalous(self) -> Scores:
        """Scores of all anomalous pixels, float32, sorted ascending."""
        return self._anomalous.sorted()

    @property
    def normal(self) -> Scores:
        """Scores of all normal pixels, float32, sorted ascending."""
        return self._normal.sorted()

    def result(self, at: Fpr95At = 'first') -> PixelMetrics:
        """Metrics of all that was added; NaN with a reason where one kind of pixel is missing."""
        return exact_metrics(self.anomalous, self.normal, at)


class _Column:
    """Scores in blocks, merged and sorted when asked for.

    Blocks grow with what there is already, so that at most a quarter lies idle, up to a size that
    an allocator returns to the system as soon as it is freed (arrays of an image are often kept).
    """

    def __init__(self) -> None:
        self._blocks: list[Scores] = []
        self._free = 0  # places left in the last block
        self._size = 0
        self._sorted = False

    def append(self, part: Scores) -> None:
        while part.size:
            if not self._free:
                self._free = min(max(self._size // 4, _SMALLEST_BLOCK), _LARGEST_BLOCK)
                self._blocks.append(np.empty(self._free, np.float32))
            taken = part[: self._free]
            block = self._blocks[-1]
            start = block.size - self._free
            block[start : start + taken.size] = taken
            self._free -= taken.size
            self._size += taken.size
            self._sorted = False
            part = part[taken.size :]

    def sorted(self) -> Scores:
        if not self._sorted:
            self._merge()
        return self._blocks[0] if self._blocks else np.empty(0, np.float32)

    def _merge(self) -> None:
        """Move the blocks into one array; each is freed once copied, so memory never doubles."""
        whole = np.empty(self._size, np.float32)
        end, filled = self._size, -self._free or None
        while self._blocks:
            block = self._blocks.pop()[:filled]
            whole[end - block.size : end] = block
            end, filled = end - block.size, None
        whole.sort()
        self._blocks, self._free, self._sorted = [whole], 0, True
