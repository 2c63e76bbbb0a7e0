"""Image messages to numpy views, and numpy arrays to the fields of image messages.

Duck-typed: the messages of rclpy and of rosbags are read alike, and this module imports neither.
"""

from __future__ import annotations

import array
import sys
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

Order = Literal['rgb', 'bgr', 'mono']

# encoding -> (channels, dtype) of what image_fields writes
_LAYOUTS: dict[str, tuple[int, type]] = {
    'bgr8': (3, np.uint8),
    'rgb8': (3, np.uint8),
    'mono8': (1, np.uint8),
    '32FC1': (1, np.float32),
}
# encoding -> order of the channels, for what as_frame reads
_ORDERS: dict[str, Order] = {'bgr8': 'bgr', 'rgb8': 'rgb', 'mono8': 'mono'}
_COMPRESSED = {'jpeg': '.jpg', 'png': '.png'}
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_JPEG_MAGIC = b'\xff\xd8'


class ImageError(ValueError):
    """An image message (or array) that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a camera.

    pixels: uint8 [H, W, 3] for the orders 'rgb' and 'bgr', [H, W] for 'mono'; possibly a read-only
    view with padded rows into the memory of a message.
    """

    pixels: np.ndarray
    order: Order

    def __post_init__(self) -> None:
        """Raise ImageError where the pixels are not what the order says."""
        shape = self.pixels.shape
        fits = len(shape) == 2 if self.order == 'mono' else len(shape) == 3 and shape[2] == 3
        if not fits or self.pixels.dtype != np.uint8 or self.pixels.size == 0:
            raise ImageError(
                f'pixels of shape {list(shape)} and dtype {self.pixels.dtype} are no {self.order} '
                'frame: give a non-empty uint8 array [H, W, 3], or [H, W] for mono'
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def bgr(self) -> np.ndarray:
        """uint8 [H, W, 3] in BGR order; the pixels themselves where they are BGR already."""
        if self.order == 'bgr':
            return self.pixels
        code = cv2.COLOR_RGB2BGR if self.order == 'rgb' else cv2.COLOR_GRAY2BGR
        return cv2.cvtColor(self.pixels, code)


def as_frame(message: Any) -> Frame:
    """Frame of a sensor_msgs Image or CompressedImage, whichever library made the message.

    bgr8, rgb8 and mono8 become views that honour the row padding; jpeg and png are decoded to BGR
    as they are stored (an EXIF rotation is not applied: camera_info knows nothing of it).
    Raises ImageError, naming the cause and the remedy.
    """
    if hasattr(message, 'encoding'):
        return _raw_frame(message)
    if hasattr(message, 'format'):
        return Frame(_decoded(_bytes_of(message.data), str(message.format)), 'bgr')
    raise ImageError(
        f'a message of type {type(message).__name__} is no picture: '
        'subscribe to a topic of sensor_msgs/Image or sensor_msgs/CompressedImage'
    )


def _raw_frame(message: Any) -> Frame:
    encoding = str(message.encoding)
    if encoding not in _ORDERS:
        raise ImageError(
            f'the image has the encoding {encoding!r}, which is not converted here: '
            f'let the camera driver or image_proc publish one of {", ".join(_ORDERS)}'
        )
    channels, _ = _LAYOUTS[encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = _bytes_of(message.data)
    _check_layout(height, width, step, channels, data.size)
    rows = data[: step * height].reshape(height, step)[:, : width * channels]
    pixels = rows if channels == 1 else rows.reshape(height, width, channels)
    return Frame(pixels, _ORDERS[encoding])


def _check_layout(height: int, width: int, step: int, channels: int, length: int) -> None:
    if height <= 0 or width <= 0:
        raise ImageError(
            f'the image is empty ({width}x{height}): check the driver that publishes it'
        )
    if step < width * channels:
        raise ImageError(
            f'the image has a step of {step} bytes where {width} pixels of {channels} byte(s) need '
            f'{width * channels}: the driver has to set step to the bytes of one row'
        )
    if length < step * height:
        raise ImageError(
            f'the image holds {length} bytes where step x height = {step} x {height} = '
            f'{step * height} are needed: the message was cut or its fields are wrong, '
            'check the driver and the transport'
        )


def _bytes_of(data: Any) -> np.ndarray:
    """uint8 [n] view of a message's data: array.array, bytes, or a numpy array."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(
            f'the data of the message ({type(data).__name__}) is no byte buffer ({error}): '
            'fill it with an array.array("B"), bytes or a contiguous uint8 array'
        ) from error


def _decoded(data: np.ndarray, form: str) -> np.ndarray:
    """uint8 [H, W, 3] BGR of a whole jpeg or png; ImageError for anything else."""
    remedy = 'check the publisher and the transport'
    if 'compresseddepth' in form.lower():
        raise ImageError(
            f'the compressed image has the format {form!r}, a depth map: '
            'subscribe to a colour or grey picture in jpeg or png'
        )
    kind = _kind_of(data)
    if kind is None:
        raise ImageError(
            f'the compressed image (format {form!r}, {data.size} bytes) is neither jpeg nor png: '
            'set the image_transport of the publisher to one of them'
        )
    # libjpeg fills what is missing with grey and only warns: such a picture would be "anomalous"
    if not _IS_WHOLE[kind](data.tobytes()):
        raise ImageError(f'the {kind} of {data.size} bytes was cut before its end: {remedy}')
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f'the {kind} cannot be decoded ({error.err}): {remedy}') from error
    if pixels is None:
        raise ImageError(f'the {kind} of {data.size} bytes cannot be decoded: {remedy}')
    return pixels


def _kind_of(data: np.ndarray) -> str | None:
    head = data[: len(_PNG_MAGIC)].tobytes()
    if head.startswith(_JPEG_MAGIC):
        return 'jpeg'
    return 'png' if head == _PNG_MAGIC else None


def _jpeg_is_whole(raw: bytes) -> bool:
    """Whether the end marker is there.

    In the entropy-coded part FF is always followed by 00 or a restart marker (ITU-T T.81, B.1.1.5),
    so the last start-of-scan marker found is a real one and the end must come after it.
    """
    return raw.rfind(b'\xff\xd9') > raw.rfind(b'\xff\xda') > 0


def _png_is_whole(raw: bytes) -> bool:
    """Whether the chunks (length, type, data, CRC) lead from IHDR to IEND within the data.

    OpenCV believes a length first and looks later: a damaged one costs it seconds and gigabytes.
    """
    position = len(_PNG_MAGIC)
    if raw[position : position + 8] != b'\0\0\0\x0dIHDR':
        return False
    while position + 12 <= len(raw):
        if raw[position + 4 : position + 8] == b'IEND':
            return True
        position += 12 + int.from_bytes(raw[position : position + 4], 'big')
    return False


_IS_WHOLE = {'jpeg': _jpeg_is_whole, 'png': _png_is_whole}


def image_fields(pixels: np.ndarray, encoding: str) -> dict[str, Any]:
    """Fields of a sensor_msgs/Image, all but its header.

    pixels: uint8 [H, W, 3] for 'bgr8' and 'rgb8', uint8 [H, W] for 'mono8', float32 [H, W] for
    '32FC1'. `data` is a uint8 [step * H] view of the pixels, copied only where they are not
    contiguous. Raises ImageError for an unknown encoding or pixels that contradict it.
    """
    if encoding not in _LAYOUTS:
        raise ImageError(
            f'the encoding {encoding!r} is not written here: use one of {", ".join(_LAYOUTS)}'
        )
    channels, dtype = _LAYOUTS[encoding]
    shape = '[H, W, 3]' if channels == 3 else '[H, W]'
    fits = pixels.ndim == 2 if channels == 1 else pixels.ndim == 3 and pixels.shape[2] == channels
    if not fits or pixels.dtype != dtype or pixels.size == 0:
        raise ImageError(
            f'pixels of shape {list(pixels.shape)} and dtype {pixels.dtype} cannot be {encoding}: '
            f'give a non-empty {np.dtype(dtype).name} array {shape}'
        )
    height, width = pixels.shape[:2]
    return {
        'height': height,
        'width': width,
        'encoding': encoding,
        'is_bigendian': int(sys.byteorder == 'big'),
        'step': width * channels * np.dtype(dtype).itemsize,
        'data': np.ascontiguousarray(pixels).reshape(-1).view(np.uint8),
    }


def as_message_data(data: np.ndarray) -> array.array[int]:
    """array.array('B') of a contiguous uint8 array: what rclpy takes as it is, fastest."""
    buffer = array.array('B')
    buffer.frombytes(data.data.cast('B'))
    return buffer


def compressed_fields(pixels_bgr: np.ndarray, format: str, quality: int = 90) -> dict[str, Any]:
    """Fields of a sensor_msgs/CompressedImage, all but its header.

    pixels_bgr: uint8 [H, W, 3] in BGR order, or [H, W] grey; format: 'jpeg' or 'png';
    quality: 1..100, of a jpeg (a png is lossless and ignores it). `data` is uint8 [n].
    """
    if format not in _COMPRESSED:
        raise ImageError(
            f'the compressed format {format!r} is not written here: '
            f'use one of {", ".join(_COMPRESSED)}'
        )
    if pixels_bgr.dtype != np.uint8 or pixels_bgr.size == 0:
        raise ImageError(
            f'pixels of shape {list(pixels_bgr.shape)} and dtype {pixels_bgr.dtype} cannot be '
            f'compressed: give a non-empty uint8 array'
        )
    if not 1 <= quality <= 100:
        raise ImageError(f'a jpeg quality of {quality} is out of range: give 1 to 100')
    settings = [cv2.IMWRITE_JPEG_QUALITY, int(quality)] if format == 'jpeg' else []
    done, data = cv2.imencode(_COMPRESSED[format], pixels_bgr, settings)
    if not done:
        raise ImageError(f'OpenCV could not write the picture as {format}: check its size')
    return {'format': format, 'data': data.reshape(-1)}
