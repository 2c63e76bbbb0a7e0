"""What was found in the frames of a drive, and the numbers that sum a drive up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vq_anomaly_ros.detection.calibration import SMALLEST_TAIL, rarity
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.metrics.pixel import MetricError, PixelScores
from vq_anomaly_ros.metrics.segmentation import class_iou, confusion, mean_iou
from vq_anomaly_ros.replay.labels import VOID, LabelError, Truth

# In decades; rarity is cut where the calibration's tail ends.
MOST_RARE = -math.log10(SMALLEST_TAIL)
_TOP_SHARE = 0.01
_REASONS_KEPT = 20


@dataclass(frozen=True)
class FrameResult:
    """One frame of a drive and what was said of it.

    source: name of the bag; topic: of the image; latency_ms: time that the detection took, None
    where it is unknown; truth: the frame's labels, if it has any.
    """

    stamp_ns: int
    source: str
    topic: str
    frame: Frame
    detection: Detection
    latency_ms: float | None = None
    truth: Truth | None = None


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
    float64 [C], share of the pixels a class, or None; obstacles: how many were told.
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
        self._judged_score = judged_score
        self._labelled = labelled
        self.rows: list[FrameRow] = []
        self.dropped: list[DroppedFrame] = []
        self._pixels = PixelScores()
        self._confusion = np.zeros((len(classes), len(classes)), np.int64)
        self._frames_with_anomaly_labels = 0
        self._frames_with_class_labels = 0

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
        )
        self.rows.append(row)
        if result.truth is not None:
            self._judge(result, result.truth)
        return row

    def drop(self, frame: DroppedFrame) -> None:
        """Count a frame without a result."""
        self.dropped.append(frame)

    def _judge(self, result: FrameResult, truth: Truth) -> None:
        try:
            if truth.anomaly is not None:
                score = _upsampled(result.detection.raw_score, truth.anomaly)
                self._pixels.add(score, truth.anomaly)
                self._frames_with_anomaly_labels += 1
            if truth.classes is not None and result.detection.labels is not None:
                self._judge_classes(result.detection.labels, truth.classes)
        except MetricError as error:
            raise LabelError(f'labels of the frame {result.stamp_ns}: {error}') from error

    def _judge_classes(self, labels: np.ndarray, truth: np.ndarray) -> None:
        size = (truth.shape[1], truth.shape[0])
        found = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        # Ids that the model has no class for (CamVid's void 11) cannot be right: they are void.
        known = np.where(truth < len(self._classes), truth, np.uint8(VOID))
        self._confusion += confusion(found, known, len(self._classes))
        self._frames_with_class_labels += 1

    def summary(self) -> dict[str, Any]:
        """Return the numbers of summary.json that the frames determine; None where undefined."""
        latencies = [row.latency_ms for row in self.rows if row.latency_ms is not None]
        summary: dict[str, Any] = {
            'frames': len(self.rows) + len(self.dropped),
            'frames_dropped': len(self.dropped),
            'anomaly_fraction': _mean([row.anomaly_fraction for row in self.rows]),
            'obstacles': sum(row.obstacles for row in self.rows),
            'rarity': _percentiles([row.rarity for row in self.rows], (50, 95, 100)),
            'latency_ms': _percentiles(latencies, (50, 95, 99)),
        }
        if self._classes:
            shares = [row.class_shares for row in self.rows if row.class_shares is not None]
            means = np.mean(shares, axis=0).tolist() if shares else [None] * len(self._classes)
            summary['class_shares'] = dict(zip(self._classes, means, strict=True))
        if self._labelled:
            summary['metrics'] = self._metrics()
        summary['dropped'] = [
            {'stamp_ns': frame.stamp_ns, 'topic': frame.topic, 'reason': frame.reason}
            for frame in self.dropped[:_REASONS_KEPT]
        ]
        return summary

    def _metrics(self) -> dict[str, Any]:
        pixels = self._pixels.result()
        iou = class_iou(self._confusion)
        return {
            'protocol': 'pooled',
            'judged_score': self._judged_score,
            'anomaly_frames': self._frames_with_anomaly_labels,
            'ap': _number(pixels.ap),
            'fpr95': _number(pixels.fpr95),
            'auroc': _number(pixels.auroc),
            'class_frames': self._frames_with_class_labels,
            'miou': _number(mean_iou(self._confusion)),
            'iou': {name: _number(x) for name, x in zip(self._classes, iou, strict=True)},
        }


def _labelled_fraction(truth: Truth | None) -> float | None:
    if truth is None or truth.anomaly is None:
        return None
    return np.count_nonzero(truth.anomaly == 1) / truth.anomaly.size


def _upsampled(score: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Bilinear, half-pixel centres, to the size of the labels."""
    return cv2.resize(score, (like.shape[1], like.shape[0]), interpolation=cv2.INTER_LINEAR)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentiles(values: list[float], which: tuple[int, ...]) -> dict[str, float | None]:
    names = ['max' if p == 100 else f'p{p}' for p in which]
    if not values:
        return dict.fromkeys(names)
    return dict(zip(names, np.percentile(values, which).tolist(), strict=True))
