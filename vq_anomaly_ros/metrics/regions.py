"""PRO: per-region overlap of industrial defects, area under its curve up to a false-positive rate.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq_anomaly_ros.metrics.pixel import Scores, check_labels, check_scores

PRO_LIMIT = 0.3
_WINDOW = 1 << 18


class RegionScores:
    """Scores of all ground-truth regions (8-connected), collected image by image.

    Holds eight bytes a pixel of a region; `pro` needs twice as many more while it sorts them.
    """

    def __init__(self) -> None:
        self._scores: list[Scores] = []
        self._owners: list[NDArray[np.int32]] = []
        self._areas: list[NDArray[np.int32]] = []
        self.regions = 0

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add one image: scores float [H, W], labels uint8 [H, W] (1 defect)."""
        checked, truth = check_scores(scores), check_labels(labels)
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(
            (truth == 1).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        inside = numbers > 0
        self._scores.append(checked[inside])
        self._owners.append(numbers[inside] + np.int32(self.regions - 1))
        self._areas.append(stats[1:, cv2.CC_STAT_AREA])
        self.regions += count - 1

    def pro(self, normal: Scores, limit: float = PRO_LIMIT, window: int = _WINDOW) -> float:
        """Area under mean region recall against FPR, from 0 to `limit`, divided by `limit`.

        `normal`: scores of all normal pixels, sorted ascending. NaN without regions or without
        normal pixels. Exact: every distinct score is a threshold. The curve is walked from the top
        about `window` region pixels at a time.
        """
        if not self.regions or not normal.size:
            return float('nan')
        area = at = reached_overlap = 0.0
        for scores, overlap in self._curve(window):
            before = np.concatenate(([reached_overlap], overlap[:-1]))
            above = normal.size - np.searchsorted(normal, scores, side='right')
            reached = normal.size - np.searchsorted(normal, scores, side='left')
            # Normal pixels above a region's pixel move the curve right, the pixel moves it up.
            fpr = np.stack((above, reached), axis=1).ravel() / normal.size
            height = np.stack((before, overlap), axis=1).ravel()
            x, y = np.concatenate(([at], fpr)), np.concatenate(([reached_overlap], height))
            area += area_up_to(x, y, limit)
            at, reached_overlap = float(x[-1]), float(y[-1])
            if at >= limit:
                return area / limit
        ends = np.array([at, 1.0]), np.array([reached_overlap, 1.0])
        return (area + area_up_to(*ends, limit)) / limit

    def _curve(self, window: int) -> Iterator[tuple[Scores, NDArray[np.float64]]]:
        """Distinct scores of region pixels, descending, and mean recall of regions at each."""
        scores, owners = np.concatenate(self._scores), np.concatenate(self._owners)
        order = np.argsort(scores)
        scores, owners = scores[order], owners[order]
        del order
        weights = 1.0 / (self.regions * np.concatenate(self._areas).astype(np.float64))
        recall, end = 0.0, scores.size
        while end:
            # Ties must not be cut: start at the first pixel with the window's lowest score.
            start = int(np.searchsorted(scores, scores[max(0, end - window)], side='left'))
            part = scores[start:end][::-1]
            overlap = recall + np.cumsum(weights[owners[start:end][::-1]])
            last = np.flatnonzero(np.concatenate((part[1:] != part[:-1], [True])))
            yield part[last], overlap[last]
            recall, end = float(overlap[-1]), start


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
