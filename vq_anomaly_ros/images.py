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

# encoding -> (dtype of a value, values a pixel, order of the colours)
_PLAIN: dict[str, tuple[str, int, Order]] = {
    'mono8': ('u1', 1, 'mono'),
    'rgb8': ('u1', 3, 'rgb'),
    'bgr8': ('u1', 3, 'bgr'),
    'rgba8': ('u1', 4, 'rgb'),
    'bgra8': ('u1', 4, 'bgr'),
    'mono16': ('u2', 1, 'mono'),
    'rgb16': ('u2', 3, 'rgb'),
    'bgr16': ('u2', 3, 'bgr'),
    'rgba16': ('u2', 4, 'rgb'),
    'bgra16': ('u2', 4, 'bgr'),
    # OpenCV's own types carry its order of the colours
    '8UC1': ('u1', 1, 'mono'),
    '8UC3': ('u1', 3, 'bgr'),
    '8UC4': ('u1', 4, 'bgr'),
    '16UC1': ('u2', 1, 'mono'),
    '16UC3': ('u2', 3, 'bgr'),
    '16UC4': ('u2', 4, 'bgr'),
    '32FC1': ('f4', 1, 'mono'),
    '32FC3': ('f4', 3, 'bgr'),
}
# encoding -> (dtype, OpenCV's conversion); named by the upper left two by two pixels
_BAYER: dict[str, tuple[str, int]] = {
    f'bayer_{pattern.lower()}{depth}': (f'u{depth // 8}', getattr(cv2, f'COLOR_Bayer{pattern}2BGR'))
    for pattern in ('RGGB', 'BGGR', 'GBRG', 'GRBG')
    for depth in (8, 16)
}
# 4:2:2 with two bytes a pixel (yuv422 is the older name of uyvy)
_PACKED: dict[str, int] = {
    'uyvy': cv2.COLOR_YUV2BGR_UYVY,
    'yuv422': cv2.COLOR_YUV2BGR_UYVY,
    'yuyv': cv2.COLOR_YUV2BGR_YUYV,
    'yuv422_yuy2': cv2.COLOR_YUV2BGR_YUYV,
}
# a plane of luma, behind it one of interleaved chroma: encoding -> halves of the picture's height
_PLANAR: dict[str, int] = {'nv12': 3, 'nv21': 3, 'nv24': 6}
_PLANAR_CODES = {'nv12': cv2.COLOR_YUV2BGR_NV12, 'nv21': cv2.COLOR_YUV2BGR_NV21}
# BT.601, studio range, full resolution of chroma (OpenCV has no code for it): YUV1 -> BGR
_YUV_TO_BGR = np.array(
    [[1.164, 2.018, 0.0], [1.164, -0.391, -0.813], [1.164, 0.0, 1.596]], np.float64
)
_YUV_OFFSET = np.array([16.0, 128.0, 128.0])

#: Every encoding of sensor_msgs/Image that is read without cv_bridge.
ENCODINGS = (*_PLAIN, *_BAYER, *_PACKED, *_PLANAR)

_COMPRESSED = {'jpeg': '.jpg', 'png': '.png'}
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_JPEG_MAGIC = b'\xff\xd8'
_FRAME_HEADERS = {bytes([0xC0 + n]) for n in range(16) if n not in (4, 8, 12)}
#: Pixels of a compressed picture: what a few bytes claim to be must not take all memory.
LARGEST_PICTURE = 1 << 27


class ImageError(ValueError):
    """An image message (or array) that cannot be used; the message says why and what to do."""


# OpenCV's codes by the order of a frame that is not RGB.
TO_RGB = {'bgr': cv2.COLOR_BGR2RGB, 'mono': cv2.COLOR_GRAY2RGB}


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

    def rgb(self) -> np.ndarray:
        """uint8 [H, W, 3] in RGB order; the pixels themselves where they are RGB already."""
        if self.order == 'rgb':
            return self.pixels
        return cv2.cvtColor(self.pixels, TO_RGB[self.order])


