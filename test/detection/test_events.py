"""Events: one rising edge a level, its words and its figures, and limits of the right camera."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.drift import DriftError, DriftState, Figure
from vq_anomaly_ros.detection.events import CameraWatch, DriftEdges, Event, camera_watch
from vq_anomaly_ros.detection.levels import Judgement, Level
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


def test_damaged_limits_are_refused(tiny_model: Path) -> None:
    info = model_file.read(tiny_model).info

    @dataclasses.dataclass
    class File:
        drift: dict[str, Any]

    with pytest.raises(DriftError, match='calibrate again'):
        camera_watch(info, File({'/front/image_raw': {}}), '/front/image_raw')  # type: ignore[arg-type]
