"""Frames in, detections out."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection, Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFileError
from vq_anomaly_ros.images import Frame

MAP = (16, 32)


@pytest.fixture(params=['openvino', 'onnxruntime'])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def open_detector(tiny_model: Path, backend: str) -> Iterator[Callable[..., Detector]]:
    """open_detector(**changes of the config): closed after the test."""
    opened: list[Detector] = []

    def opener(**changes: object) -> Detector:
        config = DetectorConfig(model=tiny_model, backend=backend, threads=1)
        opened.append(Detector(dataclasses.replace(config, **changes)))  # type: ignore[arg-type]
        return opened[-1]

    yield opener
    for detector in opened:
        detector.close()


def assert_same_bits(one: Detection, other: Detection) -> None:
    for field in ('labels', 'score', 'anomaly_mask', 'raw_score', 'codes'):
        a, b = getattr(one, field), getattr(other, field)
        assert (a is None and b is None) or a.tobytes() == b.tobytes()


def test_streams_give_the_bits_of_one_alone(open_detector, picture) -> None:
    frames = [Frame(picture(seed, 90, 160), 'bgr') for seed in range(4)]
    alone = open_detector(threads=1)
    expected = [alone.detect([frame])[0] for frame in frames]
    shared = open_detector(threads=2, streams=2)
    assert (alone.streams, shared.streams) == (1, 2)
    with ThreadPoolExecutor(4) as threads:  # more than there are streams: they take turns
        for _ in range(5):
            found = list(threads.map(lambda frame: shared.detect([frame])[0], frames))
            for one, other in zip(found, expected, strict=True):
                assert_same_bits(one, other)
    shared.close()
    with pytest.raises(EngineError, match='closed'):
        shared.detect(frames[:1])


def test_no_stream_at_all_is_refused(open_detector) -> None:
    with pytest.raises(ValueError, match='streams: 0'):
        open_detector(streams=0)


def test_two_streams_are_at_work_at_the_same_time(open_detector, picture, monkeypatch) -> None:
    detector = open_detector(streams=2, threads=2)
    both = threading.Barrier(2)
    for stream in detector._streams:
        infer = stream.engine.infer

        def met(*arguments, infer=infer):
            both.wait(30)  # broken, and an error, where they come one after the other
            return infer(*arguments)

        monkeypatch.setattr(stream.engine, 'infer', met)
    frame = Frame(picture(0, 64, 128), 'bgr')
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: detector.detect([frame])[0], range(2))
    assert_same_bits(one, other)


@pytest.mark.parametrize('size', [(64, 128), (97, 201), (270, 480), (7, 5)])
def test_sizes_and_types_at_camera_size(open_detector, picture, size) -> None:
    frame = Frame(picture(0, *size), 'bgr')
    (detection,) = open_detector(with_codes=True).detect([frame])
    assert detection.labels.shape == detection.score.shape == detection.anomaly_mask.shape == size
    assert detection.raw_score.shape == detection.codes.shape == MAP
    assert detection.labels.dtype == detection.anomaly_mask.dtype == np.uint8
    assert detection.score.dtype == detection.raw_score.dtype == np.float32
    assert detection.codes.dtype == np.int32
    assert all(obstacle.area >= 5e-4 for obstacle in detection.obstacles)


def test_sizes_at_network_size(open_detector, picture) -> None:
    (detection,) = open_detector(output_size='network').detect([Frame(picture(0, 90, 70), 'rgb')])
    assert detection.labels.shape == detection.score.shape == detection.anomaly_mask.shape == MAP


def test_labels_upsampled_by_their_scores_are_those_of_the_evaluation(
    open_detector, picture
) -> None:
    """The argmax of every class's scores, each upsampled alone, whatever the order of classes."""
    frame = Frame(picture(0, 90, 170), 'bgr')
    detector = open_detector(label_upsampling='bilinear')
    (smooth,) = detector.detect([frame])
    detector.engine.input_buffer(1)[0] = cv2.resize(frame.pixels, (128, 64))[..., ::-1]
    scores = detector.engine.infer(1)['class_scores'][0]
    upsampled = np.stack([cv2.resize(one, (170, 90)) for one in scores])
    assert np.array_equal(smooth.labels, upsampled.argmax(axis=0))
    (nearest,) = open_detector().detect([frame])
    assert not np.array_equal(smooth.labels, nearest.labels)
    detector.output_size = 'network'
    small = open_detector(output_size='network').detect([frame])[0]
    assert np.array_equal(detector.detect([frame])[0].labels, small.labels)


