"""Accumulators that follow a protocol: images go in one by one, figures come out at the end.

Each has `add` for one image and `result` for the figures of all of them so far. What is kept of an
image: four bytes a pixel where the curve is exact (and eight a pixel of a defect's region), three
where component metrics need the map, a few counts otherwise; so 200 million pixels stay under 2 GB,
also where a tenth of them are defects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq_anomaly_ros.metrics.bins import SMIYC_BINS, FrameBins, MergedBins, frame_bins
from vq_anomaly_ros.metrics.components import ComponentRule, FrameCounts, frame_components
from vq_anomaly_ros.metrics.intervals import Interval, bootstrap_interval
from vq_anomaly_ros.metrics.pixel import (
    NO_ANOMALY,
    NO_NORMAL,
    VOID,
    MetricError,
    PixelMetrics,
    PixelScores,
    check_labels,
    check_scores,
    exact_metrics,
    split_pixels,
)
from vq_anomaly_ros.metrics.protocols import Protocol
from vq_anomaly_ros.metrics.regions import RegionScores
from vq_anomaly_ros.metrics.segmentation import class_iou, confusion, mean_iou

INTERVAL_UP_TO = 100
INTERVAL_BINS = 2048

PIXEL_NAMES = ('ap', 'fpr95', 'auroc', 'best_f1')
COMPONENT_NAMES = ('siou', 'ppv', 'f1_star')


@dataclass(frozen=True)
class Result:
    """Figures of a set under one protocol.

    `metrics`: fractions of 1, only those that are defined. `reasons`: why others are not.
    `interval`: 95 % bootstrap interval over images of each metric, for sets of at most 100 images.
    `per_class`: IoU of each class (segmentation only). `threshold`: the score of best F1, NaN
    where there is none.
    """

    images: int
    metrics: dict[str, float]
    reasons: dict[str, str]
    interval: dict[str, Interval] = field(default_factory=dict)
    per_class: tuple[float, ...] = ()
    threshold: float = float('nan')


def _result(
    images: int,
    named: Mapping[str, float],
    reason: str,
    interval: Mapping[str, Interval],
    per_class: tuple[float, ...] = (),
    threshold: float = float('nan'),
) -> Result:
    """Sort metrics into those that are defined and those that are not, for one reason."""
    defined = {name: value for name, value in named.items() if np.isfinite(value)}
    reasons = {name: reason for name in named if name not in defined}
    kept = {name: interval[name] for name in defined if name in interval}
    return Result(images, defined, reasons, kept, per_class, threshold)


def _named(metrics: PixelMetrics) -> dict[str, float]:
    return {name: getattr(metrics, name) for name in PIXEL_NAMES}


class PooledEvaluation:
    """Anomaly scores judged over all pixels of a set: `fishyscapes`, `pooled`, `smiyc`."""

    def __init__(self, protocol: Protocol, seed: int = 0) -> None:
        self.protocol = protocol
        self._seed = seed
        self._images = 0
        self._exact = PixelScores(protocol.void) if protocol.curve == 'exact' else None
        self._bins: list[FrameBins] = []
        self._maps: list[tuple[NDArray[np.floating], NDArray[np.uint8]]] = []

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add one image: scores float [H, W], higher = more anomalous; labels uint8 [H, W]."""
        rounded = check_scores(scores, self.protocol.score_type)
        anomalous, normal = split_pixels(
            rounded, labels, self.protocol.score_type, self.protocol.void
        )
        self._images += 1
        if self._exact is not None:
            self._exact.add_pixels(anomalous, normal)
        self._keep_bins(anomalous, normal)
        if self.protocol.components is not None:
            self._maps.append((np.array(rounded), np.array(check_labels(labels))))

    def _keep_bins(self, anomalous: NDArray[np.floating], normal: NDArray[np.floating]) -> None:
        """Bins are the curve itself (binned) or serve the interval (exact, small sets)."""
        if self._exact is None:
            self._bins.append(frame_bins(anomalous, normal, SMIYC_BINS))
        elif self._images <= INTERVAL_UP_TO:
            self._bins.append(frame_bins(anomalous, normal, INTERVAL_BINS))
        else:
            self._bins.clear()

    def result(self) -> Result:
        """Figures of all images so far; MetricError where none was added."""
        _refuse_nothing(self._images)
        if self._exact is not None:
            pixels = self._exact.result(self.protocol.fpr95)
        else:
            pixels = MergedBins(self._bins).metrics()
        counts = self._component_counts(pixels.best_f1_threshold)
        named = _named(pixels) | self._component_names(counts)
        reason = pixels.reason or 'there is no component to average over'
        threshold = pixels.best_f1_threshold
        return _result(self._images, named, reason, self._interval(counts), threshold=threshold)

    def _interval(self, counts: FrameCounts | None) -> dict[str, Interval]:
        if self._images > INTERVAL_UP_TO:
            return {}
        merged = MergedBins(self._bins)

        def drawn(weights: NDArray[np.int64]) -> dict[str, float]:
            return _named(merged.metrics(weights)) | self._component_names(counts, weights)

        return bootstrap_interval(drawn, self._images, seed=self._seed)

    def _component_counts(self, threshold: float) -> FrameCounts | None:
        """Components of all frames at `threshold` (strict), where the protocol judges them."""
        rule = self.protocol.components
        if rule is None or not np.isfinite(threshold):
            return None
        return component_counts(self._maps, threshold, rule)

    def _component_names(
        self, counts: FrameCounts | None, weights: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        if self.protocol.components is None:
            return {}
        if counts is None:
            return dict.fromkeys(COMPONENT_NAMES, float('nan'))
        metrics = counts.metrics(weights)
        return {name: getattr(metrics, name) for name in COMPONENT_NAMES}


def component_counts(
    maps: Iterable[tuple[NDArray[np.floating], NDArray[np.uint8]]],
    threshold: float,
    rule: ComponentRule,
) -> FrameCounts:
    """Match components of score > threshold with those of the labels, for each (scores, labels)."""
    return FrameCounts(
        # float64: a threshold between two float16 values must not be rounded onto one of them.
        [frame_components(scores > np.float64(threshold), labels, rule) for scores, labels in maps]
    )


def _refuse_nothing(images: int) -> None:
    if not images:
        raise MetricError('no image was added; there is nothing to measure')


class PerImageEvaluation:
    """Anomaly scores judged image by image, averaged over those with anomalies: `streethazards`."""

    def __init__(self, protocol: Protocol, seed: int = 0) -> None:
        self.protocol = protocol
        self._seed = seed
        self._images = 0
        self._rows: list[list[float]] = []
        self._reason = NO_ANOMALY

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add one image: scores float [H, W], higher = more anomalous; labels uint8 [H, W]."""
        anomalous, normal = split_pixels(
            scores, labels, self.protocol.score_type, self.protocol.void
        )
        self._images += 1
        metrics = exact_metrics(np.sort(anomalous), np.sort(normal), self.protocol.fpr95)
        if not metrics.reason:
            self._rows.append(list(_named(metrics).values()))
        elif metrics.reason == NO_NORMAL:
            self._reason = NO_NORMAL

    def result(self) -> Result:
        """Means over the images that hold anomalies; MetricError where none was added."""
        _refuse_nothing(self._images)
        rows = np.array(self._rows).reshape(-1, len(PIXEL_NAMES))
        if not len(rows):
            nothing = dict.fromkeys(PIXEL_NAMES, float('nan'))
            return _result(self._images, nothing, self._reason, {})

        def drawn(weights: NDArray[np.int64]) -> dict[str, float]:
            return dict(zip(PIXEL_NAMES, weights @ rows / len(rows), strict=True))

        small = len(rows) <= INTERVAL_UP_TO
        interval = bootstrap_interval(drawn, len(rows), seed=self._seed) if small else {}
        means = dict(zip(PIXEL_NAMES, rows.mean(axis=0).tolist(), strict=True))
        return _result(self._images, means, '', interval)


class SegmentationEvaluation:
    """Classes of pixels judged by mean IoU over the pooled confusion matrix: `segmentation`."""

    def __init__(self, classes: int, void: Iterable[int] = (VOID,), seed: int = 0) -> None:
        self._classes = classes
        self._void = tuple(void)
        self._seed = seed
        self._images = 0
        self._matrix = np.zeros((classes, classes), np.int64)
        self._frames: list[NDArray[np.int64]] = []

    def add(self, predicted: ArrayLike, labels: ArrayLike) -> None:
        """Add one image: predicted classes and labels, integer ids [H, W]."""
        frame = confusion(predicted, labels, self._classes, self._void)
        self._images += 1
        self._matrix += frame
        if self._images <= INTERVAL_UP_TO:
            self._frames.append(frame)
        else:
            self._frames.clear()

    def result(self) -> Result:
        """Mean IoU of all images so far; MetricError where none was added."""
        _refuse_nothing(self._images)
        frames = np.array(self._frames)

        def drawn(weights: NDArray[np.int64]) -> dict[str, float]:
            return {'miou': mean_iou(np.tensordot(weights, frames, axes=1))}

        interval = bootstrap_interval(drawn, self._images, seed=self._seed) if frames.size else {}
        return _result(
            self._images,
            {'miou': mean_iou(self._matrix)},
            'the labels hold nothing but void',
            interval,
            per_class=tuple(class_iou(self._matrix).tolist()),
        )


class IndustrialEvaluation:
    """Defect scores judged by image, by pixel (AUROC, AP) and by region: `industrial`."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._pixels = PixelScores()
        self._regions = RegionScores()
        self._peaks: list[float] = []
        self._defective: list[bool] = []
        self._bins: list[FrameBins] = []

    def add(self, scores: ArrayLike, labels: ArrayLike, defective: bool) -> None:
        """Add one image: scores float [H, W], labels uint8 [H, W] (1 defect), and its verdict.

        The verdict is asked for because public sets hold defective images with an empty mask. The
        score of an image is the highest of its pixels.
        """
        anomalous, normal = split_pixels(scores, labels)
        self._pixels.add_pixels(anomalous, normal)
        self._regions.add(scores, labels)
        self._peaks.append(float(np.max(scores)))
        self._defective.append(defective)
        if len(self._peaks) <= INTERVAL_UP_TO:
            self._bins.append(frame_bins(anomalous, normal, INTERVAL_BINS))
        else:
            self._bins.clear()

    def result(self) -> Result:
        """Figures of all images so far; MetricError where none was added. PRO has no interval."""
        images = len(self._peaks)
        _refuse_nothing(images)
        pixels = self._pixels.result()
        named = {
            'ap': pixels.ap,
            'image_auroc': self._image_auroc(np.ones(images, np.int64)),
            'pixel_auroc': pixels.auroc,
            'pro': self._regions.pro(self._pixels.normal),
        }
        reason = pixels.reason or 'the images are all good or all defective'
        return _result(images, named, reason, self._interval())

    def _interval(self) -> dict[str, Interval]:
        if len(self._peaks) > INTERVAL_UP_TO:
            return {}
        merged = MergedBins(self._bins)

        def drawn(weights: NDArray[np.int64]) -> dict[str, float]:
            pixels = merged.metrics(weights)
            return {
                'ap': pixels.ap,
                'image_auroc': self._image_auroc(weights),
                'pixel_auroc': pixels.auroc,
            }

        return bootstrap_interval(drawn, len(self._peaks), seed=self._seed)

    def _image_auroc(self, weights: NDArray[np.int64]) -> float:
        """AUROC of the images' highest scores, image i counted weights[i] times."""
        peaks, defective = np.array(self._peaks), np.array(self._defective)
        bad, good = (
            np.sort(np.repeat(peaks[kind], weights[kind])) for kind in (defective, ~defective)
        )
        return exact_metrics(bad, good).auroc


AnomalyEvaluation = PooledEvaluation | PerImageEvaluation


def anomaly_evaluation(protocol: Protocol, seed: int = 0) -> AnomalyEvaluation:
    """Return the accumulator of an anomaly protocol; MetricError for one of another task."""
    if protocol.task != 'anomaly':
        raise MetricError(f'protocol {protocol.name} judges {protocol.task}, not anomaly scores')
    if protocol.pooling == 'images':
        return PerImageEvaluation(protocol, seed)
    return PooledEvaluation(protocol, seed)
