"""The sample drive: exact labels, determinism, and the geometry behind both."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.replay.bags import image_topics, read_images
from vq_anomaly_ros.replay.sample_drive import (
    CLASSES,
    DriveFrame,
    render_drive,
    training_pictures,
)
from vq_anomaly_ros.replay.sample_drive.camera import NEAR, Camera, clip_near
from vq_anomaly_ros.replay.sample_drive.canvas import UNKNOWN, Canvas, Texture
from vq_anomaly_ros.replay.sample_drive.ground import ground_rows, street_maps
from vq_anomaly_ros.replay.sample_drive.main import main, write_drive
from vq_anomaly_ros.replay.sample_drive.objects import NAMES, unknown_object
from vq_anomaly_ros.replay.sample_drive.solids import Builder, paint
from vq_anomaly_ros.replay.sample_drive.street import Street
from vq_anomaly_ros.replay.sample_drive.weather import KINDS, random_weather

SIZE = (96, 160)
ROAD, CAR = CLASSES.index('road'), CLASSES.index('car')


@pytest.fixture(scope='module')
def drive() -> list[DriveFrame]:
    return list(render_drive(seed=3, frames=36, size=SIZE, rate=4.0))


@pytest.fixture(scope='module')
def pictures() -> list[DriveFrame]:
    return list(training_pictures(5, 13, SIZE))


@pytest.fixture(scope='module')
def bent_street() -> Street:
    weather = random_weather(np.random.default_rng(0), 'overcast')
    streets = (Street(seed, weather) for seed in range(20))
    return next(street for street in streets if street.plan.bend > 4)


def _camera(**pose: float) -> Camera:
    position = (pose.get('x', 0.0), pose.get('y', 1.5), pose.get('z', 0.0))
    return Camera((400, 640), 500.0, position, pose.get('yaw', 0.0), pose.get('pitch', 0.0))


def _canvas(camera: Camera) -> Canvas:
    return Canvas(camera, random_weather(np.random.default_rng(1), 'overcast'))


def _same(first: DriveFrame, second: DriveFrame) -> bool:
    pairs = zip(
        (first.image, first.classes, first.anomaly),
        (second.image, second.classes, second.anomaly),
        strict=True,
    )
    return all(np.array_equal(a, b) for a, b in pairs)


def test_frames_are_of_the_size_and_kind_that_was_asked_for(drive: list[DriveFrame]) -> None:
    assert len(drive) == 36
    for frame in drive:
        assert frame.image.shape == (*SIZE, 3)
        assert frame.classes.shape == frame.anomaly.shape == SIZE
        assert frame.image.dtype == frame.classes.dtype == frame.anomaly.dtype == np.uint8
        assert set(np.unique(frame.anomaly)) <= {0, 1, 255}
        assert set(np.unique(frame.classes)) <= {*range(len(CLASSES)), 255}
    assert np.diff([frame.stamp_ns for frame in drive]).tolist() == [250_000_000] * 35


def test_a_class_is_void_exactly_where_an_unknown_object_is(drive: list[DriveFrame]) -> None:
    for frame in drive:
        assert np.array_equal(frame.classes == 255, frame.anomaly != 0)


def test_void_is_a_thin_line_round_the_object(drive: list[DriveFrame]) -> None:
    large = [frame for frame in drive if (frame.anomaly == 1).sum() > 200]
    assert large
    for frame in large:
        solid = cv2.dilate((frame.anomaly == 1).astype(np.uint8), np.ones((3, 3), np.uint8))
        void = frame.anomaly == 255
        assert (solid[void] == 1).mean() > 0.8
        assert void.sum() < 0.5 * (frame.anomaly == 1).sum()


def test_the_same_seed_draws_the_same_drive(drive: list[DriveFrame]) -> None:
    again = render_drive(seed=3, frames=4, size=SIZE, rate=4.0)
    assert all(_same(a, b) for a, b in zip(again, drive[:4], strict=True))
    other = next(render_drive(seed=4, frames=1, size=SIZE))
    assert np.abs(other.image.astype(int) - drive[0].image).mean() > 5


def test_a_frame_does_not_depend_on_the_frames_before_it(drive: list[DriveFrame]) -> None:
    fewer = list(render_drive(seed=3, frames=7, size=SIZE, rate=1.0))
    assert all(_same(a, b) for a, b in zip(fewer, drive[:28:4], strict=True))
    assert [a.stamp_ns for a in fewer] == [b.stamp_ns for b in drive[:28:4]]


def test_about_half_of_the_frames_hold_an_unknown_object() -> None:
    shares, arrivals = [], 0
    for seed in range(3):
        frames = render_drive(seed, 25, (48, 80), rate=2.5)
        held = [bool((frame.anomaly == 1).any()) for frame in frames]
        shares.append(np.mean(held))
        arrivals += int(np.diff([0, *held]).clip(0).sum())
    assert 0.35 < np.mean(shares) < 0.65
    assert all(0.2 < share < 0.8 for share in shares)
    assert arrivals >= 6


def test_unknown_objects_change_no_other_label(drive: list[DriveFrame]) -> None:
    without = list(render_drive(3, 36, SIZE, 4.0, unknown_objects=False))
    for frame, plain in zip(drive, without, strict=True):
        assert not plain.anomaly.any()
        assert plain.classes.max() < len(CLASSES)
        normal = frame.anomaly == 0
        assert np.array_equal(frame.classes[normal], plain.classes[normal])
        if not (~normal).any():
            # Shadows aside, nothing may betray an object that is out of view.
            assert (frame.image == plain.image).mean() > 0.9
    seen = [
        (frame.image[frame.anomaly == 1], plain.image[frame.anomaly == 1])
        for frame, plain in zip(drive, without, strict=True)
    ]
    changed = np.concatenate([np.abs(a.astype(int) - b).max(axis=1) > 8 for a, b in seen])
    assert changed.mean() > 0.75


def test_the_road_lies_before_the_camera_and_the_camera_moves(drive: list[DriveFrame]) -> None:
    ahead = np.stack([frame.classes[-20:, 60:100] for frame in drive])
    assert (ahead == ROAD).mean() > 0.6
    assert not any((frame.classes[-8:] == CLASSES.index('sky')).any() for frame in drive)
    steps = [np.abs(a.image.astype(int) - b.image).mean() for a, b in pairwise(drive)]
    assert min(steps) > 1.0


def test_training_pictures_are_normal_and_hold_every_class(pictures: list[DriveFrame]) -> None:
    assert not any(picture.anomaly.any() for picture in pictures)
    found = np.unique(np.concatenate([picture.classes.ravel() for picture in pictures]))
    assert found.tolist() == list(range(len(CLASSES)))


def test_the_nth_training_picture_is_always_the_same(pictures: list[DriveFrame]) -> None:
    fewer = list(training_pictures(5, 7, SIZE))
    assert all(_same(a, b) for a, b in zip(fewer, pictures[:7], strict=True))


def test_training_pictures_differ_in_place_and_street(pictures: list[DriveFrame]) -> None:
    labels = np.stack([picture.classes for picture in pictures])
    for i in range(len(labels)):
        for j in range(i):
            assert (labels[i] != labels[j]).mean() > 0.05


@pytest.mark.parametrize(
    ('arguments', 'cause'),
    [
        ({'size': (16, 160)}, 'too small'),
        ({'frames': 0}, 'no drive'),
        ({'rate': 0.0}, 'no drive'),
    ],
)
def test_senseless_drives_are_refused(arguments: dict, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        next(render_drive(**arguments))


def test_projection_is_that_of_a_pinhole() -> None:
    camera = _camera(x=1.0, z=10.0)
    pixel = camera.to_pixels(camera.to_camera(np.array([[3.0, 0.5, 30.0]])))[0]
    # f X / Z + c: 2 m to the right and 1 m below the camera at 20 m.
    assert pixel == pytest.approx((319.5 + 500 * 2 / 20, 199.5 + 500 * 1 / 20))


@given(yaw=st.floats(-0.4, 0.4), pitch=st.floats(-0.2, 0.2))
def test_the_horizon_is_where_far_ground_ends(yaw: float, pitch: float) -> None:
    camera = _camera(yaw=yaw, pitch=pitch)
    ahead = np.array([[1e6 * np.sin(yaw), 0.0, 1e6 * np.cos(yaw)]])
    assert camera.to_pixels(camera.to_camera(ahead))[0, 1] == pytest.approx(
        camera.horizon, abs=0.01
    )


@given(st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=3, max_size=3))
def test_clipping_leaves_only_what_is_before_the_camera(points: list) -> None:
    triangle = np.array(points)
    cut = clip_near(triangle)
    assert len(cut) <= 4
    if len(cut):
        assert (cut[:, 2] >= NEAR - 1e-9).all()
        assert (cut.max(axis=0) <= triangle.max(axis=0) + 1e-6).all()
        assert (cut.min(axis=0) >= triangle.min(axis=0) - 1e-6).all()
    assert (len(cut) == 0) == (triangle[:, 2] < NEAR).all()


def test_the_ground_under_a_pixel_is_the_place_that_projects_there(bent_street: Street) -> None:
    here = 55.0
    x = float(bent_street.bend(here)) + 1.5
    camera = _camera(x=x, z=here, yaw=float(bent_street.slope(here)) + 0.05, pitch=0.04)
    rows, depth = ground_rows(camera)
    across, along = street_maps(camera, bent_street, rows, depth)
    for u, z in ((0.0, 62.0), (2.5, 70.0), (-3.0, 85.0)):
        place = bent_street.world(u, 0.0, z)[None]
        column, row = np.rint(camera.to_pixels(camera.to_camera(place))[0]).astype(int)
        at = int(row - rows[0]), int(column)
        # Half a pixel of rounding is depth**2 / (height * focal) / 2 metres along the street.
        assert along[at] == pytest.approx(z, abs=0.6 * (z - here) ** 2 / (1.5 * 500))
        assert across[at] == pytest.approx(u, abs=0.12)


@pytest.mark.parametrize('heading', [0.0, 0.7, 2.5])
def test_a_painted_box_covers_the_hull_of_its_corners(heading: float) -> None:
    builder = Builder()
    builder.box((-0.9, 0.0, -2.0), (0.9, 1.5, 2.0), (200, 40, 40))
    canvas = _canvas(_camera(pitch=0.05))
    place = np.array([1.2, 0.0, 9.0])
    paint(canvas, builder.done(), place, heading, CAR)
    signs = np.array(np.meshgrid((-1, 1), (0, 1), (-1, 1))).reshape(3, -1).T
    corners = signs * (0.9, 1.5, 2.0)
    turn = np.array([[np.cos(heading), 0, np.sin(heading)], [0, 1, 0],
                     [-np.sin(heading), 0, np.cos(heading)]])  # fmt: skip
    pixels = canvas.camera.to_pixels(canvas.camera.to_camera(corners @ turn.T + place))
    hull = cv2.convexHull(np.rint(pixels).astype(np.int32))
    expected = cv2.fillConvexPoly(np.zeros(canvas.camera.size, np.uint8), hull, 1) > 0
    painted = canvas.labels == CAR
    assert (painted & expected).sum() / (painted | expected).sum() > 0.97


def test_a_textured_plane_puts_each_texel_where_it_projects() -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:32, 64:] = 255
    canvas = _canvas(_camera())
    top_left, right = np.array([-4.0, 3.0, 8.0]), np.array([8.0, 0.0, 12.0])
    down = np.array([0.0, -4.0, 0.0])
    corners = (top_left, top_left + right, top_left + down)
    canvas.plane(Texture(pixels), corners, np.ones(3), 1)
    for across, along, bright in ((0.8, 0.3, True), (0.2, 0.3, False), (0.8, 0.7, False)):
        place = top_left + across * right + along * down
        x, y = np.rint(canvas.camera.project(np.array([place] * 3))[0]).astype(int)
        assert canvas.labels[y, x] == 1
        assert (canvas.image[y, x].mean() > 120) == bright


def test_what_is_nearer_hides_what_is_farther() -> None:
    canvas = _canvas(_camera())
    square = np.array([[-1.0, 0.5, 0], [1, 0.5, 0], [1, 2.5, 0], [-1, 2.5, 0]])
    canvas.face(square + np.array([0, 0, 20]), np.array([10.0, 10, 10]), 1)
    canvas.face(square * (0.5, 1, 1) + np.array([0, 0, 10]), np.array([250.0, 10, 10]), CAR)
    assert canvas.labels[200, 320] == CAR
    assert canvas.image[200, 320, 0] > 200


@pytest.mark.parametrize('name', NAMES)
def test_every_unknown_object_can_be_drawn(name: str) -> None:
    thing = unknown_object(name, np.random.default_rng(2), 0.5)
    canvas = _canvas(_camera(pitch=0.1))
    place = np.array([0.0, 0.0, 6.0])
    if thing.body is not None:
        paint(canvas, thing.body, place, 0.4, UNKNOWN)
    else:
        assert thing.picture is not None
        canvas.billboard(thing.picture, place, thing.size, np.ones(3), UNKNOWN)
    rows, columns = np.nonzero(canvas.labels == UNKNOWN)
    height = 500 * thing.size[0] / 6
    assert len(rows) > 400
    assert 0.6 * height < np.ptp(rows) < 1.5 * height
    assert columns.min() < 320 < columns.max()


@pytest.mark.parametrize('kind', KINDS)
def test_haze_takes_a_colour_to_the_air_with_distance(kind: str) -> None:
    weather = random_weather(np.random.default_rng(3), kind)
    colour = np.array([30.0, 90.0, 30.0])
    far = weather.haze(colour, weather.sight)
    assert weather.haze(colour, 0.0) == pytest.approx(colour)
    # After `sight` metres 1/e of the difference is left.
    assert far == pytest.approx(weather.air + (colour - weather.air) / np.e)
    assert np.linalg.norm(weather.to_sun) == pytest.approx(1)


def test_the_command_writes_a_bag_with_its_labels(tmp_path: Path) -> None:
    out = tmp_path / 'drive'
    arguments = [str(out), '--frames', '3', '--size', '48x64', '--seed', '3', '--rate', '5']
    assert main(arguments) == 0
    assert image_topics(out) == {'/front/image_raw': ('sensor_msgs/msg/Image', 3)}
    expected = list(render_drive(3, 3, (48, 64), 5.0))
    for (stamp, _, message), frame in zip(read_images(out, None), expected, strict=True):
        assert (stamp, message.encoding) == (frame.stamp_ns, 'rgb8')
        assert np.array_equal(message.data.reshape(frame.image.shape), frame.image)
        for folder, labels in (('labels', frame.anomaly), ('labels/semantic', frame.classes)):
            stored = cv2.imread(str(out / folder / f'{stamp}.png'), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(stored, labels)


def test_the_command_replaces_a_bag_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / 'drive'), '--frames', '1', '--size', '48x64']
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert 'exists already; remove it or choose another name, or replace it with --overwrite' in (
        capsys.readouterr().err
    )
    assert main([*arguments, '--overwrite']) == 0


@pytest.mark.parametrize('wrong', [['--size', '48'], ['--size', 'axb'], ['--frames', 'many']])
def test_the_command_refuses_what_it_cannot_read(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([str(tmp_path / 'drive'), *wrong])
    assert exit_info.value.code == 2


def test_an_interrupted_drive_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[DriveFrame]:
        yield from render_drive(0, 2, (48, 64))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_drive(tmp_path / 'drive', interrupted())
    assert not list(tmp_path.iterdir())