def test_the_output_size_changes_between_frames(open_detector, picture) -> None:
    detector, frame = open_detector(), Frame(picture(0, 90, 70), 'rgb')
    for size, shape in (('camera', (90, 70)), ('network', MAP), ('camera', (90, 70))):
        detector.output_size = size
        assert detector.detect([frame])[0].score.shape == shape
    with pytest.raises(ValueError, match='use network or camera'):
        detector.output_size = 'screen'
    assert detector.output_size == 'camera'


def test_obstacles_are_the_parts_of_the_mask(open_detector, picture) -> None:
    detector = open_detector(target_fpr=0.3, min_obstacle_area=0.01)
    (detection,) = detector.detect([Frame(picture(0, 128, 256), 'bgr')])
    assert detection.obstacles
    for obstacle in detection.obstacles:
        x, y, width, height = (int(value) for value in obstacle.box)
        window = (slice(y, y + height), slice(x, x + width))
        assert detection.anomaly_mask[window].any(axis=0).all()
        assert obstacle.score_mean > 0.7
    detector.min_obstacle_area = 0.9
    assert detector.detect([Frame(picture(0, 128, 256), 'bgr')])[0].obstacles == ()


def test_values_are_in_range(open_detector, picture) -> None:
    detector = open_detector(with_codes=True)
    for detection in detector.detect([Frame(picture(i, 100, 150), 'bgr') for i in range(4)]):
        assert detection.score.min() >= 0
        assert detection.score.max() <= 1
        assert set(np.unique(detection.anomaly_mask)) <= {0, 255}
        assert detection.labels.max() < 4
        assert 0 <= detection.codes.min() <= detection.codes.max() < 12


def test_the_score_is_the_calibrated_raw_score(open_detector, picture) -> None:
    detector = open_detector(output_size='network')
    (detection,) = detector.detect([Frame(picture(0), 'rgb')])
    assert np.array_equal(detection.score, detector.calibration.apply(detection.raw_score))
    upsampled = open_detector().detect([Frame(picture(0), 'rgb')])[0]
    assert np.array_equal(upsampled.score, cv2.resize(detection.score, (128, 64)))


def test_the_mask_is_judged_at_network_size(open_detector, picture) -> None:
    """At an exact multiple of the map, each pixel of the mask is repeated as a block."""
    frame = Frame(picture(0), 'rgb')
    small = open_detector(output_size='network', target_fpr=0.3).detect([frame])[0]
    large = open_detector(target_fpr=0.3).detect([frame])[0]
    blocks = np.ones((4, 4), np.uint8)
    assert 0 < small.anomaly_mask.mean() < 255
    assert np.array_equal(small.anomaly_mask == 255, small.score > np.float32(0.7))
    assert np.array_equal(large.anomaly_mask, np.kron(small.anomaly_mask, blocks))
    assert np.array_equal(large.labels, np.kron(small.labels, blocks))


def test_the_mask_is_strict(make_tiny_model, tmp_path, backend, picture) -> None:
    """A table that gives every score exactly 1 - target: nothing exceeds it."""
    table = Calibration([-3.0, -2.0, 3.0], [0.0, 0.5, 0.5 + 1e-12], 9, 'flat', '', '2026-01-01')
    path = make_tiny_model(tmp_path / 'm.onnx', calibration=table.to_dict())
    with Detector(DetectorConfig(path, backend, target_fpr=0.5, threads=1)) as detector:
        assert not detector.detect([Frame(picture(0), 'rgb')])[0].anomaly_mask.any()
        detector.target_fpr = 0.5001
        assert detector.detect([Frame(picture(0), 'rgb')])[0].anomaly_mask.all()


def test_the_target_rate_is_kept_on_the_calibration_pictures(open_detector, picture) -> None:
    """conftest calibrates the tiny model on the pictures 1000 to 1039."""
    detector = open_detector(output_size='network', target_fpr=0.05)
    frames = [Frame(picture(1000 + i), 'rgb') for i in range(40)]
    rate = np.mean([d.anomaly_mask.mean() / 255 for d in detector.detect(frames)])
    assert rate == pytest.approx(0.05, rel=0.05)


def test_a_higher_target_rate_marks_more(open_detector, picture) -> None:
    detector = open_detector()
    frames = [Frame(picture(0), 'bgr')]
    shares = []
    for target in (0.01, 0.1, 0.5):
        detector.target_fpr = target
        shares.append(detector.detect(frames)[0].anomaly_mask.mean())
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize('target', [0.0, 1.0, -1.0, float('nan')])
def test_a_target_rate_without_sense_is_refused(open_detector, target: float) -> None:
    detector = open_detector()
    with pytest.raises(ValueError, match='out of range'):
        detector.target_fpr = target
    assert detector.target_fpr == 1e-3
    with pytest.raises(ValueError, match='out of range'):
        open_detector(target_fpr=target)


