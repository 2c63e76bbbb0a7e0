"""Obstacles over time: which of them are one thing, and for how many frames it has been there.

Matching is in the image, by centres and sizes: a frame may bring any object only about as far as it
is large. What was seen long enough is told on while it is missed for a frame or two, where its last
movement has brought it.
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
# Frames without an obstacle that do not end it. What was seen in more is told on in them.
PATIENCE = 2
# Weight of the last step in the movement: an outline changes from frame to frame.
_LAST = 0.5


@dataclass(slots=True)
class _Track:
    """One thing.

    around: summed up over the `judged` frames that knew it; moved: pixels a frame, x and y, of its
    centre.
    """

    number: int
    obstacle: Obstacle
    frames: int = 0
    missed: int = 0
    around: float = 0.0
    judged: int = 0
    moved: tuple[float, float] = (0.0, 0.0)

    def see(self, obstacle: Obstacle) -> None:
        if self.frames:
            right, down = (
                (now - before) / self.missed
                for now, before in zip(_centre(obstacle), _centre(self.obstacle), strict=True)
            )
            new = 1.0 if self.frames == 1 else _LAST
            self.moved = (
                new * right + (1 - new) * self.moved[0],
                new * down + (1 - new) * self.moved[1],
            )
        self.obstacle, self.missed = obstacle, 0
        self.frames += 1
        if obstacle.around is not None:
            self.around += obstacle.around
            self.judged += 1

    def told(self) -> Obstacle:
        around = self.around / self.judged if self.judged else None
        x, y, width, height = self.obstacle.box
        right, down = (self.missed * step for step in self.moved)
        return dataclasses.replace(
            self.obstacle,
            box=(x + right, y + down, width, height),
            track=self.number,
            frames=self.frames,
            around=around,
            missed=self.missed,
        )


class Tracks:
    """The obstacles of one camera from frame to frame; numbers are given once, from 1."""

    def __init__(self) -> None:
        """Start without any."""
        self._tracks: list[_Track] = []
        self._last = 0

    def update(self, obstacles: Sequence[Obstacle]) -> tuple[Obstacle, ...]:
        """The obstacles of the next frame, in order, with track, frames and the mean of around.

        The nearest pairs of centres match first, each obstacle and track once. Behind them stand
        those that were seen in more than PATIENCE frames and are missed in this one.
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
        missed = [track for track in kept if track.missed and track.frames > PATIENCE]
        return tuple(track.told() for track in [*seen, *missed])

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


def _centre(obstacle: Obstacle) -> tuple[float, float]:
    x, y, width, height = obstacle.box
    return x + width / 2, y + height / 2


def _distance(one: Obstacle, other: Obstacle) -> float:
    """Of the centres, in diagonals of the larger box; infinite where the sizes do not fit."""
    size, other_size = one.box[2:], other.box[2:]
    areas = sorted((math.prod(size), math.prod(other_size)))
    if areas[1] > GROWTH * areas[0]:
        return math.inf
    larger = max(math.hypot(*size), math.hypot(*other_size))
    return math.dist(_centre(one), _centre(other)) / larger
