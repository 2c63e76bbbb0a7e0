"""Obstacles over time: what is one thing, what ends it, and what a scene tells of it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle, find_obstacles, least_areas
from vq_anomaly_ros.detection.regions import ROAD, Region
from vq_anomaly_ros.detection.scene import Scene, SceneConfig, scene_of
from vq_anomaly_ros.detection.tracks import PATIENCE, Tracks

SIZE = (40, 80)


def thing(x: float, y: float, side: float = 10, around: float | None = None) -> Obstacle:
    return Obstacle((x, y, side, side), 0.01, 0.9, 0.99, around=around)


def numbers(found: tuple[Obstacle, ...]) -> list[tuple[int | None, int]]:
    return [(one.track, one.frames) for one in found]


def test_things_keep_their_numbers_as_they_move() -> None:
    tracks = Tracks()
    for step in range(5):
        found = tracks.update([thing(10 + 5 * step, 50), thing(200 - 5 * step, 52)])
        assert numbers(found) == [(1, step + 1), (2, step + 1)]
    # In another order they are the same.
    assert numbers(tracks.update([thing(175, 52), thing(35, 50)])) == [(2, 6), (1, 6)]


def test_what_jumps_or_grows_too_much_is_another_thing() -> None:
    tracks = Tracks()
    tracks.update([thing(10, 10)])
    assert numbers(tracks.update([thing(40, 10)])) == [(2, 1)]
    assert numbers(tracks.update([thing(35, 5, side=30)])) == [(3, 1)]


def test_a_gap_is_bridged_and_a_long_one_ends_it() -> None:
    tracks = Tracks()
    tracks.update([thing(10, 10)])
    for _ in range(PATIENCE):
        assert tracks.update([]) == ()
    assert numbers(tracks.update([thing(10, 10)])) == [(1, 2)]
    for _ in range(PATIENCE + 1):
        tracks.update([])
    assert numbers(tracks.update([thing(10, 10)])) == [(2, 1)]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6), max_size=12)
)
def test_no_number_is_given_twice_in_a_frame_or_again(frames: list[list[tuple[int, int]]]) -> None:
    tracks, highest, ages = Tracks(), 0, {}
    for places in frames:
        every = tracks.update([thing(x, y) for x, y in places])
        assert len({one.track for one in every}) == len(every)
        found = [one for one in every if not one.missed]
        assert [one.box[:2] for one in found] == places
        assert all(one.frames > PATIENCE >= one.missed for one in every[len(found) :])
        given_now = [one.track for one in found]
        assert len(set(given_now)) == len(given_now)
        for one in found:
            assert one.track is not None
            assert one.frames == ages.get(one.track, 0) + 1
            assert one.frames > 1 or one.track > highest
            ages[one.track] = one.frames
        highest = max([highest, *ages])


def test_what_was_seen_long_enough_is_told_on_where_it_has_moved_to() -> None:
    tracks = Tracks()
    for step in range(PATIENCE + 1):
        tracks.update([thing(10 + 2 * step, 50 - step)])
    for missed in range(1, PATIENCE + 1):
        (found,) = tracks.update([])
        step = PATIENCE + missed
        assert (found.track, found.frames, found.missed) == (1, PATIENCE + 1, missed)
        assert found.box == pytest.approx((10 + 2 * step, 50 - step, 10, 10))
    # Seen again: its movement is that of the frames between, too.
    (found,) = tracks.update([thing(10 + 2 * (step + 1), 50 - step - 1)])
    assert (found.track, found.missed) == (1, 0)
    (found,) = tracks.update([])
    assert found.box[:2] == pytest.approx((10 + 2 * (step + 2), 50 - step - 2))
    for _ in range(PATIENCE):
        last = tracks.update([])
    assert last == ()


def test_a_thing_that_is_told_already_does_not_flicker() -> None:
    info = SimpleNamespace(classes=(), map_size=SIZE)
    scene = Scene(SceneConfig(persistence=3), info)  # type: ignore[arg-type]
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20, 30:40] = 255
    seen = [mask, mask, mask, 0 * mask, mask, 0 * mask, 0 * mask, 0 * mask]
    told = [scene.obstacles(one, np.ones(SIZE, np.float32), None, SIZE, 0.001) for one in seen]
    assert [len(one) for one in told] == [0, 0, 1, 1, 1, 1, 1, 0]
    assert [one.missed for some in told for one in some] == [0, 1, 0, 1, 2]


def test_the_ground_around_is_the_mean_over_its_frames() -> None:
    tracks = Tracks()
    values = [1.0, 0.5, 0.0]
    found = [tracks.update([thing(10, 10, around=value)])[0].around for value in values]
    assert found == pytest.approx([1.0, 0.75, 0.5])


def test_the_least_area_grows_with_nearness() -> None:
    found = least_areas(np.array([0.0, 0.5, 0.75, 1.0]), 1e-3, 3.0)
    assert found == pytest.approx([1e-3, 1e-3, 6.25e-3, 1.6e-2])
    assert least_areas(np.array([1.0]), 1e-3, 0.0) == pytest.approx(1e-3)


def test_a_near_part_has_to_be_larger() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:14, 10:14] = 255
    mask[36:, 50:54] = 255
    score = np.ones(SIZE, np.float32)
    both = find_obstacles(mask, score, None, SIZE, 16 / 3200)
    (far,) = find_obstacles(mask, score, None, SIZE, 16 / 3200, growth=1.0)
    assert len(both) == 2 and far.box == (10, 10, 4, 4)


@pytest.fixture
def info(tiny_info: ModelInfo) -> ModelInfo:
    """With a score map that things on the road fit into."""
    return dataclasses.replace(tiny_info, input_size=(256, 512))


def street(info: ModelInfo) -> np.ndarray:
    """Labels of the tiny model's size: trees, then a road from the middle row on."""
    height, width = info.map_size
    labels = np.full((height, width), info.classes.index('tree'), np.uint8)
    labels[height // 2 :] = info.classes.index('road')
    return labels


def upright(info: ModelInfo) -> tuple[np.ndarray, np.ndarray]:
    """Labels and mask of a thing that stands on the road."""
    labels, mask = street(info), np.zeros(info.map_size, np.uint8)
    middle = info.map_size[0] // 2
    labels[middle - 2 : middle + 3, 10:14] = info.classes.index('person')
    mask[middle - 2 : middle + 3, 10:14] = 255
    return labels, mask


def test_a_thing_on_the_road_is_told_when_it_persists(info: ModelInfo) -> None:
    scene = Scene(SceneConfig(ROAD, persistence=3), info)
    labels, mask = upright(info)
    score = np.ones(info.map_size, np.float32)
    told = []
    for _ in range(4):
        counted, region = scene.alarms(mask, labels)
        assert region is not None and np.array_equal(counted, mask)
        told.append(scene.obstacles(counted, score, labels, SIZE, 0.0))
    assert [len(one) for one in told] == [0, 0, 1, 1]
    (thing_told,) = told[-1]
    assert (thing_told.track, thing_told.frames) == (1, 4)
    assert thing_told.around == 1.0 and thing_told.class_id == info.classes.index('person')


def test_what_lies_flat_on_the_road_is_no_obstacle(info: ModelInfo) -> None:
    """A cover, labelled road, stays in the mask and is not told."""
    scene = Scene(SceneConfig(ROAD), info)
    labels, mask = street(info), np.zeros(info.map_size, np.uint8)
    mask[50:52, 5:15] = 255
    counted, _ = scene.alarms(mask, labels)
    score = np.ones(info.map_size, np.float32)
    assert counted.any() and scene.obstacles(counted, score, labels, SIZE, 0.0) == ()
    everywhere = Scene(SceneConfig(), info)
    assert len(everywhere.obstacles(mask, score, labels, SIZE, 0.0)) == 1


def test_what_stands_beside_the_road_is_no_obstacle(info: ModelInfo) -> None:
    labels, mask = upright(info)
    labels[:, 6:10] = labels[:, 14:18] = info.classes.index('tree')
    labels[35:, 6:18] = info.classes.index('tree')
    scene = Scene(SceneConfig(ROAD), info)
    score = np.ones(info.map_size, np.float32)
    assert scene.obstacles(mask, score, labels, SIZE, 0.0) == ()


def test_the_score_is_smoothed_over_frames(info: ModelInfo) -> None:
    scene = Scene(SceneConfig(smoothing=0.75), info)
    first, second = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert np.array_equal(scene.smoothed(first), first)
    assert scene.smoothed(second) == pytest.approx(np.full((2, 3), 0.25))
    assert scene.smoothed(second) == pytest.approx(np.full((2, 3), 0.4375))
    scene.config = SceneConfig()
    assert scene.smoothed(first) is first


def test_a_scene_takes_what_the_calibration_knows(info: ModelInfo) -> None:
    ego = [[[0.0, 0.9], [1.0, 0.9], [1.0, 1.0]]]
    file = SimpleNamespace(regions={'/front/image_raw': {'region': 'road', 'ego': ego}})
    config = SceneConfig(persistence=2)
    known = scene_of(config, None, info, file, '/front/image_raw').config  # type: ignore[arg-type]
    assert known == dataclasses.replace(config, region=ROAD, ego=ego)
    drawn = Region('polygon', ((0, 0), (1, 0), (1, 1)))
    found = scene_of(config, drawn, info, file, '/front/image_raw').config  # type: ignore[arg-type]
    assert found.region == drawn and found.ego
    assert scene_of(config, None, info, None, '/a').config.region == config.region
