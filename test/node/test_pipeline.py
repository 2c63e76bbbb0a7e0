"""The way of a frame inside the process: what costs is done only on demand, errors stay local."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.node import camera_outputs
from vq_anomaly_ros.node.latest_frames import Counts
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.pipeline import Pipeline


@pytest.fixture
def node(ros: SimpleNamespace) -> Iterator[LifecycleNode]:
    node = LifecycleNode('pipeline_test', context=ros.context)
    node.trigger_configure()
    node.trigger_activate()
    yield node
    node.destroy_node()


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings(model=str(tiny_model), threads=1, backend='onnxruntime')


@pytest.fixture
def pipeline(node: LifecycleNode, settings: Settings) -> Iterator[Pipeline]:
    pipeline = Pipeline(node, settings)
    node.trigger_deactivate()
    node.trigger_activate()
    pipeline.start()
    yield pipeline
    pipeline.close()


def put_and_wait(pipeline: Pipeline, message: Any) -> Counts:
    pipeline.frames.put('/front', message)
    while pipeline.frames.counts('/front').in_flight:
        time.sleep(0.001)
    return pipeline.frames.counts('/front')


def test_the_overlay_is_painted_only_while_somebody_looks(
    pipeline: Pipeline,
    peer: Any,
    picture: Any,
    image_message: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    painted: list[float] = []

    def paint(frame: Any, detection: Any, info: Any, opacity: float) -> np.ndarray:
        painted.append(opacity)
        return frame.bgr()

    monkeypatch.setattr(camera_outputs, 'overlay', paint)
    message = image_message(picture(1))
    assert put_and_wait(pipeline, message).published == 1
    assert painted == []
    seen = peer.collect(Image, '/front/anomaly/overlay')

    def look() -> bool:
        put_and_wait(pipeline, message)
        return bool(seen)

    assert peer.spin_until(look)
    assert set(painted) == {0.35}


def test_an_exception_in_the_detector_is_counted_told_and_survived(
    pipeline: Pipeline,
    picture: Any,
    image_message: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    message = image_message(picture(1))
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> Any:
            raise EngineError('the engine is gone')

        patch.setattr(pipeline.detector, 'detect', fail)
        for _ in range(20):
            put_and_wait(pipeline, message)
    assert put_and_wait(pipeline, message) == Counts(received=21, failed=20, published=1)
    said = [line for line in capfd.readouterr().err.splitlines() if 'frame failed' in line]
    assert said and '/front/image_raw: frame failed: EngineError: the engine is gone' in said[0]
    assert len(said) < 5, 'more than one message a second'


def test_latencies_are_kept_for_published_frames_only(
    pipeline: Pipeline, picture: Any, image_message: Any
) -> None:
    put_and_wait(pipeline, image_message(picture(1), 'no encoding'))
    assert np.isnan(pipeline.latency['/front'].percentiles(time.monotonic()).p50)
    put_and_wait(pipeline, image_message(picture(1)))
    assert pipeline.latency['/front'].percentiles(time.monotonic()).p50 > 0


def test_a_palette_of_the_users_own(
    node: LifecycleNode, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text('road: [1, 2, 3]\ntree: [4, 5, 6]\ncar: [7, 8, 9]\nperson: [0, 0, 0]\n')
    pipeline = Pipeline(node, dataclasses.replace(settings, palette=str(path)))
    assert pipeline.info.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 0, 0))
    pipeline.close()


def test_what_was_made_before_a_failure_is_taken_back(
    node: LifecycleNode, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(list(node.publishers))
    closed: list[bool] = []
    monkeypatch.setattr(Pipeline, '_publish_label_info', lambda self: 1 / 0)
    monkeypatch.setattr(
        'vq_anomaly_ros.detection.detector.Detector.close', lambda self: closed.append(True)
    )
    with pytest.raises(ZeroDivisionError):
        Pipeline(node, settings)
    assert closed == [True]
    assert len(list(node.publishers)) == before


def test_a_rejected_frame_a_failed_one_and_again(
    pipeline: Pipeline, picture: Any, image_message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning and an error in turns: rclpy takes only one level from a line of code."""
    good, bad = image_message(picture(1)), image_message(picture(1))
    bad.encoding = 'nothing'
    detect = pipeline.detector.detect
    throws: list[bool] = []

    def moody(*args: Any) -> Any:
        if throws:
            raise EngineError('as asked for')
        return detect(*args)

    monkeypatch.setattr(pipeline.detector, 'detect', moody)
    for rejected in (1, 2):
        assert put_and_wait(pipeline, bad).rejected == rejected
        throws.append(True)
        assert put_and_wait(pipeline, good).failed == rejected
        throws.clear()
        assert put_and_wait(pipeline, good).published == rejected
        pipeline._throttle._last.clear()  # each is told, not once a second
    assert pipeline._worker.untold == 0
