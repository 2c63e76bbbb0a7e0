"""Semantic segmentation: confusion matrix of pixels, IoU of classes and their mean."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq_anomaly_ros.metrics.pixel import VOID, MetricError


def confusion(
    predicted: ArrayLike, labels: ArrayLike, classes: int, void: Iterable[int] = (VOID,)
) -> NDArray[np.int64]:
    """Count the pixels of one image: int64 [C, C], row = label, column = prediction.

    `predicted`, `labels`: integer class ids [H, W]; labels in `void` are left out. MetricError on
    different shapes and on ids outside 0 .. C - 1.
    """
    found, truth = np.asarray(predicted), np.asarray(labels)
    if found.shape != truth.shape:
        raise MetricError(
            f'predicted classes {found.shape} and labels {truth.shape} differ in size; '
            "upsample the class scores to the label's size first"
        )
    judged = ~np.isin(truth, list(void))
    rows = _checked(truth[judged], classes, 'labels')
    columns = _checked(found[judged], classes, 'predicted classes')
    pairs = np.bincount(rows * classes + columns, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def _checked(ids: NDArray[np.integer], classes: int, what: str) -> NDArray[np.int64]:
    strange = np.unique(ids[(ids < 0) | (ids >= classes)])
    if strange.size:
        raise MetricError(
            f'{what} hold the ids {strange.tolist()}, outside the {classes} classes 0 to '
            f'{classes - 1}; name them as void or correct the class list'
        )
    return ids.astype(np.int64)


def class_iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class, float64 [C]: TP / (TP + FP + FN); NaN for a class that occurs nowhere."""
    true_positive = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - true_positive
    return np.where(union > 0, true_positive / np.maximum(union, 1), np.nan)


def mean_iou(matrix: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that occur in labels or predictions; NaN where none does."""
    iou = class_iou(matrix)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float('nan')
