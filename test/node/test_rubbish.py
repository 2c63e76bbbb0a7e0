"""Rubbish in: the node lives, says what and where, counts it, and answers the next good frame."""

from __future__ import annotations

import array
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.pipeline import Pipeline

# The node logs at most one sentence a second and kind.
SILENCE = 1.1


class Camera:
    """Sends frames to the node and looks at what it makes of them."""

    def __init__(self, peer: Any, program: Any, kind: Any, topic: str) -> None:
        self.peer = peer
        self.program = program
        self.masks = peer.collect(Image, '/front/anomaly/mask')
        self.diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
        self.publisher = peer.publisher(kind, topic)

    def counts(self) -> dict[str, int]:
        if not self.diagnostics:
            return {'published': 0, 'rejected': 0, 'failed': 0}
        (status,) = [s for s in self.diagnostics[-1].status if s.hardware_id == '/front']
        values = {value.key: value.value for value in status.values}
        return {name: int(values[name]) for name in ('published', 'rejected', 'failed')}

    def send(self, message: Any, outcome: str) -> None:
        """Publish a message and wait until the node has counted it as this outcome."""
        before = self.counts()
        self.publisher.publish(message)
        expected = {**before, outcome: before[outcome] + 1}
        assert self.peer.spin_until(lambda: self.counts() == expected), (
            f'{self.counts()} instead of {expected}\n{self.program.output}'
        )


def floats(values: np.ndarray) -> Image:
    height, width = values.shape
    message = Image(height=height, width=width, encoding='32FC1', step=4 * width)
    message.data = array.array('B', values.astype('<f4').tobytes())
    return message


def test_bad_raw_images(peer: Any, start_detector: Any, picture: Any, image_message: Any) -> None:
    camera = Camera(peer, start_detector(), Image, '/front/image_raw')

    def good(**changes: Any) -> Any:
        message = image_message(picture(1))
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    whole = good()
    odd = np.full((8, 16), 0.5)
    rubbish: list[tuple[Any, str]] = [
        (good(data=whole.data[:-1]), 'the image holds'),
        (good(step=whole.width), 'a step of 128 bytes'),
        (good(step=2**32 - 1), 'the image holds'),
        (good(encoding='bgr64'), "'bgr64'"),
        (good(encoding=''), 'encoding'),
        (good(width=0), 'the image is empty'),
        (good(height=2**32 - 1), 'the image holds'),
        (Image(), 'encoding'),
        (floats(np.where(np.eye(8, 16) > 0, np.nan, odd)), 'not finite'),
        (floats(np.where(np.eye(8, 16) > 0, np.inf, odd)), 'not finite'),
        (floats(odd * 1000), 'outside'),
    ]
    for number, (message, said) in enumerate(rubbish):
        time.sleep(SILENCE)
        camera.send(message, 'rejected')
        lines = [line for line in camera.program.output.splitlines() if 'frame rejected' in line]
        assert len(lines) == number + 1, camera.program.output
        assert '/front/image_raw: frame rejected: ' in lines[-1] and said in lines[-1]
        camera.send(whole, 'published')
    assert 'Traceback' not in camera.program.output
    assert camera.counts()['failed'] == 0


def test_a_single_pixel_is_a_picture(peer: Any, start_detector: Any, image_message: Any) -> None:
    camera = Camera(peer, start_detector(), Image, '/front/image_raw')
    camera.send(image_message(np.zeros((1, 1, 3), np.uint8)), 'published')
    assert peer.spin_until(lambda: camera.masks)
    assert (camera.masks[0].height, camera.masks[0].width) == (1, 1)


