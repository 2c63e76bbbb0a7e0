"""What was found in frames against their labels: pixel metrics, mean IoU, realised rates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.metrics.pixel import PixelScores
from vq_anomaly_ros.metrics.segmentation import class_iou, confusion, mean_iou
from vq_anomaly_ros.replay.exceedances import TARGETS, counts_above, named
from vq_anomaly_ros.replay.labels import VOID, Truth


class LabelMetrics:
    """Judge frames as they come; memory grows by four bytes a labelled pixel, twice in a region.

    What several drives saved and one object loads makes, to the bit, what it says of all frames.
    """

    def __init__(self, classes: tuple[str, ...], judged_score: str = 'raw') -> None:
        """Prepare for the model's classes; judged_score names what `Detection.raw_score` holds."""
        self._classes = classes
        self._judged_score = judged_score
        self._pixels = PixelScores()
        # Those of the region of interest, in frames where one is known.
        self._in_region = PixelScores()
        self._confusion = np.zeros((len(classes), len(classes)), np.int64)
        self._class_frames = 0
        # Of each frame with anomaly labels: normal pixels above each of TARGETS, and all of them.
        self._above: list[np.ndarray] = []
        self._normal: list[int] = []

    def add(self, detection: Detection, truth: Truth) -> None:
        """Judge one frame; MetricError where its labels hold values that mean nothing."""
        if truth.anomaly is not None:
            self._pixels.add(_upsampled(detection.raw_score, truth.anomaly), truth.anomaly)
            self._judge_region(detection, truth.anomaly)
            normal = _upsampled(detection.score, truth.anomaly)[truth.anomaly == 0]
            self._above.append(counts_above(normal))
            self._normal.append(normal.size)
        if truth.classes is not None and detection.labels is not None:
            self._judge_classes(detection.labels, truth.classes)

    def _judge_region(self, detection: Detection, truth: np.ndarray) -> None:
        if detection.region is None:
            return
        size = (truth.shape[1], truth.shape[0])
        region = cv2.resize(
            detection.region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT
        )
        inside = np.where(region > 0, truth, np.uint8(VOID))
        self._in_region.add(_upsampled(detection.raw_score, truth), inside)

    def _judge_classes(self, labels: np.ndarray, truth: np.ndarray) -> None:
        size = (truth.shape[1], truth.shape[0])
        found = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        # Ids that the model has no class for (CamVid's void 11) cannot be right: they are void.
        known = np.where(truth < len(self._classes), truth, np.uint8(VOID))
        self._confusion += confusion(found, known, len(self._classes))
        self._class_frames += 1

    def save(self, path: Path) -> None:
        """Write all that `load` needs, as .npz."""
        above, normal = self.exceedances
        np.savez(
            path,
            anomalous=self._pixels.anomalous,
            normal=self._pixels.normal,
            confusion=self._confusion,
            class_frames=self._class_frames,
            above=above,
            normal_counts=normal,
            region_anomalous=self._in_region.anomalous,
            region_normal=self._in_region.normal,
        )

    def load(self, path: Path) -> None:
        """Take in what `save` wrote of a drive, after what is here already."""
        with np.load(path) as stored:
            self._pixels.add_pixels(stored['anomalous'], stored['normal'])
            self._confusion += stored['confusion']
            self._class_frames += int(stored['class_frames'])
            self._above += list(stored['above'])
            self._normal += stored['normal_counts'].tolist()
            self._in_region.add_pixels(stored['region_anomalous'], stored['region_normal'])

    @property
    def exceedances(self) -> tuple[np.ndarray, np.ndarray]:
        """Normal pixels a frame above each of TARGETS, int64 [F, T], and all of them, int64 [F]."""
        above = np.array(self._above, np.int64).reshape(-1, len(TARGETS))
        return above, np.array(self._normal, np.int64)

    def summary(self) -> dict[str, Any]:
        """Return the part `metrics` of summary.json; None where a number is undefined."""
        pixels, inside = self._pixels.result(), self._in_region.result()
        iou = class_iou(self._confusion)
        above, normal = self.exceedances
        return {
            'protocol': 'pooled',
            'judged_score': self._judged_score,
            'anomaly_frames': len(normal),
            'ap': _number(pixels.ap),
            'fpr95': _number(pixels.fpr95),
            'auroc': _number(pixels.auroc),
            'region': {
                'ap': _number(inside.ap),
                'fpr95': _number(inside.fpr95),
                'auroc': _number(inside.auroc),
            },
            'class_frames': self._class_frames,
            'miou': _number(mean_iou(self._confusion)),
            'iou': {name: _number(x) for name, x in zip(self._classes, iou, strict=True)},
            'realised_fpr': named(above.sum(0), int(normal.sum())),
        }


def _upsampled(score: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Bilinear, half-pixel centres, to the size of the labels."""
    return cv2.resize(score, (like.shape[1], like.shape[0]), interpolation=cv2.INTER_LINEAR)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