@pytest.mark.parametrize('size', [(64, 128), (97, 201), (300, 200)])
def test_the_order_of_the_channels_does_not_matter(open_detector, picture, size) -> None:
    detector = open_detector(with_codes=True)
    rgb = picture(0, *size)
    (expected,) = detector.detect([Frame(rgb, 'rgb')])
    (found,) = detector.detect([Frame(rgb[..., ::-1].copy(), 'bgr')])
    assert_same_bits(found, expected)


def test_a_grey_frame_is_a_grey_picture(open_detector, picture) -> None:
    detector = open_detector()
    grey = picture(0, 97, 201)[..., 0].copy()
    (expected,) = detector.detect([Frame(np.dstack([grey] * 3), 'rgb')])
    (found,) = detector.detect([Frame(grey, 'mono')])
    assert_same_bits(found, expected)


def test_red_and_blue_are_told_apart(open_detector, picture) -> None:
    detector = open_detector()
    (one,) = detector.detect([Frame(picture(0), 'rgb')])
    (other,) = detector.detect([Frame(picture(0), 'bgr')])
    assert np.abs(one.raw_score - other.raw_score).max() > 0.01


def test_frames_are_stretched_with_half_pixel_centres_and_no_antialiasing(
    open_detector, picture
) -> None:
    """A picture of twice the size is sampled at (2x + 0.5, 2y + 0.5): the mean of 2x2 pixels."""
    detector = open_detector()
    large = picture(0, 128, 256)
    mean = large.reshape(64, 2, 128, 2, 3).astype(np.float64).mean(axis=(1, 3))
    detector.detect([Frame(large, 'rgb')])
    assert np.abs(detector.engine.input_buffer(1)[0] - mean).max() <= 0.5
    detector.detect([Frame(picture(0, 640, 1280), 'rgb')])
    sampled = cv2.resize(picture(0, 640, 1280), (128, 64), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(detector.engine.input_buffer(1)[0], sampled)


@pytest.mark.parametrize('order', ['rgb', 'bgr', 'mono'])
def test_padded_and_read_only_views_are_frames_like_others(open_detector, picture, order) -> None:
    detector = open_detector()
    pixels = picture(0, 80, 150)
    pixels = pixels[..., 0] if order == 'mono' else pixels
    padded = np.full((80, 170, *pixels.shape[2:]), 9, np.uint8)
    padded[:, :150] = pixels
    padded.setflags(write=False)
    (expected,) = detector.detect([Frame(pixels.copy(), order)])
    (found,) = detector.detect([Frame(padded[:, :150], order)])
    assert_same_bits(found, expected)


def test_the_same_frame_gives_the_same_bits(open_detector, picture) -> None:
    detector = open_detector(with_codes=True)
    frame, others = Frame(picture(0, 90, 160), 'bgr'), [Frame(picture(i), 'rgb') for i in (1, 2)]
    (alone,) = detector.detect([frame])
    together = detector.detect([frame, *others])[0]
    for place in range(3):
        frames = [*others[:place], frame, *others[place:]]
        assert_same_bits(detector.detect(frames)[place], together)
    assert_same_bits(detector.detect([frame])[0], alone)
    assert_same_bits(open_detector(with_codes=True).detect([frame])[0], alone)


def test_frames_of_several_cameras_keep_their_order_and_size(open_detector, picture) -> None:
    detector = open_detector()
    frames = [Frame(picture(i, 60 + 10 * i, 100 + 7 * i), 'bgr') for i in range(3)]
    for frame, detection in zip(frames, detector.detect(frames), strict=True):
        assert detection.score.shape == frame.size
        expected = detector.detect([frame])[0].raw_score
        assert np.abs(detection.raw_score - expected).max() < 1e-6


@pytest.mark.parametrize('output_size', ['network', 'camera'])
@pytest.mark.parametrize('size', [MAP, (64, 128), (90, 160)])
def test_detections_own_their_memory(open_detector, picture, output_size, size) -> None:
    """Results of a frame stay as they are when the next frame comes and the detector is closed."""
    detector = open_detector(output_size=output_size, with_codes=True)
    (kept,) = detector.detect([Frame(picture(0, *size), 'bgr')])
    copies = dataclasses.replace(
        kept,
        **{
            name: getattr(kept, name).copy()
            for name in ('labels', 'score', 'anomaly_mask', 'raw_score', 'codes')
        },
    )
    for seed in range(3):
        detector.detect([Frame(picture(seed + 1, *size), 'bgr')])
    detector.close()
    assert_same_bits(kept, copies)
    kept.score[:] = 0
    assert kept.labels.flags.writeable


def test_no_frames_no_detections(open_detector) -> None:
    assert open_detector().detect([]) == []


def test_outputs_that_nobody_asks_for_are_not_computed(open_detector, picture) -> None:
    detector = open_detector(with_labels=False)
    (detection,) = detector.detect([Frame(picture(0), 'bgr')])
    assert detection.labels is None
    assert detection.codes is None
    assert list(detector.engine.infer(1)) == ['score']


def test_a_model_without_classes_has_no_labels(
    tiny_graph, tiny_info, tmp_path, backend, picture
) -> None:
    graph = tiny_graph()
    del graph.graph.output[1:]
    info = dataclasses.replace(
        tiny_info, method='ccl', classes=(), palette=(), codevectors_per_class=0
    )
    path = model_file.write(graph, info, tmp_path / 'm.onnx').path
    with Detector(DetectorConfig(path, backend, with_codes=True, threads=1)) as detector:
        (detection,) = detector.detect([Frame(picture(0), 'bgr')])
    assert detection.labels is None
    assert detection.codes is None
    assert detection.score.shape == (64, 128)


def test_the_backends_agree(tiny_model, picture) -> None:
    found = {}
    for backend in ('openvino', 'onnxruntime'):
        pytest.importorskip(backend)
        with Detector(DetectorConfig(tiny_model, backend, threads=1)) as detector:
            (found[backend],) = detector.detect([Frame(picture(0, 200, 300), 'bgr')])
    one, other = found.values()
    assert np.abs(one.raw_score - other.raw_score).max() < 1e-5
    assert (one.labels == other.labels).mean() >= 0.999


def test_scores_that_are_no_numbers_are_an_error(
    tiny_graph, tiny_info, tmp_path, backend, picture
) -> None:
    """A white picture makes the square root of this network imaginary."""
    graph = tiny_graph()
    node = next(n for n in graph.graph.node if n.op_type == 'Neg')
    node.op_type = 'Sqrt'
    node.input[0] = 'less'
    graph.graph.node.insert(
        list(graph.graph.node).index(node), helper.make_node('Sub', ['best', 'two'], ['less'])
    )
    graph.graph.initializer.append(helper.make_tensor('two', TensorProto.FLOAT, [], [2.0]))
    path = model_file.write(graph, tiny_info, tmp_path / 'm.onnx').path
    with (
        Detector(DetectorConfig(path, backend, threads=1)) as detector,
        pytest.raises(EngineError, match='not all finite'),
    ):
        detector.detect([Frame(picture(0), 'rgb')])


def test_a_model_without_calibration_is_refused(make_tiny_model, tmp_path, backend) -> None:
    path = make_tiny_model(tmp_path / 'm.onnx', calibration=None)
    with pytest.raises(ModelFileError, match='no calibration table'):
        Detector(DetectorConfig(path, backend))


def test_an_unknown_label_upsampling_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match='use nearest or bilinear'):
        Detector(DetectorConfig(tiny_model, label_upsampling='cubic'))  # type: ignore[arg-type]