def as_frame(message: Any, bits: int = 16) -> Frame:
    """Frame of a sensor_msgs Image or CompressedImage, whichever library made the message.

    bgr8, rgb8, mono8, 8UC1 and 8UC3 become views that honour the row padding; every other one of
    ENCODINGS is converted: 16-bit values v to round(255 v / (2^bits - 1)), at most 255; 32FC1 and
    32FC3 from [0, 1] to round(255 v); Bayer patterns are demosaiced; 4:2:2 and NV12, NV21, NV24 are
    read as BT.601 of studio range. What is none of them is left to cv_bridge, where installed. jpeg
    and png are decoded to BGR as they are stored (an EXIF rotation is not applied: camera_info
    knows nothing of it).

    bits: significant bits of 16-bit values, 8..16; cameras of 10 or 12 bits fill a part of them.
    Raises ImageError, naming the cause and the remedy.
    """
    if hasattr(message, 'encoding'):
        return _raw_frame(message, bits)
    if hasattr(message, 'format'):
        pixels = _decoded(_bytes_of(message.data), str(message.format))
        return Frame(_in_8_bits(pixels, bits), 'bgr')
    raise ImageError(
        f'a message of type {type(message).__name__} is no picture: '
        'subscribe to a topic of sensor_msgs/Image or sensor_msgs/CompressedImage'
    )


def _raw_frame(message: Any, bits: int) -> Frame:
    encoding = str(message.encoding)
    if encoding in _PLAIN:
        dtype, channels, order = _PLAIN[encoding]
        pixels = _in_8_bits(_plane(message, dtype, channels), bits)
        if channels == 4:
            code = cv2.COLOR_RGBA2BGR if order == 'rgb' else cv2.COLOR_BGRA2BGR
            return Frame(cv2.cvtColor(pixels, code), 'bgr')
        return Frame(pixels, order)
    if encoding in _BAYER:
        return _bayer_frame(message, bits)
    if encoding in _PACKED:
        _check_even(message, width=True)
        return Frame(cv2.cvtColor(_plane(message, 'u1', 2), _PACKED[encoding]), 'bgr')
    if encoding in _PLANAR:
        return Frame(_planar_bgr(message), 'bgr')
    return Frame(_by_cv_bridge(message), 'bgr')


