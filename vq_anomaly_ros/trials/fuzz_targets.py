"""What is fuzzed: each target takes bytes or a message and lets only its own error out.

Seeds are valid inputs; a target's `check` raises whatever is a defect: another exception, a frame
that is none, a value out of its range.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.context import Context

from vq_anomaly_ros.detection import calibration_file, model_file
from vq_anomaly_ros.detection.calibration import Calibration, CalibrationError
from vq_anomaly_ros.detection.calibration_file import (
    CalibratedBag,
    CalibrationFile,
    FrameTable,
    RealisedRate,
)
from vq_anomaly_ros.detection.model_file import ModelFileError
from vq_anomaly_ros.images import ENCODINGS, ImageError, as_frame, compressed_fields, image_fields
from vq_anomaly_ros.node import parameters
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.trials.moody_model import write_moody_model

# Numbers at which sizes, steps and lengths go wrong.
EDGES = (0, 1, 2, 3, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Target:
    """seeds: valid inputs, for a folder to write into; check: see above; files: whether the inputs
    count as files (messages else).
    """

    name: str
    seeds: Callable[[Path], Sequence[bytes]]
    check: Callable[[bytes], None]
    files: bool = True


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A seed with one to eight changes: bytes, pieces cut, doubled, moved, filled; numbers."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        chance.choice(_CHANGES)(data, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 2, 4, 16, 64, 1024)))


def _set_bytes(data: bytearray, chance: random.Random) -> None:
    start, end = _place(data, chance)
    data[start:end] = chance.randbytes(end - start)


def _set_number(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    number = chance.choice(EDGES).to_bytes(4, chance.choice(('little', 'big')))
    data[start : start + 4] = number


def _flip_bit(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _cut(data: bytearray, chance: random.Random) -> None:
    start, end = _place(data, chance)
    if chance.random() < 0.3:
        end = len(data)
    del data[start:end]


def _double(data: bytearray, chance: random.Random) -> None:
    start, end = _place(data, chance)
    data[start:start] = data[start:end] * chance.choice((1, 1, 2, 16))


def _move(data: bytearray, chance: random.Random) -> None:
    start, end = _place(data, chance)
    piece = bytes(data[start:end])
    del data[start:end]
    place = chance.randrange(len(data) + 1)
    data[place:place] = piece


_CHANGES = (_set_bytes, _set_number, _flip_bit, _flip_bit, _cut, _double, _move)


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _image_seeds(folder: Path) -> list[bytes]:
    """A header of JSON in a line of its own, then the data: what `check_image` reads."""
    seeds = []
    picture = _picture(12, 16)
    for encoding in ENCODINGS:
        try:
            fields = image_fields(_in_encoding(picture, encoding), encoding)
        except ImageError:
            continue
        data = fields.pop('data').tobytes()
        seeds.append(json.dumps({**fields, 'bits': 16}).encode() + b'\n' + data)
    return seeds


def _in_encoding(picture: np.ndarray, encoding: str) -> np.ndarray:
    """Random values of a shape that fits the encoding; ImageError where none is tried."""
    for shape in (picture.shape, picture.shape[:2], (12, 16, 4), (12, 16, 2), (18, 16), (36, 16)):
        for dtype in (np.uint8, np.uint16, np.float32):
            values: np.ndarray = np.resize(picture, shape).astype(dtype)
            if dtype == np.float32:
                values /= 255
            try:
                image_fields(values, encoding)
            except ImageError:
                continue
            return values
    raise ImageError(f'no picture in {encoding}')


def check_image(data: bytes) -> None:
    """An Image message becomes a frame, or an ImageError says why not."""
    head, _, pixels = data.partition(b'\n')
    try:
        fields = json.loads(head)
        message = SimpleNamespace(
            height=abs(int(fields['height'])) % 2**32,
            width=abs(int(fields['width'])) % 2**32,
            step=abs(int(fields['step'])) % 2**32,
            encoding=str(fields['encoding']),
            is_bigendian=int(fields['is_bigendian']) % 256,
            data=pixels,
        )
        bits = min(16, max(8, int(fields['bits'])))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return  # no message that ROS would hand over
    _check_frame(message, bits)


def _check_frame(message: Any, bits: int = 16) -> None:
    try:
        frame = as_frame(message, bits)
    except ImageError:
        return
    height, width = frame.size
    shape = (height, width) if frame.order == 'mono' else (height, width, 3)
    if frame.pixels.dtype != np.uint8 or frame.pixels.shape != shape or not frame.pixels.size:
        raise AssertionError(f'{frame.pixels.dtype} {frame.pixels.shape} is no frame')
    int(frame.pixels.max())  # a view beyond its memory would show here


def _compressed_seeds(folder: Path) -> list[bytes]:
    picture = _picture(24, 32)
    grey = picture[:, :, 0]
    seeds = [
        compressed_fields(image, kind, quality)['data'].tobytes()
        for image in (picture, grey)
        for kind, quality in (('jpeg', 90), ('jpeg', 10), ('png', 90))
    ]
    seeds.append(cv2.imencode('.png', grey.astype(np.uint16) * 256)[1].tobytes())
    return seeds


def check_compressed(data: bytes) -> None:
    """A CompressedImage message becomes a frame, or an ImageError says why not."""
    for kind in ('jpeg', 'png'):
        _check_frame(SimpleNamespace(format=kind, data=data))


def _model_seeds(folder: Path) -> list[bytes]:
    return [write_moody_model(folder / 'seed.onnx').read_bytes()]


def check_model(data: bytes) -> None:
    """A model file is read, or a ModelFileError says why not."""
    with _as_file(data, '.onnx') as path:
        try:
            model_file.read(path)
        except ModelFileError:
            return
        model_file.pruned(path, ['score'])


def _calibration_seeds(folder: Path) -> list[bytes]:
    info = model_file.read(write_moody_model(folder / 'seed.onnx')).info
    scores = [np.linspace(0.0, 1.0, 2000)]
    table = Calibration.from_scores(scores, 'drive', score_range=(0.0, 1.0), date='2026-01-01')
    made = CalibrationFile(
        model_name=info.name,
        method=info.method,
        weights_sha256=info.weights_sha256,
        date='2026-01-01',
        bags=(CalibratedBag('drive', '/front/image_raw', 100),),
        polluted=0.01,
        overall=table,
        frame_table=FrameTable(np.linspace(0.1, 0.9, 100, dtype=np.float32), 100),
        classes={'road': table},
        realised=(RealisedRate('pixel', 1e-3, 1.1e-3, 5e-4, 2e-3),),
    )
    return [made.to_json().encode()]


def check_calibration(data: bytes) -> None:
    """A calibration file is read, or a CalibrationError says why not."""
    with _as_file(data, '.json') as path:
        try:
            found = calibration_file.read(path)
        except CalibrationError:
            return
    probability = found.overall.apply(np.linspace(-10, 10, 32, dtype=np.float32))
    if not ((probability >= 0) & (probability <= 1)).all():
        raise AssertionError('a calibrated score is outside of [0, 1]')


def _bag_seeds(folder: Path) -> list[bytes]:
    with bags.BagWriter(folder / 'seed') as writer:
        for number in range(3):
            writer.write_image(
                '/front/image_raw', 10**9 * (number + 1), _picture(6, 8), 'bgr8', 'c'
            )
    return [next((folder / 'seed').glob('*.mcap')).read_bytes()]


def check_bag(data: bytes) -> None:
    """A bag is read to its end, or a BagError says why not; its pictures may be none."""
    with _as_file(data, '.mcap') as path:
        try:
            for _, _, message in bags.read_images(path, None):
                _check_frame(message)
        except bags.BagError:
            return


def _parameter_seeds(folder: Path) -> list[bytes]:
    return [
        b"/**:\n  ros__parameters:\n    model: 'street'\n    cameras: ['/front', '/rear']\n"
        b'    target_fpr: 0.001\n    threads: 2\n    autostart: false\n',
        b'anomaly_detector:\n  ros__parameters:\n    output_size: network\n    qos_overrides:\n'
        b'      /front/anomaly/score:\n        publisher: {reliability: best_effort, depth: 1}\n',
    ]


def check_parameters(data: bytes) -> None:
    """ROS takes a parameter file, or refuses it; what it takes is settled or named."""
    with _as_file(data, '.yaml') as path:
        context = Context()
        try:
            rclpy.init(args=['--ros-args', '--params-file', str(path)], context=context)
        except (RuntimeError, UnicodeError):
            return
        try:
            node = rclpy.create_node(
                'anomaly_detector', context=context, enable_rosout=False,
                start_parameter_services=False,
            )  # fmt: skip
        except (RuntimeError, ValueError, TypeError, UnicodeError):
            return
        else:
            found = parameters.declare(node)
            for name, sentence in found.problems.items():
                if name not in sentence:
                    raise AssertionError(f'{sentence!r} does not name {name}')
            node.destroy_node()
        finally:
            rclpy.try_shutdown(context=context)


@contextmanager
def _as_file(data: bytes, suffix: str) -> Iterator[Path]:
    """A file of these bytes, gone with the block."""
    with tempfile.NamedTemporaryFile(suffix=suffix, dir=_RAM) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


# Files that live for a millisecond need not see a disk.
_RAM = '/dev/shm' if Path('/dev/shm').is_dir() else None  # noqa: S108  # nosec B108

TARGETS = {
    target.name: target
    for target in (
        Target('image', _image_seeds, check_image, files=False),
        Target('compressed', _compressed_seeds, check_compressed, files=False),
        Target('model', _model_seeds, check_model),
        Target('calibration', _calibration_seeds, check_calibration),
        Target('bag', _bag_seeds, check_bag),
        Target('parameters', _parameter_seeds, check_parameters),
    )
}
