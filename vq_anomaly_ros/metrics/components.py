"""Component metrics of SegmentMeIfYouCan: sIoU, PPV and F1* of connected components.

Chan et al., "SegmentMeIfYouCan: A Benchmark for Anomaly Segmentation", NeurIPS 2021 Datasets and
Benchmarks, section 4.2. Components are 8-connected; void is cleared before labelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.metrics.pixel import VOID, MetricError

TAUS = np.linspace(0.25, 0.75, 11)


@dataclass(frozen=True, slots=True)
class ComponentRule:
    """Components under these sizes (pixels) are dropped: predicted ones, and true ones to void."""

    min_predicted: int
    min_truth: int


ANOMALY_TRACK = ComponentRule(min_predicted=500, min_truth=100)
OBSTACLE_TRACK = ComponentRule(min_predicted=50, min_truth=10)


@dataclass(frozen=True, slots=True)
class FrameComponents:
    """One frame: `siou` float64 [true components], `ppv` float64 [predicted components], 0 to 1."""

    siou: NDArray[np.float64]
    ppv: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ComponentMetrics:
    """Means over all components, fractions of 1; NaN where there is none to average over."""

    siou: float
    ppv: float
    f1_star: float


def frame_components(
    predicted: NDArray[np.bool_], labels: NDArray[np.uint8], rule: ComponentRule = ANOMALY_TRACK
) -> FrameComponents:
    """Match the components of a prediction (bool [H, W]) with those of labels (uint8 [H, W]).

    sIoU(k) = |k and P| / (|k or P| - adj): P are the predicted components that touch k, adj the
    pixels of P on other true components. PPV(j) = |j on any true component| / |j|.
    """
    if predicted.shape != labels.shape:
        raise MetricError(f'prediction {predicted.shape} and labels {labels.shape} differ in size')
    truth, small = _components(labels == 1, rule.min_truth)
    found, _ = _components(predicted & (labels != VOID), rule.min_predicted)
    found[small] = 0  # true components that became void take the pixels predicted on them along
    shared = _overlap(truth, found)
    on_truth = shared[1:].sum(axis=0)[1:]
    size_found = shared.sum(axis=0)[1:]
    hits = shared[1:, 1:]
    hit = hits.sum(axis=1)
    touching = (hits > 0).astype(np.int64)
    union = shared[1:].sum(axis=1) + touching @ size_found - hit
    adjacent = touching @ on_truth - hit
    # A predicted component may have lost all its pixels to a true one that became void.
    kept = size_found > 0
    return FrameComponents(hit / (union - adjacent), on_truth[kept] / size_found[kept])


def _components(
    mask: NDArray[np.bool_], min_size: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Number the 8-connected components from 1, those under `min_size` pixels dropped.

    Returns the numbers int32 [H, W] (0 elsewhere) and where the dropped ones lay, bool [H, W].
    """
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    keep = stats[:, cv2.CC_STAT_AREA] >= min_size
    keep[0] = False
    renumbered = np.zeros(count, np.int32)
    renumbered[keep] = np.arange(1, np.count_nonzero(keep) + 1)
    kept = renumbered[numbers]
    return kept, mask & (kept == 0)


def _overlap(truth: NDArray[np.int32], found: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pixels shared by true component k and predicted component j: int64 [K + 1, J + 1]."""
    columns = int(found.max(initial=0)) + 1
    rows = int(truth.max(initial=0)) + 1
    pairs = truth.ravel().astype(np.int64) * columns + found.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


class FrameCounts:
    """Frames summed up for F1*: counts for each tau, so that frames can be weighted."""

    def __init__(self, frames: Sequence[FrameComponents]) -> None:
        self._tp = np.array([_at_least(frame.siou) for frame in frames])
        self._truth = np.array([frame.siou.size for frame in frames])
        self._fp = np.array([frame.ppv.size - _at_least(frame.ppv) for frame in frames])
        self._found = np.array([frame.ppv.size for frame in frames])
        self._siou = np.array([frame.siou.sum() for frame in frames])
        self._ppv = np.array([frame.ppv.sum() for frame in frames])

    def metrics(self, weights: NDArray[np.int64] | None = None) -> ComponentMetrics:
        """F1* = mean over tau of 2 TP / (2 TP + FN + FP), frame i counted weights[i] times."""
        w = np.ones(len(self._truth), np.int64) if weights is None else weights
        truth, found = int(w @ self._truth), int(w @ self._found)
        tp, fp = w @ self._tp, w @ self._fp
        missed_or_false = truth - tp + fp
        f1 = 2 * tp / (2 * tp + missed_or_false) if truth or found else np.full(1, np.nan)
        return ComponentMetrics(
            siou=_ratio(float(w @ self._siou), truth),
            ppv=_ratio(float(w @ self._ppv), found),
            f1_star=float(np.mean(f1)),
        )


def _at_least(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values reach each tau: int64 [11]."""
    return np.sum(values[None] >= TAUS[:, None], axis=1, dtype=np.int64)


def _ratio(total: float, count: int) -> float:
    return total / count if count else float('nan')


def component_metrics(frames: Sequence[FrameComponents]) -> ComponentMetrics:
    """Component metrics over frames; frames without true components still give false positives."""
    return FrameCounts(frames).metrics()
