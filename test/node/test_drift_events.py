"""The drift monitor in the node, over DDS: diagnostics, events and their pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.calibrate import main as calibrate
from vq_anomaly_ros.replay.faults import FROZEN, faulty

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import String

SECOND = 10**9
STEP = SECOND // 10  # 10 Hz
BEFORE = 12
# A drop shows what is around it, which on a road of noise looks like the road.
CASES = (FROZEN, 'blur', 'dead_rows', 'underexposure', 'fog', 'occlusion', 'colour_cast', 'noise')


@pytest.fixture(scope='module')
def calibration(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    road_drive: Callable[..., list[np.ndarray]],
) -> Path:
    folder = tmp_path_factory.mktemp('calibration')
    with bags.BagWriter(folder / 'quiet') as writer:
        for place, pixels in enumerate(road_drive(0, 120)):
            writer.write_image('/front/image_raw', place * STEP, pixels, 'bgr8')
    out = folder / 'quiet.json'
    options = ['--model', str(tiny_model), '--out', str(out), '--threads', '1']
    assert calibrate([str(folder / 'quiet'), *options]) == 0
    return out


class Camera:
    """A camera that sends frame by frame, and what the node says of it."""

    def __init__(self, peer: Any, image_message: Any) -> None:
        self.peer, self.message = peer, image_message
        self.events = peer.collect(String, '/front/anomaly/events')
        self.pictures = peer.collect(Image, '/front/anomaly/event_image')
        self.masks = peer.collect(Image, '/front/anomaly/mask', depth=100)
        self.diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
        self.publisher = peer.publisher(Image, '/front/image_raw')

    def send(self, pictures: list[np.ndarray], first_ns: int) -> None:
        """Send pictures 0.1 s apart, by their stamps, and wait for each one's result."""
        for place, pixels in enumerate(pictures):
            count = len(self.masks)
            self.publisher.publish(self.message(pixels, stamp=first_ns + place * STEP))
            assert self.peer.spin_until(lambda count=count: len(self.masks) > count)

    def told(self) -> list[dict[str, Any]]:
        """The events of its drift monitor; noise may show unknown objects, too."""
        found = [json.loads(event.data) for event in self.events]
        return [one for one in found if one['kind'] == 'drift']

    def picture_at(self, stamp_ns: int) -> Any:
        """The picture of the event with this stamp; None before it has come."""
        stamps = [one.header.stamp for one in self.pictures]
        found = [one.sec * SECOND + one.nanosec == stamp_ns for one in stamps]
        return self.pictures[found.index(True)] if any(found) else None

    def status(self) -> tuple[int, str, dict[str, str]]:
        """Level, message and values of the next diagnostics."""
        count = len(self.diagnostics)
        assert self.peer.spin_until(lambda: len(self.diagnostics) > count + 1)
        (one,) = [s for s in self.diagnostics[-1].status if s.hardware_id == '/front']
        return one.level[0], one.message, {pair.key: pair.value for pair in one.values}


def test_faults_are_told_within_two_seconds_and_a_quiet_drive_is_not(
    peer: Any,
    start_detector: Any,
    calibration: Path,
    road_drive: Callable[..., list[np.ndarray]],
    image_message: Any,
) -> None:
    start_detector(calibration=calibration, warn_silence=100.0)
    camera = Camera(peer, image_message)
    # Every case begins with a stamp before all others: a drive that is played anew.
    camera.send(road_drive(120, 40), 1000 * SECOND)
    level, message, values = camera.status()
    assert (level, message, camera.told()) == (0, 'running', [])
    assert values['drift'] == 'OK: as on the calibration drive'
    assert {'drift brightness', 'drift codes', 'drift alarms'} <= set(values)
    for number, fault in enumerate(CASES, 1):
        camera.events.clear()
        camera.pictures.clear()
        pictures = road_drive(120, BEFORE + 20)
        after = pictures[BEFORE:]
        bad = [faulty(p, fault, 3, place) for place, p in enumerate(after) if fault != FROZEN]
        start_ns = (1000 - 10 * number) * SECOND
        camera.send([*pictures[:BEFORE], *(bad or [pictures[BEFORE - 1]] * 20)], start_ns)
        assert peer.spin_until(camera.told), fault
        told = camera.told()[0]
        onset = start_ns + BEFORE * STEP
        assert onset <= told['stamp_ns'] <= onset + 2 * SECOND, told
        assert told['level'] in ('WARN', 'ERROR')
        assert told['figures'], 'what is out of its limits'
        picture = peer.spin_until(partial(camera.picture_at, told['stamp_ns']))
        assert (picture.height, picture.width, picture.encoding) == (180, 320, 'bgr8')
        level, message, values = camera.status()
        assert level in (1, 2) and message.startswith('drift: ')


def test_without_a_calibration_only_frozen_frames_are_told(
    peer: Any,
    start_detector: Any,
    road_drive: Callable[..., list[np.ndarray]],
    image_message: Any,
) -> None:
    start_detector(warn_silence=100.0)
    camera = Camera(peer, image_message)
    pictures = road_drive(0, 20)
    camera.send([faulty(p, 'underexposure', 5) for p in pictures], SECOND)
    level, _, values = camera.status()
    assert (level, camera.told()) == (0, [])
    assert 'not calibrated' in values['drift']
    camera.send([pictures[0]] * 8, 10 * SECOND)
    assert peer.spin_until(camera.told)
    assert camera.told()[0]['figures'] == {'frozen_s': 0.5}


def test_damaged_limits_keep_it_unconfigured(
    start_detector: Any, calibration: Path, tmp_path: Path
) -> None:
    fields = json.loads(calibration.read_text())
    fields['drift']['/front/image_raw']['scores'] = [1.0]
    (tmp_path / 'bad.json').write_text(json.dumps(fields))
    program = start_detector(wait='not configured', calibration=tmp_path / 'bad.json')
    assert 'calibrate the model that is in use' in program.output
    assert 'Traceback' not in program.output
