"""PRO: per-region overlap of industrial defects, area under its curve up to a false-positive rate.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq_anomaly_ros.metrics.pixel import Scores, check_labels, check_scores

PRO_LIMIT = 0.3


class RegionScores:
    """Scores of all ground-truth regions (8-connected), collected image by image."""

    def __init__(self) -> None:
        self._scores: list[Scores] = []
        self._weights: list[NDArray[np.float64]] = []
        self.regions = 0

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add one image: scores float [H, W], labels uint8 [H, W] (1 defect)."""
        checked, truth = check_scores(scores), check_labels(labels)
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(
            (truth == 1).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        inside = numbers > 0
        self._scores.append(checked[inside])
        self._weights.append(1.0 / stats[numbers[inside], cv2.CC_STAT_AREA])
        self.regions += count - 1

    def pro(self, normal: Scores, limit: float = PRO_LIMIT) -> float:
        """Area under mean region recall against FPR, from 0 to `limit`, divided by `limit`.

        `normal`: scores of all normal pixels, sorted ascending. NaN without regions or without
        normal pixels. Exact: every distinct score is a threshold.
        """
        if not self.regions or not normal.size:
            return float('nan')
        scores, overlap = self._curve()
        before = np.concatenate(([0.0], overlap[:-1]))
        above = normal.size - np.searchsorted(normal, scores, side='right')
        reached = normal.size - np.searchsorted(normal, scores, side='left')
        # Normal pixels above a region's pixel move the curve right, the pixel itself moves it up.
        fpr = np.stack((above, reached), axis=1).ravel() / normal.size
        height = np.stack((before, overlap), axis=1).ravel()
        ends = np.concatenate(([0.0], fpr, [1.0])), np.concatenate(([0.0], height, [1.0]))
        return area_up_to(*ends, limit) / limit

    def _curve(self) -> tuple[Scores, NDArray[np.float64]]:
        """Distinct scores of region pixels, descending, and mean recall of regions at each."""
        scores, weights = np.concatenate(self._scores), np.concatenate(self._weights)
        order = np.argsort(scores)[::-1]
        scores, recall = scores[order], np.cumsum(weights[order]) / self.regions
        last = np.flatnonzero(np.concatenate((scores[1:] != scores[:-1], [True])))
        return scores[last], recall[last]


def area_up_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Trapezoid area under (x, y) from x[0] to `limit`, x ascending, cut by interpolation."""
    cut = int(np.searchsorted(x, limit, side='right'))
    if cut < x.size and x[cut - 1] < limit:
        share = (limit - x[cut - 1]) / (x[cut] - x[cut - 1])
        x = np.append(x[:cut], limit)
        y = np.append(y[:cut], y[cut - 1] + share * (y[cut] - y[cut - 1]))
    else:
        x, y = x[:cut], y[:cut]
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
