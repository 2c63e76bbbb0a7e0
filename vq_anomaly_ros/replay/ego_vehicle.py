"""The vehicle itself in its camera's picture: a bonnet along the lower edge, found while it drives.

Its edge is the one thing with contrast that stays in place while all else moves, and below it
little changes. Road markings stay in place, too, but below them the road moves on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from vq_anomaly_ros.detection.regions import polygon_mask
from vq_anomaly_ros.images import Frame

Polygon = list[list[float]]
# Enough of a drive, whose pictures are read for it once more.
MOST_FRAMES = 600

# The copies of the frames that are compared.
SIZE = (128, 256)
# Grey levels that two frames differ by, on the mean, if the vehicle moves.
_MOVES = 1.0
_FEWEST = 20
# An edge has so much contrast (deviation of 5x5 positions), and changes by less than this of it.
_CONTRAST = 4.0
_STEADY = 0.5
# The edge is seen in so many of the columns, mostly without jumps of more rows than this, and below
# it changes at most this share of what changes right above.
_COLUMNS = 0.8
_JUMP = 4
_QUIET = 0.6
_BAND = 16  # rows right above
_HIGHEST = 0.55  # of the picture, from above: no bonnet reaches higher
_SMALLEST = 0.005
_WINDOW = (5, 5)


def ego_of(frames: Iterable[Frame | str]) -> list[Polygon]:
    """The vehicle in the first frames of a drive; what is no frame is passed over."""
    finder = EgoFinder()
    for frame in itertools.islice(frames, MOST_FRAMES):
        if not isinstance(frame, str):
            finder.add(frame)
    return finder.polygons()


def seen_on_all(drives: Sequence[Sequence[Polygon]]) -> list[Polygon]:
    """Of what was found on drives of one camera the smallest; none where one of them shows none."""
    if not drives or not all(drives):
        return []
    found = [list(polygons) for polygons in drives]
    return min(found, key=lambda polygons: sum(polygon_mask(one, SIZE).sum() for one in polygons))


class EgoFinder:
    """What stays in place in the frames of a drive."""

    def __init__(self) -> None:
        """Start without any."""
        self._before: np.ndarray | None = None
        self._change = np.zeros(SIZE)
        self._contrast = np.zeros(SIZE)
        self._moved = 0

    def add(self, frame: Frame) -> None:
        """Take in the next frame; the vehicle's stops are left out."""
        small = cv2.resize(frame.bgr(), SIZE[::-1], interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
        before, self._before = self._before, grey
        if before is None or (change := np.abs(grey - before)).mean() < _MOVES:
            return
        mean = cv2.blur(grey, _WINDOW)
        self._contrast += np.sqrt(np.maximum(cv2.blur(grey * grey, _WINDOW) - mean * mean, 0))
        self._change += change
        self._moved += 1

    def polygons(self) -> list[Polygon]:
        """The vehicle, corners in shares of the picture; none where there is none to be seen."""
        if self._moved < _FEWEST:
            return []
        rows = self._edge()
        if rows is None or not self._is_quiet(rows):
            return []
        height, width = SIZE
        if np.sum(height - rows) < _SMALLEST * height * width:
            return []
        curve = np.stack([np.arange(width) + 0.5, rows], axis=1).astype(np.float32)
        corners = cv2.approxPolyDP(curve[:, None], 1.0, False)[:, 0] / (width, height)
        corners[0, 0], corners[-1, 0] = 0, 1
        outline = [*corners.tolist(), [1.0, 1.0], [0.0, 1.0]]
        return [[[round(x, 4), round(min(y, 1.0), 4)] for x, y in outline]]

    def _edge(self) -> np.ndarray | None:
        """Row of the upper rim of the lowest edge that stays, float [w]; None without one."""
        contrast, change = self._contrast / self._moved, self._change / self._moved
        steady = (contrast >= _CONTRAST) & (change <= _STEADY * contrast)
        steady[: int(_HIGHEST * SIZE[0])] = False
        there = steady.any(axis=0)
        if there.mean() < _COLUMNS:
            return None
        lowest = SIZE[0] - 1 - steady[::-1].argmax(axis=0)
        columns = np.flatnonzero(there)
        jumps = np.abs(np.diff(lowest[columns]))
        if np.mean(jumps <= _JUMP) < _COLUMNS:
            return None
        # Contrast is of windows: the edge itself lies in the middle of what they touch.
        rows = np.interp(np.arange(SIZE[1]), columns, lowest[columns] - _WINDOW[0] // 2)
        return np.asarray(rows)

    def _is_quiet(self, rows: np.ndarray) -> bool:
        """Whether below the edge far less changes than right above it."""
        place = np.arange(SIZE[0])[:, None]
        below = place > rows + _WINDOW[0]
        above = (place < rows - _WINDOW[0]) & (place >= rows - _BAND)
        if not (below.any() and above.any()):
            return False
        change = self._change
        return bool(np.median(change[below]) <= _QUIET * np.median(change[above]))
