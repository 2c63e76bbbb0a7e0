"""The study of obstacles: what counts as the dog, and the page holds what the JSON says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import obstacles
from training.maps_on_disk import Maps
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.detection.regions import ROAD
from vq_anomaly_ros.detection.scene import Scene, SceneConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def found() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / 'docs/benchmarks/obstacles.json').read_text())
    return found


def test_the_page_says_what_was_found(found: dict[str, Any]) -> None:
    page = (ROOT / 'docs/obstacles.md').read_text(encoding='utf-8')
    assert obstacles.markdown(found) in page


def test_the_boxes_are_of_the_drive() -> None:
    boxes = obstacles.read_boxes()
    assert len(boxes) == 48 and set(boxes) < set(range(54))
    assert not {39, 40, 41, 51, 52, 53} & set(boxes), 'the dog is hidden or gone'
    for x, y, width, height in boxes.values():
        assert 0 <= x < x + width <= 1280 and 0 <= y < y + height <= 720
        assert width > 20 and height > 20


def test_what_lies_on_a_thing() -> None:
    thing = (100.0, 100.0, 40.0, 40.0)
    assert obstacles.lies_on(thing, thing)
    assert obstacles.lies_on((110.0, 110.0, 10.0, 10.0), thing)
    assert obstacles.lies_on((80.0, 80.0, 80.0, 80.0), thing)
    assert not obstacles.lies_on((135.0, 100.0, 40.0, 40.0), thing)
    everything = (0.0, 0.0, 400.0, 400.0)
    assert not obstacles.lies_on(everything, thing), 'all of the picture is no find'


def frame(place: int, *told: tuple[int, float, int]) -> obstacles.Shown:
    """A frame with obstacles: number, left edge, frames so far."""
    score = np.ones((4, 4), np.float32)
    things = tuple(
        Obstacle((x, 0.0, 10.0, 10.0), 0.1, 1.0, 1.0, track=number, frames=frames)
        for number, x, frames in told
    )
    return obstacles.Shown(place, Detection(None, score, score, score, None, things))


def test_the_dog_is_counted_in_the_frames_that_show_it() -> None:
    boxes = {0: (0.0, 0.0, 10.0, 10.0), 1: (0.0, 0.0, 10.0, 10.0), 2: (50.0, 0.0, 10.0, 10.0)}
    shown = [
        frame(0, (1, 2.0, 1)),
        frame(1, (1, 1.0, 2), (2, 90.0, 1)),
        frame(2, (1, 2.0, 3)),
        frame(3, (2, 90.0, 2)),
    ]
    assert obstacles.dog_figures(shown, boxes) == {
        'frames': 3,
        'found': 2,
        'share': 2 / 3,
        'numbers': 1,
        'others': 1,
        'frames_with_others': 2,
    }
    later = [obstacles.persisting(one, 2) for one in shown]
    assert obstacles.dog_figures(later, boxes)['found'] == 1
    assert {number: len(seen) for number, seen in obstacles.things(later).items()} == {1: 2, 2: 1}


def test_a_thing_on_the_road_is_told_from_its_maps(tiny_info: ModelInfo) -> None:
    info = dataclasses.replace(tiny_info, input_size=(256, 512), score_range=(-1.0, 1.0))
    height, width = info.map_size
    rng = np.random.default_rng(0)
    raw = rng.normal(-0.4, 0.05, (30, height, width)).astype(np.float32)
    labels = np.full((30, height, width), info.classes.index('tree'), np.uint8)
    labels[:, height // 2 :] = info.classes.index('road')
    table = obstacles.road_calibration(info, Maps(raw, labels), range(20))
    assert isinstance(table, Calibration)
    assert table.pixels == pytest.approx(20 * height * width / 2, rel=0.05)
    raw[20:, 40:50, 60:66] = 0.5
    labels[20:, 40:50, 60:66] = info.classes.index('car')
    scene = Scene(SceneConfig(ROAD, persistence=3, obstacle_growth=1.0), info)
    maps = Maps(raw, labels)
    shown = list(obstacles.run(maps, range(15, 30), table, 1e-3, scene, (640, 1280)))
    with_things = [one.place for one in shown if one.obstacles]
    assert with_things == list(range(22, 30))
    (thing,) = shown[-1].obstacles
    assert thing.box == (600.0, 400.0, 60.0, 100.0) and thing.frames == 10
    assert len(obstacles.flicker_of(shown)) == 13


def test_data_that_are_not_there_are_named(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert obstacles.main(['--data', str(tmp_path), '--model', str(tiny_model)]) == 2
    assert 'check --data' in capsys.readouterr().err
