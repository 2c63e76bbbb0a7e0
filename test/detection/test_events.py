"""Events: one rising edge a level, its words and its figures, and limits of the right camera."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection import events, model_file
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.drift import DriftError, DriftState, Figure
from vq_anomaly_ros.detection.events import (
    CameraWatch,
    DriftEdges,
    Event,
    ObstacleEdges,
    camera_watch,
)
from vq_anomaly_ros.detection.frame_signs import fingerprint, frame_signs, score_edges
from vq_anomaly_ros.detection.levels import Judgement, Level
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.images import Frame

STEP = 100_000_000
OK, WARN, ERROR = Level


def state(level: Level) -> DriftState:
    figures = {
        'texture': Figure(1.23456, 2.0, None, level, 1.5),
        'brightness': Figure(90.0, 50.0, 120.0, OK, 0.1),
    }
    return DriftState(Judgement(level, f'it is {level.name}'), figures)


@pytest.mark.parametrize(
    ('levels', 'expected'),
    [
        ([OK, OK], []),
        ([WARN, WARN, WARN], [(0, WARN)]),
        ([OK, WARN, ERROR, ERROR, WARN], [(1, WARN), (2, ERROR)]),
        ([ERROR, OK, WARN], [(0, ERROR), (2, WARN)]),
    ],
)
def test_an_event_is_a_rising_edge(levels: list[Level], expected: list[tuple[int, Level]]) -> None:
    edges = DriftEdges()
    found = [one for t, level in enumerate(levels) for one in edges.update(t, state(level))]
    assert [(one.stamp_ns, one.level) for one in found] == expected
    assert all(one.message == f'it is {one.level.name}' for one in found)
    assert all(one.figures == {'texture': 1.2346} for one in found)


def with_things(*things: tuple[int, int, float]) -> Detection:
    """A detection with these obstacles: track, frames, area."""
    obstacles = [
        Obstacle((10.0, 4.0, 4.0, 2.0), area, 0.9, 0.99, track=track, frames=frames)
        for track, frames, area in things
    ]
    return dataclasses.replace(detection(), obstacles=tuple(obstacles))


def test_a_thing_that_stays_is_told_once() -> None:
    edges = ObstacleEdges()
    found = [edges.update(t, with_things((7, t + 1, 0.01))) for t in range(30)]
    assert [t for t, events in enumerate(found) if events] == [4]
    (event,) = found[4]
    assert (event.kind, event.level) == ('obstacle', WARN)
    assert event.figures == {
        'objects': 1.0, 'track': 7.0, 'x': 12.0, 'y': 5.0, 'area': 0.01, 'score_max': 0.99
    }  # fmt: skip
    assert '1.00% of the picture stays in sight around (12, 5) of 32x16' in event.message


def test_things_that_come_together_are_one_event() -> None:
    edges = ObstacleEdges()
    assert 'and 1 more' in edges.update(0, with_things((1, 5, 0.02), (2, 6, 0.01)))[0].message
    assert edges.update(1, with_things((3, 5, 0.01))) == [], 'within ten frames'
    assert [edges.update(t, with_things()) for t in range(2, 11)] == [[]] * 9
    assert len(edges.update(11, with_things((3, 15, 0.01), (4, 5, 0.01)))) == 1
    assert edges.update(99, with_things((5, 1, 0.5))) == [], 'not yet'


def test_an_event_survives_json() -> None:
    event = Event(7, 'drift', ERROR, 'dark', {'brightness': 3.5})
    told = json.loads(json.dumps(event.to_dict()))
    assert told['level'] == 'ERROR'
    assert Event.from_dict({**told, 'frame_id': 'front'}) == event


def detection(shape: tuple[int, int] = (16, 32)) -> Detection:
    raw = np.full(shape, -0.6, np.float32)
    return Detection(None, raw, np.zeros(shape, np.uint8), raw, None)


def test_a_frozen_camera_is_told_without_a_calibration(
    tiny_model: Path, picture: Callable[..., np.ndarray]
) -> None:
    watch = CameraWatch(model_file.read(tiny_model).info)
    assert not watch.calibrated
    frame = Frame(picture(1), 'bgr')
    found = [event for t in range(20) for event in watch.see(t * STEP, frame, detection())]
    assert [(event.stamp_ns // STEP, event.level) for event in found] == [(5, WARN), (10, ERROR)]
    assert found[0].figures == {'frozen_s': 0.5}
    assert watch.drift.excesses == {'frozen': pytest.approx(1.9 / 0.5)}


def test_without_limits_nothing_but_the_fingerprint_is_read_off_a_frame(
    tiny_model: Path, picture: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = model_file.read(tiny_model).info
    frame = Frame(picture(1), 'bgr')
    signs = frame_signs(frame, detection(), info, score_edges(info))
    assert fingerprint(frame) == signs.fingerprint
    monkeypatch.setattr(events, 'frame_signs', None)
    watch = CameraWatch(info)
    found = [event for t in range(6) for event in watch.see(t * STEP, frame, detection())]
    assert [event.level for event in found] == [WARN], 'frozen is told all the same'


def test_damaged_limits_are_refused(tiny_model: Path) -> None:
    info = model_file.read(tiny_model).info

    @dataclasses.dataclass
    class File:
        drift: dict[str, Any]

    with pytest.raises(DriftError, match='calibrate again'):
        camera_watch(info, File({'/front/image_raw': {}}), '/front/image_raw')  # type: ignore[arg-type]
