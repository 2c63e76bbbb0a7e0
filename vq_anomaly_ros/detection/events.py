"""What watches over a camera beside the detector: its drift monitor, and the events of it.

An event is a rising edge: the first frame of WARN, or of ERROR, after something better; or the
frame at which an unknown object has stayed in sight for some time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vq_anomaly_ros.detection.calibration_file import CalibrationFile
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.drift import Baseline, DriftMonitor, DriftState, baseline_for
from vq_anomaly_ros.detection.frame_signs import fingerprint, frame_signs, score_edges
from vq_anomaly_ros.detection.levels import Level
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.images import Frame

DRIFT, OBSTACLE = 'drift', 'obstacle'
# Frames in which a thing was seen that make it an event; things that follow within so many frames
# belong to it.
STAYS = 5
_RESTS = 10


@dataclass(frozen=True)
class Event:
    """A rising edge.

    stamp_ns: of the frame at which it rose; kind: DRIFT or OBSTACLE; level: WARN or ERROR; message:
    a sentence; figures: {name: number}, of what is out of its limits or of the largest new thing.
    """

    stamp_ns: int
    kind: str
    level: Level
    message: str
    figures: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields; the level by its name."""
        return {**vars(self), 'level': self.level.name, 'figures': dict(self.figures)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Event:
        """The event that to_dict wrote; KeyError, TypeError or ValueError for anything else."""
        known = {name: fields[name] for name in ('kind', 'message', 'figures')}
        return cls(stamp_ns=int(fields['stamp_ns']), level=Level[fields['level']], **known)


class DriftEdges:
    """Rising edges of a drift state: each level above the one of the frame before."""

    def __init__(self) -> None:
        """Start at OK."""
        self._level = Level.OK

    def update(self, stamp_ns: int, state: DriftState) -> list[Event]:
        """Take in the state at a frame; return the event, if there is one."""
        before, self._level = self._level, state.judgement.level
        if self._level <= before:
            return []
        figures = {
            name: round(figure.value, 4)
            for name, figure in state.figures.items()
            if figure.level is not Level.OK
        }
        if state.frozen_s:
            figures['frozen_s'] = round(state.frozen_s, 3)
        return [Event(stamp_ns, DRIFT, self._level, state.judgement.message, figures)]


class ObstacleEdges:
    """Things that have been in sight for STAYS frames, each told once."""

    def __init__(self) -> None:
        """Start without any."""
        self._told: set[int] = set()
        self._rest = 0

    def update(self, stamp_ns: int, detection: Detection) -> list[Event]:
        """Take in what was detected in the next frame; return the event, if there is one."""
        self._rest = max(0, self._rest - 1)
        stay = [
            one
            for one in detection.obstacles
            if one.track is not None and one.frames >= STAYS and one.track not in self._told
        ]
        if not stay:
            return []
        self._told.update(one.track for one in stay if one.track is not None)
        if self._rest:
            return []
        self._rest = _RESTS
        return [_obstacle_event(stamp_ns, stay, detection.score.shape)]


def _obstacle_event(stamp_ns: int, stay: Sequence[Obstacle], size: tuple[int, ...]) -> Event:
    """The event of things, the largest first, in a picture of `size` (height, width)."""
    largest = stay[0]
    x, y, width, height = largest.box
    figures = {
        'objects': float(len(stay)),
        'track': float(largest.track or 0),
        'x': round(x + width / 2, 1),
        'y': round(y + height / 2, 1),
        'area': round(largest.area, 6),
        'score_max': round(largest.score_max, 6),
    }
    more = f', and {len(stay) - 1} more' if len(stay) > 1 else ''
    message = (
        f'an unknown object of {largest.area:.2%} of the picture stays in sight around '
        f'({figures["x"]:.0f}, {figures["y"]:.0f}) of {size[1]}x{size[0]} pixels{more}'
    )
    return Event(stamp_ns, OBSTACLE, Level.WARN, message, figures)


class CameraWatch:
    """Takes in every frame of one camera with what was detected in it."""

    def __init__(self, info: ModelInfo, baseline: Baseline | None = None) -> None:
        """Watch a camera of the model `info`; raises DriftError for a baseline of another one."""
        self._info = info
        self._score_edges = score_edges(info)
        if baseline is not None:
            baseline.check(len(self._score_edges) + 1)
        self._monitor = DriftMonitor(baseline)
        self._edges = DriftEdges()
        self._obstacles = ObstacleEdges()

    @property
    def drift(self) -> DriftState:
        """State after the last frame; may be read by another thread."""
        return self._monitor.state

    @property
    def calibrated(self) -> bool:
        """Whether there are limits; without them only frozen frames are told."""
        return self._monitor.baseline is not None

    def see(self, stamp_ns: int, frame: Frame, detection: Detection) -> list[Event]:
        """Take in the next frame and what was detected in it; return the events that begin."""
        if self.calibrated:
            signs = frame_signs(frame, detection, self._info, self._score_edges)
            state = self._monitor.update(stamp_ns, signs)
        else:
            state = self._monitor.update_frozen(stamp_ns, fingerprint(frame))
        return [
            *self._edges.update(stamp_ns, state),
            *self._obstacles.update(stamp_ns, detection),
        ]


def camera_watch(info: ModelInfo, file: CalibrationFile | None, topic: str) -> CameraWatch:
    """What watches the camera of an image topic, with the limits of a calibration that has some.

    Raises DriftError for limits that cannot be used.
    """
    return CameraWatch(info, baseline_for(file.drift if file is not None else None, topic))
