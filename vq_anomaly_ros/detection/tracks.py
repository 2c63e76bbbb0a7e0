"""Obstacles over time: which of them are one thing, and for how many frames it has been there.

Matching is in the image, by centres and sizes: no motion model, so a frame may bring any object
only about as far as it is large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vq_anomaly_ros.detection.obstacles import Obstacle

# Centres apart by more than this share of the larger diagonal, areas by more than this factor, are
# two things.
REACH = 0.7
GROWTH = 6.0
# Frames without an obstacle that end it.
PATIENCE = 2


@dataclass(slots=True)
class _Track:
    """One thing; around: summed up over the `judged` frames that knew it."""

    number: int
    obstacle: Obstacle
    frames: int = 0
    missed: int = 0
    around: float = 0.0
    judged: int = 0

    def see(self, obstacle: Obstacle) -> None:
        self.obstacle, self.missed = obstacle, 0
        self.frames += 1
        if obstacle.around is not None:
            self.around += obstacle.around
            self.judged += 1

    def told(self) -> Obstacle:
        around = self.around / self.judged if self.judged else None
        return dataclasses.replace(
            self.obstacle, track=self.number, frames=self.frames, around=around
        )


class Tracks:
    """The obstacles of one camera from frame to frame; numbers are given once, from 1."""

    def __init__(self) -> None:
        """Start without any."""
        self._tracks: list[_Track] = []
        self._last = 0

    def update(self, obstacles: Sequence[Obstacle]) -> tuple[Obstacle, ...]:
        """The obstacles of the next frame, in order, with track, frames and the mean of around.

        The nearest pairs of centres match first, each obstacle and track once.
        """
        matches = self._matches(obstacles)
        for track in self._tracks:
            track.missed += 1
        seen = []
        for place, obstacle in enumerate(obstacles):
            track = self._tracks[matches[place]] if place in matches else self._new(obstacle)
            track.see(obstacle)
            seen.append(track)
        kept = [track for track in self._tracks if track.missed <= PATIENCE]
        self._tracks = kept + [track for track in seen if track.frames == 1]
        return tuple(track.told() for track in seen)

    def _new(self, obstacle: Obstacle) -> _Track:
        self._last += 1
        return _Track(self._last, obstacle)

    def _matches(self, obstacles: Sequence[Obstacle]) -> dict[int, int]:
        """{place of the obstacle: place of the track}."""
        pairs = sorted(
            (distance, number, place)
            for number, track in enumerate(self._tracks)
            for place, obstacle in enumerate(obstacles)
            if (distance := _distance(track.obstacle, obstacle)) <= REACH
        )
        matches: dict[int, int] = {}
        taken: set[int] = set()
        for _, number, place in pairs:
            if place not in matches and number not in taken:
                matches[place] = number
                taken.add(number)
        return matches


def _distance(one: Obstacle, other: Obstacle) -> float:
    """Of the centres, in diagonals of the larger box; infinite where the sizes do not fit."""
    x, y, width, height = one.box
    u, v, breadth, tall = other.box
    areas = sorted((width * height, breadth * tall))
    if areas[1] > GROWTH * areas[0]:
        return math.inf
    apart = math.hypot(x + width / 2 - u - breadth / 2, y + height / 2 - v - tall / 2)
    return apart / max(math.hypot(width, height), math.hypot(breadth, tall))