def test_bad_compressed_images(peer: Any, start_detector: Any, picture: Any) -> None:
    program = start_detector(transport='compressed')
    camera = Camera(peer, program, CompressedImage, '/front/image_raw/compressed')
    jpeg = cv2.imencode('.jpg', picture(1))[1].tobytes()
    png = cv2.imencode('.png', picture(1))[1].tobytes()
    rubbish = {
        jpeg[: len(jpeg) // 2]: 'cut before its end',
        png[: len(png) // 2]: 'cut before its end',
        b'': 'neither jpeg nor png',
        bytes(1000): 'neither jpeg nor png',
        jpeg[:2] + bytes(500) + b'\xff\xda' + bytes(50) + b'\xff\xd9': 'cannot be decoded',
    }
    for number, (data, said) in enumerate(rubbish.items()):
        time.sleep(SILENCE)
        camera.send(CompressedImage(format='jpeg', data=array.array('B', data)), 'rejected')
        lines = [line for line in program.output.splitlines() if 'frame rejected' in line]
        assert len(lines) == number + 1, program.output
        assert '/front/image_raw/compressed: frame rejected: ' in lines[-1] and said in lines[-1]
        camera.send(CompressedImage(format='png', data=array.array('B', png)), 'published')
    assert camera.counts()['failed'] == 0


def test_a_flood_of_rubbish_is_told_once_a_second(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    camera = Camera(peer, start_detector(), Image, '/front/image_raw')
    bad = image_message(picture(1), 'bgr64')
    start = time.monotonic()

    def flood() -> bool:
        camera.publisher.publish(bad)
        peer.spin_for(0.01)
        return camera.counts()['rejected'] >= 200

    assert peer.spin_until(flood)
    peer.spin_for(1.0)  # what is on its way is counted, too
    camera.send(image_message(picture(1)), 'published')
    seconds = time.monotonic() - start
    said = [line for line in camera.program.output.splitlines() if 'frame rejected' in line]
    assert 1 <= len(said) <= seconds + 1
    assert any('more since the last message' in line for line in said)


def test_jumping_stamps_and_alternating_sizes_are_told_once_a_second(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    camera = Camera(peer, start_detector(), Image, '/front/image_raw')
    frames = [
        image_message(picture(1), stamp=9_000_000_000),
        image_message(picture(1, 30, 40), 'rgb8', stamp=1_000_000_000),
    ]
    start = time.monotonic()

    def send() -> bool:
        frames.reverse()
        camera.publisher.publish(frames[0])
        peer.spin_for(0.01)
        return camera.counts()['published'] >= 60

    assert peer.spin_until(send)
    seconds = time.monotonic() - start
    lines = camera.program.output.splitlines()
    for words in ('jumps back by 8.000 s', 'changed from'):
        said = [line for line in lines if words in line]
        assert 1 <= len(said) <= seconds + 1, words
    assert camera.counts()['failed'] == camera.counts()['rejected'] == 0


@pytest.fixture
def pipeline(ros: Any, tiny_model: Path) -> Iterator[Pipeline]:
    node = LifecycleNode('rubbish_test', context=ros.context)
    settings = Settings(model=str(tiny_model), threads=1, backend='onnxruntime')
    pipeline = Pipeline(node, settings)
    pipeline.start()
    yield pipeline
    pipeline.close()
    node.destroy_node()


def test_a_huge_picture_in_process(pipeline: Pipeline, image_message: Callable[..., Any]) -> None:
    """8000x6000, larger than what is sent through shared memory."""
    huge = image_message(np.full((6000, 8000, 3), 90, np.uint8))
    pipeline.frames.put('/front', huge)
    end = time.monotonic() + 60
    while pipeline.frames.counts('/front').in_flight and time.monotonic() < end:
        time.sleep(0.01)
    assert pipeline.frames.counts('/front').published == 1


def test_a_parameter_file_with_a_typo(
    peer: Any, start: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """A misspelt name is told with the likely spelling, a bad value keeps it unconfigured."""
    values = {'model': str(tiny_model), 'tresholds': 1, 'camera': '/rear', 'target_fpr': 'low'}
    file = tmp_path / 'detector.yaml'
    file.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    program = start('detector_node', '--ros-args', '--params-file', str(file))
    program.wait_for('not configured')
    assert 'parameter tresholds: the node has none of this name; did you mean threads?' in (
        program.output
    )
    assert 'parameter camera: the node has none of this name; did you mean cameras?' in (
        program.output
    )
    assert "parameter target_fpr: 'low' is no double" in program.output
    assert program.process.poll() is None, 'it lives on'
    assert 'Traceback' not in program.output


def test_a_parameter_file_that_is_none(start: Any, tmp_path: Path) -> None:
    file = tmp_path / 'params.yaml'
    file.write_text('/**:\n  ros__parameters:\n    model: [unclosed\n')
    program = start('detector_node', '--ros-args', '--params-file', str(file))
    assert program.wait() == 2
    assert str(file) in program.output and 'Traceback' not in program.output


@pytest.mark.parametrize('name', ['use_sim_time', 'start_type_description_service'])
@pytest.mark.parametrize('value', ['maybe', '"true"'])
def test_a_bad_value_of_a_parameter_of_ros_itself(start: Any, name: str, value: str) -> None:
    """Rclpy judges these while the node is made, and raises."""
    program = start('detector_node', '--ros-args', '-p', f'{name}:={value}')
    assert program.wait() == 2
    plain = value.strip('"')
    assert program.output.splitlines()[-1] == (
        f'anomaly_detector: parameter {name}: {plain!r} is no bool; '
        'give true or false, without quotes'
    )
    assert 'Traceback' not in program.output


def test_a_bad_value_of_a_parameter_of_ros_itself_in_a_file(start: Any, tmp_path: Path) -> None:
    file = tmp_path / 'detector.yaml'
    file.write_text('/**:\n  ros__parameters:\n    use_sim_time: "true"\n')
    program = start('detector_node', '--ros-args', '--params-file', str(file))
    assert program.wait() == 2
    assert "use_sim_time: 'true' is no bool" in program.output


@pytest.mark.parametrize('module', ['detector_node', 'player', 'recorder'])
def test_an_unknown_argument_of_ros_is_named(start: Any, tmp_path: Path, module: str) -> None:
    own = {'player': ['bag'], 'recorder': [str(tmp_path / 'out'), '--topics', '/a']}
    program = start(module, *own.get(module, []), '--ros-args', '--foo')
    assert program.wait() == 2
    assert program.output.splitlines()[-1].endswith('error: unknown ROS argument --foo; see --help')
    assert 'Traceback' not in program.output


def test_parameters_of_ros_itself_are_known(start_detector: Any) -> None:
    program = start_detector(start_type_description_service='false', use_sim_time='false')
    assert 'the node has none of this name' not in program.output
