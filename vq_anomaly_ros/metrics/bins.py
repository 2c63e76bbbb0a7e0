"""The pixel curve from quantile bins of each frame, merged: SegmentMeIfYouCan's way.

A frame becomes a few hundred counts instead of a million pixels. This is the protocol of
SegmentMeIfYouCan (Chan et al., NeurIPS 2021 Datasets and Benchmarks), and, with finer bins, what
makes a bootstrap over images affordable for every other protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.metrics.pixel import (
    RECALL_LEVEL,
    PixelMetrics,
    Points,
    Scores,
    summarise,
    undefined,
)

SMIYC_BINS = 384


@dataclass(frozen=True, slots=True)
class FrameBins:
    """Pixels of one frame between score edges, each array [B].

    `lower`: lower edge of each half-open bin, ascending, in units of the score;
    `anomalous`, `normal`: pixels in it.
    """

    lower: NDArray[np.float64]
    anomalous: NDArray[np.int64]
    normal: NDArray[np.int64]


def frame_bins(anomalous: Scores, normal: Scores, per_kind: int = SMIYC_BINS) -> FrameBins:
    """Count the pixels of one frame (two 1-D arrays, unsorted) between quantiles of both kinds.

    `per_kind` quantiles of the anomalous and as many of the normal pixels are the edges. The two
    outer edges of the reference need no bins of their own: nothing lies outside the quantiles.
    """
    kinds = [np.sort(kind.astype(np.float64)) for kind in (anomalous, normal)]
    lower = np.unique(np.concatenate([_quantiles(kind, per_kind) for kind in kinds]))
    counts = [np.diff(np.searchsorted(kind, lower), append=kind.size) for kind in kinds]
    return FrameBins(lower, counts[0], counts[1])


def _quantiles(values: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """At most `number` quantiles of an array, minimum to maximum; none of an empty one."""
    if not values.size:
        return values
    return np.quantile(values, np.linspace(0, 1, min(number, values.size)))


class MergedBins:
    """The bins of several frames as one curve, for any weights of the frames."""

    def __init__(self, frames: Sequence[FrameBins]) -> None:
        """Merge at least one frame."""
        thresholds = np.concatenate([frame.lower for frame in frames])
        order = np.argsort(-thresholds, kind='stable')
        owners = np.repeat(np.arange(len(frames)), [frame.lower.size for frame in frames])
        self._threshold = thresholds[order]
        self._owner = owners[order]
        self._anomalous = np.concatenate([frame.anomalous for frame in frames])[order]
        self._normal = np.concatenate([frame.normal for frame in frames])[order]
        # Bins of equal edge enter the curve together, so the order of frames cannot matter.
        self._last = np.flatnonzero(np.diff(self._threshold, append=-np.inf))

    def metrics(self, weights: NDArray[np.int64] | None = None) -> PixelMetrics:
        """Metrics with frame i counted weights[i] times (int64 [frames]; once without weights)."""
        anomalous, normal = self._anomalous, self._normal
        if weights is not None:
            anomalous = anomalous * weights[self._owner]
            normal = normal * weights[self._owner]
        tp, fp = np.cumsum(anomalous)[self._last], np.cumsum(normal)[self._last]
        nothing = undefined(int(anomalous.sum()), int(normal.sum()))
        if nothing is not None:
            return nothing
        fpr95 = float(fp[np.argmax(tp / tp[-1] >= RECALL_LEVEL)] / fp[-1])
        points = Points(self._threshold[self._last], tp, fp, np.concatenate(([0], fp[:-1])))
        return summarise(iter((points,)), int(tp[-1]), int(fp[-1]), fpr95)