def _plane(message: Any, dtype: str, channels: int) -> np.ndarray:
    """[H, W] or [H, W, channels] of a message with interleaved pixels: a view where it can be."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = _bytes_of(message.data)
    need = width * channels * int(dtype[1])
    _check_layout(height, width, step, need, data.size, height)
    rows = data[: step * height].reshape(height, step)[:, :need]
    if dtype != 'u1':
        rows = rows.view(f'{">" if message.is_bigendian else "<"}{dtype}')
        # OpenCV knows neither foreign byte orders nor values at odd addresses.
        rows = np.require(rows, rows.dtype.newbyteorder('='), 'A')
    return rows if channels == 1 else rows.reshape(height, width, channels)


def _in_8_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """uint8 of pixels in uint8 (the same), uint16 or float32; see as_frame for the mapping."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return cv2.convertScaleAbs(pixels, alpha=255.0 / (2**bits - 1))
    if not np.isfinite(pixels).all():
        count = pixels.size - int(np.isfinite(pixels).sum())
        raise ImageError(
            f'{count} of {pixels.size} values of the image are not finite (nan or inf): a depth '
            'map or a broken driver; subscribe to a colour or grey picture'
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise ImageError(
            f'the values of the image go from {low:g} to {high:g}, outside of [0, 1]: a depth map '
            'is no picture, a picture of floats has to be scaled to [0, 1] by its driver'
        )
    return cv2.convertScaleAbs(pixels, alpha=255.0)


def _bayer_frame(message: Any, bits: int) -> Frame:
    dtype, code = _BAYER[str(message.encoding)]
    if min(int(message.height), int(message.width)) < 2:
        raise ImageError(
            f'a Bayer pattern of {message.width}x{message.height} has no two by two pixels: '
            'check the driver that publishes it'
        )
    mosaic = np.ascontiguousarray(_plane(message, dtype, 1))
    return Frame(_in_8_bits(cv2.cvtColor(mosaic, code), bits), 'bgr')


def _planar_bgr(message: Any) -> np.ndarray:
    """BGR of nv12, nv21 or nv24; `step` is the length of a row of luma.

    A step over both planes (their bytes by the height) is understood too: some drivers set it so.
    """
    encoding = str(message.encoding)
    height, width, step = int(message.height), int(message.width), int(message.step)
    halves = _PLANAR[encoding]
    _check_even(message, width=encoding != 'nv24', height=encoding != 'nv24')
    data = _bytes_of(message.data)
    over_both = width * halves // 2
    if step >= over_both and data.size < step * height * halves // 2:
        step = step * 2 // halves
    _check_layout(height, width, step, width, data.size, height * halves // 2)
    rows = data[: step * height * halves // 2].reshape(-1, step)
    if encoding != 'nv24':
        planes = np.ascontiguousarray(rows[:, :width])
        return cv2.cvtColor(planes, _PLANAR_CODES[encoding])
    chroma = rows[height:].reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
    yuv = np.dstack([rows[:height, :width], chroma])
    return cv2.transform(yuv, np.hstack([_YUV_TO_BGR, -_YUV_TO_BGR @ _YUV_OFFSET[:, None]]))


def _by_cv_bridge(message: Any) -> np.ndarray:
    """BGR of an encoding that is not read here, by cv_bridge, which is imported only now."""
    encoding = message.encoding
    try:
        from cv_bridge import CvBridge
    # An extension built for another numpy raises more than ImportError.
    except Exception as error:
        raise ImageError(
            f'the image has the encoding {encoding!r}, which is not converted here '
            f'({", ".join(ENCODINGS)} are), and cv_bridge, which may know it, cannot be used '
            f'({error}): install cv_bridge or let the driver publish another encoding'
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, desired_encoding='bgr8'))
    except Exception as error:
        raise ImageError(
            f'the image has the encoding {encoding!r}, which cv_bridge cannot convert either '
            f'({error}): let the driver publish one of {", ".join(ENCODINGS)}'
        ) from error


def _check_even(message: Any, width: bool = False, height: bool = False) -> None:
    if (width and int(message.width) % 2) or (height and int(message.height) % 2):
        raise ImageError(
            f'{message.encoding} shares colours between neighbours, so {message.width}x'
            f'{message.height} cannot be: check the size that the driver sets'
        )


def _check_layout(height: int, width: int, step: int, need: int, length: int, rows: int) -> None:
    """ImageError where `rows` rows of `step` bytes, `need` of them used, are not in the data."""
    if height <= 0 or width <= 0:
        raise ImageError(
            f'the image is empty ({width}x{height}): check the driver that publishes it'
        )
    if step < need:
        raise ImageError(
            f'the image has a step of {step} bytes where a row of {width} pixels needs '
            f'{need}: the driver has to set step to the bytes of one row'
        )
    if length < step * rows:
        raise ImageError(
            f'the image holds {length} bytes where {rows} rows of {step} bytes = '
            f'{step * rows} are needed: the message was cut or its fields are wrong, '
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
    """uint8 or uint16 [H, W, 3] BGR of a whole jpeg or png; ImageError for anything else."""
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
    if (claimed := _pixels_claimed(data.tobytes(), kind)) > LARGEST_PICTURE:
        raise ImageError(
            f'the {kind} of {data.size} bytes says that it has {claimed} pixels, more than '
            f'{LARGEST_PICTURE}: {remedy}'
        )
    # libjpeg fills what is missing with grey and only warns: such a picture would be "anomalous"
    if not _IS_WHOLE[kind](data.tobytes()):
        raise ImageError(f'the {kind} of {data.size} bytes was cut before its end: {remedy}')
    try:
        pixels = cv2.imdecode(
            data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        )
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


def _pixels_claimed(raw: bytes, kind: str) -> int:
    """Pixels that the header of a jpeg or png speaks of; 0 where it has none."""
    if kind == 'png':
        return int.from_bytes(raw[16:20], 'big') * int.from_bytes(raw[20:24], 'big')
    place = 2
    # Segments (marker, length, content) up to the frame header (ITU-T T.81, B.1.1 and B.2.2).
    while raw[place : place + 1] == b'\xff':
        marker = raw[place + 1 : place + 2]
        if marker in _FRAME_HEADERS:
            height, width = raw[place + 5 : place + 7], raw[place + 7 : place + 9]
            return int.from_bytes(height, 'big') * int.from_bytes(width, 'big')
        # A byte of filling before the marker itself.
        filled = marker == b'\xff'
        place += 1 if filled else 2 + int.from_bytes(raw[place + 2 : place + 4], 'big')
    return 0


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
    width = int.from_bytes(raw[position + 8 : position + 12], 'big')
    height = int.from_bytes(raw[position + 12 : position + 16], 'big')
    # Deflate packs at most 1032 to 1, and a pixel has at least one bit.
    if width * height > 8 * 1032 * len(raw):
        return False
    while position + 12 <= len(raw):
        if raw[position + 4 : position + 8] == b'IEND':
            return True
        position += 12 + int.from_bytes(raw[position : position + 4], 'big')
    return False


_IS_WHOLE = {'jpeg': _jpeg_is_whole, 'png': _png_is_whole}


def image_fields(pixels: np.ndarray, encoding: str, padding: int = 0) -> dict[str, Any]:
    """Fields of a sensor_msgs/Image, all but its header.

    pixels: [H, W] or [H, W, channels] of the dtype of the encoding (uint8, uint16 or float32);
    Bayer patterns [H, W]; 4:2:2 uint8 [H, W, 2]; nv12 and nv21 uint8 [3 H / 2, W], nv24 [3 H, W]:
    luma, behind it the rows of chroma. padding: bytes of 0 behind each row. `data` is a uint8
    [step * rows] view of the pixels, copied only where they are padded or not contiguous, in the
    byte order of this machine. Raises ImageError for an unknown encoding or pixels that contradict
    it.
    """
    dtype, channels, halves = _written_as(encoding)
    fits = pixels.ndim == 2 if channels == 1 else pixels.ndim == 3 and pixels.shape[2] == channels
    if not fits or pixels.dtype != np.dtype(dtype) or pixels.size == 0:
        shape = '[H, W]' if channels == 1 else f'[H, W, {channels}]'
        raise ImageError(
            f'pixels of shape {list(pixels.shape)} and dtype {pixels.dtype} cannot be {encoding}: '
            f'give a non-empty {np.dtype(dtype).name} array {shape}'
        )
    rows, width = pixels.shape[:2]
    if rows * 2 % halves:
        raise ImageError(
            f'{rows} rows cannot be {encoding}: its planes together are {halves} / 2 H'
        )
    data = np.ascontiguousarray(pixels).reshape(rows, -1).view(np.uint8)
    step = data.shape[1] + padding
    return {
        'height': rows * 2 // halves,
        'width': width,
        'encoding': encoding,
        'is_bigendian': int(sys.byteorder == 'big'),
        'step': step,
        'data': _padded(data, encoding, step).reshape(-1),
    }


def _padded(data: np.ndarray, encoding: str, step: int) -> np.ndarray:
    """Rows of bytes, each filled up to `step`; the chroma rows of nv24 are two of them long."""
    if encoding == 'nv24' and step > data.shape[1]:
        luma, chroma = np.split(data, [len(data) // 3])
        chroma = chroma.reshape(len(luma), -1)
        parts = (_padded(luma, 'mono8', step), _padded(chroma, 'mono8', 2 * step))
        return np.concatenate([part.reshape(-1) for part in parts])
    if step == data.shape[1]:
        return data
    return np.pad(data, ((0, 0), (0, step - data.shape[1])))


def _written_as(encoding: str) -> tuple[str, int, int]:
    """(dtype, values a pixel, halves of the height that the planes have) of an encoding."""
    if encoding in _PLAIN:
        return (*_PLAIN[encoding][:2], 2)
    if encoding in _BAYER:
        return _BAYER[encoding][0], 1, 2
    if encoding in _PACKED:
        return 'u1', 2, 2
    if encoding in _PLANAR:
        return 'u1', 1, _PLANAR[encoding]
    raise ImageError(
        f'the encoding {encoding!r} is not written here: use one of {", ".join(ENCODINGS)}'
    )


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
