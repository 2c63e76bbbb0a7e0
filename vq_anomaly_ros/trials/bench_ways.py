"""What a frame takes in one process: bare engine, detector and node in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.logging import LoggingSeverity
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.engines import CPU_BACKENDS, EngineError, open_engine
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.node.messages import image_message, jpeg_message
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.pipeline import Pipeline
from vq_anomaly_ros.timing import Way
from vq_anomaly_ros.trials.bench_cameras import CAMERA, streams
from vq_anomaly_ros.trials.peer import PATIENCE, Peer, expect

FULL_HD = (1080, 1920)
BATCHES = (1, 2, 4)


@contextmanager
def ways_of(model: str, peer: Peer, picture: np.ndarray) -> Iterator[dict[str, Way]]:
    """Give the ways of a 1080p frame, by their names; picture: uint8 [H, W, 3] BGR.

    `engine`, `detector …` and `node …` are the same network on the same engine. The node's way goes
    from the subscription's callback to what is published, for subscribers of all image topics.
    """
    settings = Settings(model=model, cameras=(CAMERA,), output_size='network')
    frame = cv2.resize(picture, FULL_HD[::-1])
    with _active(peer, settings) as pipeline:
        names = streams(bool(pipeline.info.classes))
        topics = [f'{CAMERA}/anomaly/{name}' for name in names]
        for topic in topics:
            peer.collect(Image, topic, depth=1)
        found = peer.spin_until(lambda: all(map(peer.node.count_publishers, topics)))
        expect(found, 'the results are not found')
        peer.spin_for(1.0)  # a reader knows its writer a little before the writer knows the reader
        detector = pipeline.detector
        yield {
            'engine': lambda: detector.engine.infer(1),
            **_detector_ways(detector, Frame(frame, 'bgr')),
            **_node_ways(pipeline, settings, frame),
        }


def _detector_ways(detector: Detector, frame: Frame) -> dict[str, Way]:
    def detect(size: Any) -> None:
        detector.output_size = size
        detector.detect([frame])

    return {f'detector {size}': partial(detect, size) for size in ('network', 'camera')}


def _node_ways(pipeline: Pipeline, settings: Settings, frame: np.ndarray) -> dict[str, Way]:
    def run(message: Any, **changes: Any) -> None:
        pipeline.change(dataclasses.replace(settings, **changes))
        before = pipeline.frames.counts(CAMERA)
        pipeline.frames.put(CAMERA, message)
        # Not by looking again and again, which takes time of the cores that the engine works on.
        pipeline.frames.wait_through(CAMERA, PATIENCE)
        now = pipeline.frames.counts(CAMERA)
        expect(now.published > before.published, f'the frame was not published: {now}')

    bgr = image_message(Header(), frame, 'bgr8')
    ways = {
        f'node {size} {encoding}': partial(run, bgr, output_size=size, score_encoding=encoding)
        for size in ('network', 'camera')
        for encoding in ('32FC1', 'mono16', 'mono8')
    }
    return {**ways, **{f'node from {name}': partial(run, m) for name, m in _messages(frame)}}


def _messages(frame: np.ndarray) -> list[tuple[str, Any]]:
    """The frame in other encodings that cameras send; what costs is the conversion."""
    header = Header()
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    raw = {
        'rgb8': np.ascontiguousarray(frame[:, :, ::-1]),
        'mono8': grey,
        'mono16': grey.astype(np.uint16) * 257,
        'bayer_rggb8': grey,
        'uyvy': np.stack([grey, grey], axis=2),
    }
    images = [(name, image_message(header, pixels, name)) for name, pixels in raw.items()]
    return [*images, ('jpeg', jpeg_message(header, frame))]


@contextmanager
def _active(peer: Peer, settings: Settings) -> Iterator[Pipeline]:
    """A pipeline whose publishers are active, without the subscriptions."""
    node = LifecycleNode('bench', context=peer.node.context)
    # That the encoding changes is what is asked for.
    node.get_logger().set_level(LoggingSeverity.ERROR)
    try:
        pipeline = Pipeline(node, settings)
        try:
            node.trigger_configure()
            node.trigger_activate()
            pipeline.start()
            yield pipeline
        finally:
            pipeline.close()
    finally:
        node.destroy_node()


def batch_ways(model: str, stack: ExitStack) -> dict[str, Way]:
    """Return the bare OpenVINO engine of a model with 1, 2 and 4 frames; closed with `stack`."""
    file = model_file.read(model_file.find_model(model))
    engine = open_engine(file, 'openvino', ['score'])
    stack.callback(engine.close)
    return {str(batch): partial(engine.infer, batch) for batch in BATCHES}


def engine_ways(models: Sequence[str], stack: ExitStack) -> dict[str, Way]:
    """Return the bare engines of each model on every CPU runtime installed; closed with `stack`."""
    ways: dict[str, Way] = {}
    for model in models:
        file = model_file.read(model_file.find_model(model))
        wanted = [name for name in ('score', 'labels') if name in file.info.output_layouts()]
        for backend in CPU_BACKENDS:
            try:
                engine = open_engine(file, backend, wanted)
            except EngineError:
                continue
            stack.callback(engine.close)
            ways[f'{model} {backend}'] = partial(engine.infer, 1)
    return ways
