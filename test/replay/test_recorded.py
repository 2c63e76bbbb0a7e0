from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.scene import SceneConfig
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.evaluate_bag import EvaluationConfig, evaluate
from vq_anomaly_ros.replay.frame_results import DroppedFrame, FrameResult
from vq_anomaly_ros.replay.recorded import node_figures, recorded_results

Picture = Callable[..., np.ndarray]
TOPIC = '/front/image_raw'
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@pytest.fixture
def drive(tmp_path: Path, picture: Picture) -> Path:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        for index in range(4):
            writer.write_image(TOPIC, START + index, picture(index), 'bgr8')
    return tmp_path / 'drive'


def recorded(tmp_path: Path, drive: Path, model: Path) -> Path:
    """A bag as a recorder makes it: the answers to all but the third frame, and diagnostics."""
    config = EvaluationConfig(
        (drive,), tmp_path / 'out', model, target_fpr=0.3, video=False, scene=SceneConfig()
    )
    evaluate(config)
    clock = START + 10**12
    with bags.BagWriter(tmp_path / 'recorded') as writer:
        for raw in bags.read_raw(tmp_path / 'out' / 'output'):
            if raw.stamp_ns != START + 2:
                writer.write(raw.topic, raw.msgtype, clock + raw.stamp_ns - START, raw.cdr)
        _write_diagnostics(writer, clock, {'superseded': '7', 'latency p50 ms': '9.5'})
        last = {'superseded': '8', 'latency p50 ms': '3.5', 'latency p99 ms': 'nan'}
        _write_diagnostics(writer, clock + SECOND, last)
    return tmp_path / 'recorded'


def _write_diagnostics(writer: bags.BagWriter, stamp_ns: int, figures: dict[str, str]) -> None:
    types = bags.typestore().types
    status = types['diagnostic_msgs/msg/DiagnosticStatus'](
        level=0,
        name='anomaly_detector: /front',
        message='',
        hardware_id='/front',
        values=[types['diagnostic_msgs/msg/KeyValue'](key=k, value=v) for k, v in figures.items()],
    )
    kind = 'diagnostic_msgs/msg/DiagnosticArray'
    message = types[kind](header=bags.header(stamp_ns, ''), status=[status])
    writer.write('/diagnostics', kind, stamp_ns, message)


def test_answers_are_joined_with_their_frames_by_stamp(
    tmp_path: Path, drive: Path, tiny_model: Path
) -> None:
    output = recorded(tmp_path, drive, tiny_model)
    found = list(recorded_results(drive, output, TOPIC))
    assert [r.stamp_ns for r in found] == [START + i for i in range(4)]
    assert [type(r) for r in found] == [FrameResult, FrameResult, DroppedFrame, FrameResult]
    scores = {s: m for s, _, m in bags.read_images(tmp_path / 'out/output', '/front/anomaly/score')}
    for result in found:
        if isinstance(result, FrameResult):
            expected = scores[result.stamp_ns].data.view(np.float32).reshape(64, 128)
            np.testing.assert_array_equal(result.detection.score, expected)
            assert result.detection.labels is not None
    with Detector(DetectorConfig(tiny_model, target_fpr=0.3)) as detector:
        expected_obstacles = detector.detect([found[0].frame])[0].obstacles
    told = found[0].detection.obstacles
    assert len(told) == len(expected_obstacles) > 0
    for one, other in zip(told, expected_obstacles, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=0.006)
        assert (one.track is not None, one.frames) == (True, 1)
        assert one.score_max == pytest.approx(other.score_max, abs=1e-6)


def test_the_last_diagnostics_count(tmp_path: Path, drive: Path, tiny_model: Path) -> None:
    figures = node_figures(recorded(tmp_path, drive, tiny_model), '/front')
    assert figures.counts == {'superseded': 8}
    assert figures.latency_ms == {'p50': 3.5, 'p95': None, 'p99': None}
    silent = node_figures(drive, '/front')
    assert (silent.engine, silent.counts) == ('', {})
