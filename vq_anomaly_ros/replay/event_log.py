"""The events of a drive as a report tells them: when, on which camera, what, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vq_anomaly_ros.detection.events import Event
from vq_anomaly_ros.replay.frame_results import FrameResult
from vq_anomaly_ros.replay.gallery import data_uri

# A drive with more events than this has a fault that does not go; the others are told without one.
_PICTURES = 12
_WIDTH = 480


@dataclass(frozen=True)
class LoggedEvent:
    """An event of a drive; picture: a JPEG data URI of its frame with overlay, or ''."""

    source: str
    topic: str
    event: Event
    picture: str = ''

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields of it, without the picture."""
        return {'source': self.source, 'topic': self.topic, **self.event.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any], picture: str) -> LoggedEvent:
        """The event that to_dict wrote; KeyError, TypeError or ValueError for anything else."""
        return cls(fields['source'], fields['topic'], Event.from_dict(fields), str(picture))


def logged(result: FrameResult, painted: np.ndarray, already: int) -> list[LoggedEvent]:
    """Return the events of a frame.

    Args:
        result: of the frame.
        painted: its overlay, uint8 BGR [H, W, 3].
        already: how many events of the drive have been logged.
    """
    if not result.events:
        return []
    picture = _small(painted) if already < _PICTURES else ''
    return [LoggedEvent(result.source, result.topic, event, picture) for event in result.events]


def _small(painted: np.ndarray) -> str:
    height, width = painted.shape[:2]
    scale = min(1.0, _WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return data_uri(cv2.resize(painted, size, interpolation=cv2.INTER_AREA))
