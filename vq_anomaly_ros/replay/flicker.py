"""Flicker: what is seen in one frame only, before and after region, smoothing and persistence.

Counted on the score map. A pixel is alone if neither the frame before nor the one after has an
alarm within two positions of it; an obstacle, if the thing is not among those of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.obstacles import find_obstacles
from vq_anomaly_ros.detection.tracks import Tracks

_NEAR = np.ones((5, 5), np.uint8)
# Parts before are those that a detector without a scene would tell.
_MIN_AREA = 5e-4


class Alone(NamedTuple):
    """Of one frame: how many there are and how many of them are alone.

    pixels: in the anomaly mask, of the score map; parts: connected ones, and obstacles that are
    told; before: of the plain threshold; after: of what is published.
    """

    pixels_before: int
    pixels_before_alone: int
    pixels_after: int
    pixels_after_alone: int
    parts_before: int
    parts_before_alone: int
    parts_after: int
    parts_after_alone: int


class _Seen(NamedTuple):
    masks: tuple[np.ndarray, np.ndarray]
    things: tuple[frozenset[int], frozenset[int]]


class FlickerCounter:
    """Frames of one drive in order; says of each but the first and the last what is alone."""

    def __init__(self) -> None:
        """Start a drive."""
        self._tracks = Tracks()
        self._seen: list[_Seen] = []

    def add(self, detection: Detection) -> Alone | None:
        """Take in a frame; of the frame before, None where that had none before it.

        None as well for results that do not hold the alarms of the plain threshold.
        """
        if detection.alarms is None:
            return None
        self._seen.append(self._what_is_seen(detection, detection.alarms))
        if len(self._seen) < 3:
            return None
        before, now, after = self._seen
        del self._seen[0]
        counts: list[int] = []
        for which in range(2):
            near = cv2.dilate(before.masks[which] | after.masks[which], _NEAR) > 0
            mask = now.masks[which] > 0
            counts += [int(np.count_nonzero(mask)), int(np.count_nonzero(mask & ~near))]
        for which in range(2):
            others = before.things[which] | after.things[which]
            counts += [len(now.things[which]), len(now.things[which] - others)]
        return Alone(*counts)

    def _what_is_seen(self, detection: Detection, alarms: np.ndarray) -> _Seen:
        size = (alarms.shape[1], alarms.shape[0])
        mask = cv2.resize(detection.anomaly_mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        score = np.ones(alarms.shape, np.float32)
        parts = self._tracks.update(find_obstacles(alarms, score, None, alarms.shape, _MIN_AREA))
        told = [part.track for part in parts], [one.track for one in detection.obstacles]
        before, after = (frozenset(n for n in some if n is not None) for some in told)
        return _Seen((alarms, mask), (before, after))


def shares_alone(counts: Sequence[Alone]) -> dict[str, float | None]:
    """Shares of pixels and parts of a run that are alone; None where there was none at all."""
    total = np.array(counts, np.int64).reshape(-1, len(Alone._fields)).sum(axis=0)
    names = Alone._fields[::2]
    pairs = zip(names, total[::2].tolist(), total[1::2].tolist(), strict=True)
    return {name: alone / seen if seen else None for name, seen, alone in pairs}