def test_an_unknown_output_size_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"'screen' is unknown.*network or camera"):
        Detector(DetectorConfig(tiny_model, output_size='screen'))  # type: ignore[arg-type]


def test_a_closed_detector_says_so(tiny_model: Path, backend: str, picture) -> None:
    with Detector(DetectorConfig(tiny_model, backend, threads=1)) as detector:
        pass
    with pytest.raises(EngineError, match='closed'):
        detector.detect([Frame(picture(0), 'bgr')])


def test_the_shipped_model_sees_a_road(street_model: Path, shared_data: Path) -> None:
    """On a street of CamVid's test set most pixels labelled road, sky or building are named so."""
    with Detector(DetectorConfig(street_model, threads=1)) as detector:
        names = detector.info.classes
        hits = []
        for path in sorted((shared_data / 'camvid' / 'test' / 'images').iterdir())[::60]:
            pixels = cv2.imread(str(path))
            label = shared_data / 'camvid' / 'test' / 'labels' / f'{path.stem}.png'
            truth = cv2.imread(str(label), cv2.IMREAD_GRAYSCALE)
            (detection,) = detector.detect([Frame(pixels, 'bgr')])
            for name, class_id in (('road', 3), ('sky', 0), ('building', 1)):
                hits.append((detection.labels == names.index(name))[truth == class_id].mean())
    assert np.mean(hits) > 0.7
