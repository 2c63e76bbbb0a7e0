"""Drift monitor: faults on a drive that is made here, closed forms, round trips, rubbish."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from vq_anomaly_ros.detection import drift
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.drift import (
    STATISTICS,
    Baseline,
    DriftError,
    DriftMonitor,
    FrozenRun,
    Learner,
    Limit,
    Window,
    baseline_for,
    change,
    divergence,
)
from vq_anomaly_ros.detection.frame_signs import FrameSigns, frame_signs, score_edges
from vq_anomaly_ros.detection.levels import Level
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.faults import FAULTS, faulty

STEP = 100_000_000  # ns: 10 Hz
SIZE = (180, 320)


@pytest.fixture(scope='module')
def signs_of(tiny_info: ModelInfo) -> Callable[..., list[FrameSigns]]:
    """signs_of(pictures, shift=0): their signs, with raw scores of that mean."""
    edges = score_edges(tiny_info)

    def make(pictures: Sequence[np.ndarray], shift: float = 0.0) -> list[FrameSigns]:
        rng = np.random.default_rng(1)
        made = []
        for picture in pictures:
            raw = np.clip(rng.normal(shift - 0.6, 0.1, (16, 32)), -1, 1).astype(np.float32)
            codes = rng.integers(0, 12, (16, 32)).astype(np.int32)
            detection = Detection(None, raw, np.zeros((16, 32), np.uint8), raw, codes)
            made.append(frame_signs(Frame(picture, 'bgr'), detection, tiny_info, edges))
        return made

    return make


def learnt(signs: Sequence[FrameSigns]) -> Baseline:
    learner = Learner()
    learner.add_drive((place * STEP, one) for place, one in enumerate(signs))
    return learner.baseline()


def run(monitor: DriftMonitor, signs: Sequence[FrameSigns], first: int = 0) -> list[Level]:
    return [
        monitor.update((first + place) * STEP, one).judgement.level
        for place, one in enumerate(signs)
    ]


@pytest.fixture(scope='module')
def baseline(road_drive: Any, signs_of: Any) -> Baseline:
    return learnt(signs_of(road_drive(0, 80)))


def test_the_rest_of_the_drive_is_calm(baseline: Baseline, road_drive: Any, signs_of: Any) -> None:
    monitor = DriftMonitor(baseline)
    assert set(run(monitor, signs_of(road_drive(80, 60)))) == {Level.OK}
    assert set(monitor.state.figures) == set(STATISTICS)
    assert monitor.state.judgement.message == 'as on the calibration drive'


# A drop shows a picture of what is around it: on this road, that of the road again.
@pytest.mark.parametrize('fault', sorted(set(FAULTS) - {'drops'}))
def test_a_faulty_camera_is_told_within_two_seconds(
    fault: str, baseline: Baseline, road_drive: Any, signs_of: Any
) -> None:
    pictures = road_drive(80, 40)
    bad = [faulty(picture, fault, 3, place) for place, picture in enumerate(pictures[20:])]
    monitor = DriftMonitor(baseline)
    before = run(monitor, signs_of(pictures[:20]))
    after = run(monitor, signs_of(bad), 20)
    assert set(before) == {Level.OK}
    assert after[-1] is not Level.OK


def test_the_sentence_names_what_is_wrong_and_the_limit(
    baseline: Baseline, road_drive: Any, signs_of: Any
) -> None:
    monitor = DriftMonitor(baseline)
    run(monitor, signs_of([faulty(picture, 'blur', 4) for picture in road_drive(80, 12)]))
    assert monitor.state.judgement.level is Level.ERROR
    assert 'sharpness' in monitor.state.judgement.message
    figure = monitor.state.figures['sharpness']
    assert figure.low is not None and figure.value < figure.low
    assert f'{figure.low:.4g}' in monitor.state.judgement.message


def test_other_scores_on_the_same_pictures_are_told(
    baseline: Baseline, road_drive: Any, signs_of: Any
) -> None:
    monitor = DriftMonitor(baseline)
    run(monitor, signs_of(road_drive(80, 15), shift=0.3))
    told = {n for n, figure in monitor.state.figures.items() if figure.level is not Level.OK}
    assert {'alarms', 'raised', 'scores'} <= told
    assert not told & {'brightness', 'sharpness', 'pattern', 'codes'}


def test_it_recovers_only_after_two_windows_of_calm(
    baseline: Baseline, road_drive: Any, signs_of: Any
) -> None:
    monitor = DriftMonitor(baseline)
    run(monitor, signs_of([faulty(p, 'underexposure', 4) for p in road_drive(80, 15)]))
    assert monitor.state.judgement.level is Level.ERROR
    levels = run(monitor, signs_of(road_drive(95, 60)), 15)
    calm = levels.index(Level.OK)
    assert 2 * drift.WINDOW <= calm < 4 * drift.WINDOW
    assert set(levels[calm:]) == {Level.OK}


def test_a_frozen_camera_is_told_without_a_baseline(road_drive: Any, signs_of: Any) -> None:
    (one, other) = signs_of(road_drive(0, 2))
    monitor = DriftMonitor()
    assert 'not calibrated' in monitor.state.judgement.message
    levels = run(monitor, [one, *[other] * 15])
    assert levels[:5] == [Level.OK] * 5
    assert levels[6] is Level.WARN and levels[-1] is Level.ERROR
    assert monitor.state.figures == {}


def test_a_drive_that_stood_still_may_stand_as_long_again(road_drive: Any, signs_of: Any) -> None:
    signs = signs_of(road_drive(0, 40))
    standing = [*signs[:20], *[signs[19]] * 30, *signs[20:]]
    monitor = DriftMonitor(learnt(standing))
    assert monitor.frozen_limit_s == pytest.approx(6.0)
    levels = run(monitor, [*signs[:20], *[signs[19]] * 70])
    assert levels[20 + 55] is Level.OK
    assert levels[-1] is Level.WARN


def test_stamps_that_do_not_advance_freeze_nothing(road_drive: Any, signs_of: Any) -> None:
    (one,) = signs_of(road_drive(0, 1))
    monitor = DriftMonitor()
    assert {monitor.update(7, one).judgement.level for _ in range(50)} == {Level.OK}


def test_a_camera_without_stamps_is_judged_all_the_same(
    baseline: Baseline, road_drive: Any, signs_of: Any
) -> None:
    monitor = DriftMonitor(baseline)
    states = [monitor.update(0, one) for one in signs_of(road_drive(80, 20))]
    assert {state.judgement.level for state in states} == {Level.OK}
    bad = [faulty(picture, 'fog', 4) for picture in road_drive(100, 12)]
    assert [monitor.update(0, one) for one in signs_of(bad)][-1].judgement.level is Level.ERROR


def test_a_bag_that_starts_again_starts_the_monitor_again(
    baseline: Baseline, road_drive: Any, signs_of: Any
) -> None:
    monitor = DriftMonitor(baseline)
    run(monitor, signs_of([faulty(p, 'underexposure', 4) for p in road_drive(80, 15)]), first=1000)
    state = monitor.update(0, signs_of(road_drive(0, 1))[0])
    assert state.judgement.level is Level.OK
    assert state.figures == {}


def test_a_baseline_survives_json(baseline: Baseline, road_drive: Any, signs_of: Any) -> None:
    again = Baseline.from_dict(json.loads(json.dumps(baseline.to_dict(), allow_nan=False)))
    assert again.to_dict() == baseline.to_dict()
    signs = signs_of([faulty(picture, 'dirt', 2) for picture in road_drive(80, 15)])
    one, other = DriftMonitor(baseline), DriftMonitor(again)
    for place, frame in enumerate(signs):
        assert one.update(place * STEP, frame) == other.update(place * STEP, frame)


@pytest.mark.parametrize(
    'change_of',
    [
        {'scores': [0.5, 0.6]},
        {'scores': 'many'},
        {'cells': [[0.0]]},
        {'still': -1.0},
        {'limits': {'smell': [0.0, -1.0, 1.0]}},
        {'limits': {'blue': [0.0, 1.0, 2.0]}},
        {'limits': {'blue': [0.0]}},
        {'limits': None},
        {'frames': None},
    ],
)
def test_a_damaged_baseline_is_refused(baseline: Baseline, change_of: dict[str, Any]) -> None:
    with pytest.raises(DriftError, match='calibrate again'):
        Baseline.from_dict({**baseline.to_dict(), **change_of})


def test_a_baseline_of_another_model_is_refused(baseline: Baseline) -> None:
    with pytest.raises(DriftError, match='calibrate the model'):
        baseline.check(7)


def test_the_baseline_of_the_topic_or_the_only_one(baseline: Baseline) -> None:
    fields = baseline.to_dict()
    other = {**fields, 'frames': 7}
    found = baseline_for({'/a/image_raw': fields, '/b/image_raw': other}, '/b/image_raw')
    assert found is not None and found.frames == 7
    assert baseline_for({'/a/image_raw': fields, '/b/image_raw': other}, '/c/image_raw') is None
    assert baseline_for({'/a/image_raw': fields}, '/c/image_raw') is not None
    assert baseline_for(None, '/c/image_raw') is None
    compressed = {'/a/image_raw/compressed': fields, '/b/image_raw': other}
    found = [baseline_for(compressed, f'/{c}/image_raw{end}') for c, end in _ENDS]
    assert [one is not None and one.frames for one in found] == [fields['frames'], 7, False]


_ENDS = (('a', ''), ('b', '/compressed'), ('c', '/compressed'))


def test_learners_put_together_teach_what_one_would_have_learnt(
    road_drive: Any, signs_of: Any
) -> None:
    drives = [signs_of(road_drive(0, 30)), signs_of(road_drive(40, 130))]
    one, together = Learner(), Learner()
    for signs in drives:
        stamped = [(place * STEP, one_of) for place, one_of in enumerate(signs)]
        one.add_drive(stamped)
        part = Learner()
        for stamp_ns, one_of in stamped:
            part.add(stamp_ns, one_of)
        together.add_learnt(copy.deepcopy(part))
    assert together.baseline().to_dict() == one.baseline().to_dict()


@pytest.mark.parametrize('count', [0, 1, 9])
def test_too_few_frames_teach_nothing(count: int, road_drive: Any, signs_of: Any) -> None:
    with pytest.raises(DriftError, match=r'^\d different frames'):
        learnt(signs_of(road_drive(0, count)))


def test_frames_that_are_all_equal_teach_nothing(road_drive: Any, signs_of: Any) -> None:
    with pytest.raises(DriftError, match=r'^[01] different'):
        learnt(signs_of(road_drive(0, 1)) * 50)
    learner = Learner()
    for one in signs_of(road_drive(0, 1)) * 50:
        learner.add(0, one)
    with pytest.raises(DriftError, match=r'^1 different'):
        learner.baseline()


def test_short_drives_teach(road_drive: Any, signs_of: Any) -> None:
    baseline = learnt(signs_of(road_drive(0, 10)))
    assert set(baseline.limits) == set(STATISTICS)
    assert set(run(DriftMonitor(baseline), signs_of(road_drive(0, 10)))) == {Level.OK}


def test_a_long_drive_is_thinned_evenly(
    road_drive: Any, signs_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, '_STRETCH', 10)
    monkeypatch.setattr(drift, '_MOST_FRAMES', 40)
    signs = signs_of(road_drive(0, 160))
    baseline = learnt(signs)
    assert 20 <= baseline.frames <= 40
    by_hand = learnt([one for start in range(0, 160, 40) for one in signs[start : start + 10]])
    assert baseline.reference.scores == pytest.approx(by_hand.reference.scores)


@pytest.mark.parametrize(('order', 'code'), [('rgb', cv2.COLOR_BGR2RGB), ('mono', None)])
def test_the_order_of_the_channels_does_not_matter(
    order: Any, code: int | None, road_drive: Any, signs_of: Any, tiny_info: ModelInfo
) -> None:
    (picture,) = road_drive(5, 1)
    raw = np.zeros((16, 32), np.float32)
    detection = Detection(None, raw, raw.astype(np.uint8), raw, None)
    edges = score_edges(tiny_info)
    if code is None:
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        picture, pixels = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), grey
    else:
        pixels = cv2.cvtColor(picture, code)
    one = frame_signs(Frame(picture, 'bgr'), detection, tiny_info, edges)
    other = frame_signs(Frame(pixels, order), detection, tiny_info, edges)
    assert one.picture == pytest.approx(other.picture, abs=1e-6)
    assert np.array_equal(one.edges, other.edges)
    assert one.codes is None


def test_what_is_the_same_in_all_frames_is_the_pattern(road_drive: Any, signs_of: Any) -> None:
    signs = signs_of(road_drive(0, 60)[::6])
    window = Window()
    for one in signs:
        window.add(one, 0.0)
    moving = window._pattern()
    assert moving is not None and abs(moving) < 0.1
    same = Window()
    for _ in range(5):
        same.add(signs[0], -1.0)
    assert same._pattern() == pytest.approx(1.0)
    half = Window()  # half of the energy stays
    rng = np.random.default_rng(0)
    fixed = rng.integers(-9, 10, (2, 64, 128))
    for _ in range(10):
        edges = (fixed + rng.permutation(fixed.ravel()).reshape(fixed.shape)).astype(np.int8)
        half.add(dataclasses.replace(signs[0], edges=edges), 0.0)
    assert half._pattern() == pytest.approx(0.5, abs=0.03)


def test_a_standing_camera_counts_one_frame_only(road_drive: Any, signs_of: Any) -> None:
    (one,) = signs_of(road_drive(0, 1))
    window = Window()
    for _ in range(20):
        window.add(one, 0.1)
    assert window._pattern() is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_a_frozen_run_counts_what_repeats(fingerprints: list[int]) -> None:
    run = FrozenRun()
    for place, fingerprint in enumerate(fingerprints):
        run.add(place * STEP, fingerprint)
    same = 0
    for fingerprint in reversed(fingerprints[:-1]):
        if fingerprint != fingerprints[-1]:
            break
        same += 1
    assert run.repeats == same
    assert run.seconds == pytest.approx(0.1 * same)


SHARES = arrays(np.float64, 8, elements=st.floats(0, 1)).filter(lambda a: a.sum() > 0.1)


@given(SHARES, SHARES)
def test_the_divergence_is_that_of_scipy(one: np.ndarray, other: np.ndarray) -> None:
    one, other = one / one.sum(), other / other.sum()
    expected = float(np.nan_to_num(jensenshannon(one, other))) ** 2
    assert divergence(one, other) == pytest.approx(expected, abs=1e-7)
    assert 0 <= divergence(one, other) <= np.log(2) + 1e-9


@given(arrays(np.int8, (2, 4, 4)), arrays(np.int8, (2, 4, 4)))
def test_change_is_a_share(one: np.ndarray, other: np.ndarray) -> None:
    assert change(one, one) == 0
    assert change(one, other) == change(other, one)
    assert 0 <= change(one, other) <= 1


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0.01, 5), st.floats(-20, 20))
def test_levels_lie_around_the_median(median: float, down: float, up: float, value: float) -> None:
    limit = Limit(median, median - down, median + up)
    distance = (value - median) / (up if value > median else -down)
    expected = Level.ERROR if distance > 2 else Level.WARN if distance > 1 else Level.OK
    if min(abs(distance - 1), abs(distance - 2)) > 1e-9:
        assert limit.level(value) is expected
    if value > median:
        assert Limit(median, median - down, None).level(value) is Level.OK


def test_the_real_motorway_is_calm_and_fog_is_told(shared_data: Path, tiny_info: ModelInfo) -> None:
    """Pictures alone, with the scores of nothing: a few frames, no engine."""
    video = cv2.VideoCapture(str(shared_data / 'drive_motorway' / 'solidWhiteRight.mp4'))
    pictures = [video.read()[1] for _ in range(60)]
    raw = np.full((16, 32), -0.9, np.float32)
    detection = Detection(None, raw, np.zeros((16, 32), np.uint8), raw, None)
    edges = score_edges(tiny_info)

    def signs(pictures: Sequence[np.ndarray]) -> list[FrameSigns]:
        frames = [Frame(picture, 'bgr') for picture in pictures]
        return [frame_signs(frame, detection, tiny_info, edges) for frame in frames]

    monitor = DriftMonitor(learnt(signs(pictures[:30])))
    assert set(run(monitor, signs(pictures[30:45]))) == {Level.OK}
    assert run(monitor, signs([faulty(p, 'fog', 3) for p in pictures[45:]]), 15)[-1] > Level.OK
