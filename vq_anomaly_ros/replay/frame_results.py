"""What was found in the frames of a drive, and the numbers that sum a drive up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from vq_anomaly_ros.detection.calibration import SMALLEST_TAIL, rarity
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.drift import FROZEN, STATISTICS, DriftState
from vq_anomaly_ros.detection.events import Event
from vq_anomaly_ros.detection.levels import Level
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.metrics.pixel import MetricError
from vq_anomaly_ros.replay.exceedances import TARGETS, counts_above, named
from vq_anomaly_ros.replay.flicker import Alone, FlickerCounter, shares_alone
from vq_anomaly_ros.replay.label_metrics import LabelMetrics
from vq_anomaly_ros.replay.labels import LabelError, Truth

# In decades; rarity is cut where the calibration's tail ends.
MOST_RARE = -math.log10(SMALLEST_TAIL)
_TOP_SHARE = 0.01
_REASONS_KEPT = 20


@dataclass(frozen=True)
class FrameResult:
    """One frame of a drive and what was said of it.

    source: name of the bag; topic: of the image; latency_ms: time that the detection took, None
    where it is unknown; truth: the frame's labels, if it has any; drift: what the camera's drift
    monitor says after it, None where there was none; events: what begins with it.
    """

    stamp_ns: int
    source: str
    topic: str
    frame: Frame
    detection: Detection
    latency_ms: float | None = None
    truth: Truth | None = None
    drift: DriftState | None = None
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class DroppedFrame:
    """One frame of a drive without a result, and why."""

    stamp_ns: int
    source: str
    topic: str
    reason: str


@dataclass(frozen=True)
class FrameRow:
    """What is kept of a frame for summary and charts.

    rarity: see `frame_rarity`; anomaly_fraction: share of the pixels in the mask, 0..1;
    labelled_fraction: share of the pixels labelled an anomaly, None without labels; class_shares:
    float64 [C], share of the pixels a class, or None; obstacles: how many were told; score: the
    highest raw score, by which the benchmark judges an image; mean_score: the mean of all of them,
    which tells what lies over the whole frame; above: how many of the `pixels` have
    a calibrated score above 1 - t for each of exceedances.TARGETS; drift_level: 0 OK, 1 WARN, 2
    ERROR, None without a drift monitor; drift: {statistic: excess}, see drift.DriftState.excesses;
    region_pixels, region_alarms, region_above: pixels of the region of interest, those of them that
    exceed the threshold, and as `above`, None where everything counts; alone: see flicker, None
    for the first and the last frame of a drive.
    """

    stamp_ns: int
    source: str
    topic: str
    rarity: float
    anomaly_fraction: float
    class_shares: np.ndarray | None
    latency_ms: float | None
    labelled_fraction: float | None = None
    obstacles: int = 0
    score: float | None = None
    above: tuple[int, ...] | None = None
    pixels: int = 0
    drift_level: int | None = None
    drift: dict[str, float] | None = None
    region_pixels: int | None = None
    region_alarms: int | None = None
    region_above: tuple[int, ...] | None = None
    alone: Alone | None = None
    mean_score: float | None = None


def frame_rarity(score: np.ndarray) -> float:
    """Return how rare a frame's most anomalous pixels are, in decades, 0..5.

    The mean of -log10(1 - score) over the hundredth of the pixels that scored highest, score being
    calibrated, float32 [H, W] in 0..1: at 3, one normal pixel in a thousand scores as high.
    """
    flat = score.reshape(-1)
    count = max(1, round(flat.size * _TOP_SHARE))
    top = np.partition(flat, flat.size - count)[-count:]
    return MOST_RARE * float(np.mean(rarity(top), dtype=np.float64))


class DriveStatistics:
    """Sum up the frames of a drive as they come; memory grows with labels only."""

    def __init__(self, classes: tuple[str, ...], judged_score: str = 'raw', labelled: bool = False):
        """Prepare.

        Args:
            classes: names of the model's classes.
            judged_score: what `Detection.raw_score` holds, 'raw' or 'calibrated'; named beside
                the metrics.
            labelled: whether frames will come with labels.
        """
        self._classes = classes
        self.labels = LabelMetrics(classes, judged_score) if labelled else None
        self.rows: list[FrameRow] = []
        self.dropped: list[DroppedFrame] = []
        self._flicker = FlickerCounter()

    def add(self, result: FrameResult) -> FrameRow:
        """Take in one frame.

        Raises:
            LabelError: its labels hold values that mean nothing.
        """
        detection = result.detection
        shares = None
        if detection.labels is not None and self._classes:
            counts = np.bincount(detection.labels.reshape(-1), minlength=256)
            shares = counts[: len(self._classes)] / detection.labels.size
        row = FrameRow(
            result.stamp_ns,
            result.source,
            result.topic,
            frame_rarity(detection.score),
            np.count_nonzero(detection.anomaly_mask) / detection.anomaly_mask.size,
            shares,
            result.latency_ms,
            _labelled_fraction(result.truth),
            len(detection.obstacles),
            float(detection.raw_score.max()),
            tuple(counts_above(detection.score).tolist()),
            detection.score.size,
            *_drift(result.drift),
            **_in_region(detection),
            mean_score=float(detection.raw_score.mean(dtype=np.float64)),
        )
        self._count_flicker(result)
        self.rows.append(row)
        if result.truth is not None and self.labels is not None:
            try:
                self.labels.add(detection, result.truth)
            except MetricError as error:
                raise LabelError(f'labels of the frame {result.stamp_ns}: {error}') from error
        return row

    def _count_flicker(self, result: FrameResult) -> None:
        """What is alone in the last row's frame, now that the one after it is known."""
        if not self.rows or self.rows[-1].source != result.source:
            self._flicker = FlickerCounter()
        alone = self._flicker.add(result.detection)
        if alone is not None:
            self.rows[-1] = replace(self.rows[-1], alone=alone)

    def drop(self, frame: DroppedFrame) -> None:
        """Count a frame without a result."""
        self.dropped.append(frame)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of summary.json that the frames determine; None where undefined."""
        latencies = [row.latency_ms for row in self.rows if row.latency_ms is not None]
        summary: dict[str, Any] = {
            'frames': len(self.rows) + len(self.dropped),
            'frames_dropped': len(self.dropped),
            'anomaly_fraction': _mean([row.anomaly_fraction for row in self.rows]),
            'obstacles': sum(row.obstacles for row in self.rows),
            'rarity': _percentiles([row.rarity for row in self.rows], (50, 95, 100)),
            'share_above': self._shares_above(),
            'latency_ms': _percentiles(latencies, (50, 95, 99)),
            'drift': drift_summary(self.rows),
            'region': region_summary(self.rows),
            'flicker': shares_alone([row.alone for row in self.rows if row.alone is not None]),
        }
        scores = [row.score for row in self.rows if row.score is not None]
        summary['frame_score'] = _percentiles(scores, (50, 95, 100))
        whole = [row.mean_score for row in self.rows if row.mean_score is not None]
        summary['frame_mean_score'] = _percentiles(whole, (50, 95, 100))
        if self._classes:
            shares = [row.class_shares for row in self.rows if row.class_shares is not None]
            means = np.mean(shares, axis=0).tolist() if shares else [None] * len(self._classes)
            summary['class_shares'] = dict(zip(self._classes, means, strict=True))
        if self.labels is not None:
            summary['metrics'] = self.labels.summary()
        summary['dropped'] = [
            {'stamp_ns': frame.stamp_ns, 'topic': frame.topic, 'reason': frame.reason}
            for frame in self.dropped[:_REASONS_KEPT]
        ]
        return summary

    def _shares_above(self) -> dict[str, float | None]:
        known = [row for row in self.rows if row.above is not None]
        above = np.array([row.above for row in known], np.int64).reshape(-1, len(TARGETS))
        return named(above.sum(0), sum(row.pixels for row in known))


def region_summary(rows: Sequence[FrameRow]) -> dict[str, Any]:
    """Return the share of the pixels that count, and the rates of alarms among those.

    None where everything counts.
    """
    known = [row for row in rows if row.region_pixels is not None]
    counted = sum(row.region_pixels or 0 for row in known)
    pixels = sum(row.pixels for row in known)
    alarms = sum(row.region_alarms or 0 for row in known)
    above = np.array([row.region_above for row in known], np.int64).reshape(-1, len(TARGETS))
    return {
        'share': counted / pixels if pixels else None,
        'anomaly_fraction': alarms / counted if counted else None,
        'share_above': named(above.sum(0), counted),
    }


def _in_region(detection: Detection) -> dict[str, Any]:
    """Fields of a FrameRow."""
    if detection.region is None or detection.alarms is None:
        return {}
    height, width = detection.score.shape
    region, alarms = (
        cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        for image in (detection.region.astype(np.uint8), detection.alarms)
    )
    inside = detection.score[region > 0]
    return {
        'region_pixels': inside.size,
        'region_alarms': int(np.count_nonzero(alarms[region > 0])),
        'region_above': tuple(counts_above(inside).tolist()),
    }


def drift_summary(rows: Sequence[FrameRow]) -> dict[str, float | int | None]:
    """Return how many frames were at WARN and at ERROR, and the largest excess a statistic.

    None where there was no drift monitor.
    """
    levels = [row.drift_level for row in rows if row.drift_level is not None]
    count = {level: levels.count(level) if levels else None for level in Level}
    largest: dict[str, float] = {}
    for row in rows:
        for name, excess in (row.drift or {}).items():
            largest[name] = max(largest.get(name, 0.0), excess)
    return {
        'warn_frames': count[Level.WARN],
        'error_frames': count[Level.ERROR],
        **{f'{name}_excess': largest.get(name) for name in (*STATISTICS, FROZEN)},
    }


def _drift(state: DriftState | None) -> tuple[int | None, dict[str, float] | None]:
    if state is None:
        return None, None
    excesses = {name: round(excess, 4) for name, excess in state.excesses.items()}
    return int(state.judgement.level), excesses


def _labelled_fraction(truth: Truth | None) -> float | None:
    if truth is None or truth.anomaly is None:
        return None
    return np.count_nonzero(truth.anomaly == 1) / truth.anomaly.size


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentiles(values: list[float], which: tuple[int, ...]) -> dict[str, float | None]:
    names = ['max' if p == 100 else f'p{p}' for p in which]
    if not values:
        return dict.fromkeys(names)
    return dict(zip(names, np.percentile(values, which).tolist(), strict=True))
