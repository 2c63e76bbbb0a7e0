"""Image messages to frames and back."""

from __future__ import annotations

import array
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.images import (
    Frame,
    ImageError,
    as_frame,
    as_message_data,
    compressed_fields,
    image_fields,
)

CHANNELS = {'bgr8': 3, 'rgb8': 3, 'mono8': 1}
sizes = st.integers(1, 12)


def image_message(**fields: object) -> SimpleNamespace:
    """An Image as rclpy and rosbags make it; by default a black bgr8 of 2x3."""
    message = SimpleNamespace(height=2, width=3, encoding='bgr8', step=9, data=b'\0' * 18)
    message.__dict__.update(fields)
    return message


def compressed_message(data: object, format: str = 'jpeg') -> SimpleNamespace:
    return SimpleNamespace(format=format, data=data)


@given(
    height=sizes,
    width=sizes,
    padding=sizes.map(lambda n: n - 1),
    surplus=st.integers(0, 5),
    encoding=st.sampled_from(sorted(CHANNELS)),
    seed=st.integers(0, 2**16),
)
def test_padded_rows_and_surplus_bytes_are_left_out(
    height: int, width: int, padding: int, surplus: int, encoding: str, seed: int
) -> None:
    row = width * CHANNELS[encoding]
    step = row + padding
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, step * height + surplus, dtype=np.uint8).tobytes()
    frame = as_frame(
        image_message(height=height, width=width, encoding=encoding, step=step, data=data)
    )
    expected = b''.join(data[y * step : y * step + row] for y in range(height))
    assert frame.pixels.tobytes() == expected
    assert frame.size == (height, width)


@pytest.mark.parametrize(('encoding', 'order'), [('bgr8', 'bgr'), ('rgb8', 'rgb')])
def test_order_follows_the_encoding(encoding: str, order: str) -> None:
    frame = as_frame(image_message(encoding=encoding))
    assert frame.order == order
    assert frame.pixels.shape == (2, 3, 3)


def test_mono_has_two_dimensions() -> None:
    frame = as_frame(image_message(encoding='mono8', step=4, data=bytes(range(8))))
    assert frame.order == 'mono'
    assert frame.pixels.tolist() == [[0, 1, 2], [4, 5, 6]]


@pytest.mark.parametrize('padding', [0, 7])
@pytest.mark.parametrize('make', [lambda a: a, lambda a: array.array('B', a.tobytes())])
def test_raw_images_are_views(make: object, padding: int) -> None:
    step = 9 + padding
    memory = make(np.zeros(2 * step, np.uint8))  # type: ignore[operator]
    frame = as_frame(image_message(step=step, data=memory))
    memory[step] = 77
    assert frame.pixels[1, 0, 0] == 77


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'data': b'\0' * 17}, ['17 bytes', '2 rows of 9 bytes', '18']),
        ({'height': 0}, ['empty']),
        ({'width': 0, 'step': 0}, ['empty']),
        ({'step': 8}, ['step of 8', '9', 'driver']),
        ({'encoding': 'bgr64'}, ["'bgr64'", 'bayer_rggb8', 'nv21', 'install cv_bridge']),
        ({'encoding': ''}, ["''", 'bgr8']),
        ({'data': 'text'}, ['str', 'byte buffer']),
    ],
)
def test_bad_images_are_refused_with_cause_and_remedy(
    fields: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ImageError) as caught:
        as_frame(image_message(**fields))
    for word in words:
        assert word in str(caught.value)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ImageError, match=r'SimpleNamespace.*sensor_msgs/Image'):
        as_frame(SimpleNamespace(text='hello'))


@given(height=sizes, width=sizes, encoding=st.sampled_from(sorted(CHANNELS)), strided=st.booleans())
def test_fields_round_trip(height: int, width: int, encoding: str, strided: bool) -> None:
    shape = (height, 2 * width, 3) if CHANNELS[encoding] == 3 else (height, 2 * width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = pixels[:, ::2] if strided else pixels[:, :width].copy()
    message = SimpleNamespace(**image_fields(pixels, encoding))
    assert np.array_equal(as_frame(message).pixels, pixels)


def test_fields_of_a_score() -> None:
    score = np.array([[0.0, 0.25, 1.0], [0.5, 0.125, 0.75]], np.float32)
    fields = image_fields(score, '32FC1')
    assert (fields['height'], fields['width'], fields['step']) == (2, 3, 12)
    assert fields['data'].view(np.float32).tolist() == score.ravel().tolist()


def test_contiguous_pixels_are_not_copied() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    assert np.shares_memory(image_fields(pixels, 'bgr8')['data'], pixels)


@pytest.mark.parametrize(
    ('pixels', 'encoding'),
    [
        (np.zeros((2, 2), np.uint8), 'bgr8'),
        (np.zeros((2, 2, 3), np.uint8), 'mono8'),
        (np.zeros((2, 2, 4), np.uint8), 'rgb8'),
        (np.zeros((2, 2), np.float64), '32FC1'),
        (np.zeros((0, 2), np.uint8), 'mono8'),
        (np.zeros((2, 2), np.uint8), 'mono16'),
    ],
)
def test_pixels_that_contradict_the_encoding_are_refused(pixels: np.ndarray, encoding: str) -> None:
    with pytest.raises(ImageError, match=encoding):
        image_fields(pixels, encoding)


@given(st.binary(max_size=50))
def test_message_data_holds_the_same_bytes(data: bytes) -> None:
    result = as_message_data(np.frombuffer(data, np.uint8))
    assert isinstance(result, array.array)
    assert result.typecode == 'B'
    assert result.tobytes() == data


def test_png_round_trip_is_exact(picture) -> None:
    pixels = picture(0, 37, 53)
    frame = as_frame(SimpleNamespace(**compressed_fields(pixels, 'png', 90)))
    assert frame.order == 'bgr'
    assert np.array_equal(frame.pixels, pixels)


def test_jpeg_round_trip_is_close_and_better_with_quality(picture) -> None:
    pixels = picture(0, 64, 96)
    errors, lengths = [], []
    for quality in (30, 95):
        fields = compressed_fields(pixels, 'jpeg', quality)
        decoded = as_frame(SimpleNamespace(**fields)).pixels.astype(int)
        errors.append(np.abs(decoded - pixels).mean())
        lengths.append(fields['data'].size)
    assert errors[1] < errors[0] < 12
    assert lengths[0] < lengths[1]


def test_grey_jpeg_becomes_bgr() -> None:
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    pixels = as_frame(SimpleNamespace(**compressed_fields(grey, 'jpeg', 100))).pixels
    assert pixels.shape == (16, 32, 3)
    assert (pixels.max(axis=2) == pixels.min(axis=2)).all()


@pytest.mark.parametrize('format', ['', 'bgr8; jpeg compressed bgr8', 'rgb8; jpeg compressed bgr8'])
@pytest.mark.parametrize('make', [bytes, lambda b: array.array('B', b)])
def test_every_way_to_write_the_format_is_read(picture, format: str, make) -> None:
    data = compressed_fields(picture(0, 16, 24), 'jpeg', 90)['data'].tobytes()
    assert as_frame(compressed_message(make(data), format)).size == (16, 24)


def test_zero_padding_behind_a_jpeg_is_no_damage(picture) -> None:
    data = compressed_fields(picture(0, 16, 24), 'jpeg', 90)['data'].tobytes()
    assert as_frame(compressed_message(data + b'\0' * 100)).size == (16, 24)


@pytest.mark.parametrize('format', ['jpeg', 'png'])
def test_a_cut_picture_is_refused_wherever_it_was_cut(picture, format: str) -> None:
    data = compressed_fields(picture(0, 24, 32), format, 90)['data'].tobytes()
    for length in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(ImageError):
            as_frame(compressed_message(data[:length], format))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        as_frame(compressed_message(data))


@given(st.binary(max_size=200))
def test_noise_between_the_markers_of_a_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        as_frame(compressed_message(b'\xff\xd8\xff\xda' + data + b'\xff\xd9'))


@given(position=st.integers(0), value=st.integers(0, 255))
def test_a_damaged_byte_of_a_png_gives_a_picture_or_an_image_error(
    position: int, value: int
) -> None:
    data = bytearray(compressed_fields(np.eye(9, dtype=np.uint8), 'png')['data'].tobytes())
    data[position % len(data)] = value
    try:
        frame = as_frame(compressed_message(bytes(data), 'png'))
    except ImageError:
        return
    assert frame.pixels.dtype == np.uint8


def test_depth_is_refused() -> None:
    with pytest.raises(ImageError, match='depth'):
        as_frame(compressed_message(b'\0' * 30, '16UC1; compressedDepth png'))


def test_exif_rotation_is_not_applied(picture) -> None:
    data = compressed_fields(picture(0, 16, 24), 'jpeg', 90)['data'].tobytes()
    tiff = b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    exif = b'Exif\0\0' + tiff
    turned = data[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + data[2:]
    rotated = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert rotated.shape[:2] == (24, 16), 'the test has to turn the picture'
    assert as_frame(compressed_message(turned)).size == (16, 24)


@pytest.mark.parametrize(('format', 'quality'), [('webp', 90), ('jpeg', 0), ('jpeg', 101)])
def test_bad_compression_settings_are_refused(format: str, quality: int) -> None:
    with pytest.raises(ImageError):
        compressed_fields(np.zeros((4, 4, 3), np.uint8), format, quality)


@pytest.mark.parametrize('pixels', [np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)])
def test_pixels_that_cannot_be_compressed_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match='uint8'):
        compressed_fields(pixels, 'png')


@pytest.mark.parametrize(
    ('pixels', 'order'),
    [
        (np.zeros((2, 2), np.uint8), 'bgr'),
        (np.zeros((2, 2, 3), np.uint8), 'mono'),
        (np.zeros((2, 2, 3), np.float32), 'rgb'),
        (np.zeros((0, 2, 3), np.uint8), 'rgb'),
    ],
)
def test_a_frame_checks_its_pixels(pixels: np.ndarray, order) -> None:
    with pytest.raises(ImageError, match=order):
        Frame(pixels, order)


def test_bgr_of_every_order() -> None:
    red = np.array([[[250, 10, 20]]], np.uint8)
    assert Frame(red, 'rgb').bgr().tolist() == [[[20, 10, 250]]]
    assert Frame(red, 'bgr').bgr() is red
    assert Frame(np.array([[7]], np.uint8), 'mono').bgr().tolist() == [[[7, 7, 7]]]


def test_messages_of_rosbags_are_read() -> None:
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    stamp = store.types['builtin_interfaces/msg/Time'](sec=0, nanosec=0)
    header = store.types['std_msgs/msg/Header'](stamp=stamp, frame_id='')
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    kind = 'sensor_msgs/msg/Image'
    message = store.types[kind](header=header, **image_fields(pixels, 'rgb8'))
    received = store.deserialize_cdr(store.serialize_cdr(message, kind), kind)
    assert np.array_equal(as_frame(received).pixels, pixels)


def test_messages_of_rclpy_are_read() -> None:
    messages = pytest.importorskip('sensor_msgs.msg')
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = messages.Image()
    fields = image_fields(pixels, 'bgr8')
    for name, value in fields.items():
        setattr(message, name, as_message_data(value) if name == 'data' else value)
    assert np.array_equal(as_frame(message).pixels, pixels)


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_a_few_bytes_that_claim_a_gigapixel_are_refused(kind: str) -> None:
    data = bytearray(compressed_fields(np.zeros((16, 16, 3), np.uint8), kind)['data'].tobytes())
    if kind == 'png':
        data[16:24] = (40_000).to_bytes(4, 'big') * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
    else:
        place = data.index(b'\xff\xc0')
        data[place + 5 : place + 9] = (40_000).to_bytes(2, 'big') * 2
    with pytest.raises(ImageError, match='says that it has 1600000000 pixels'):
        as_frame(SimpleNamespace(format=kind, data=bytes(data)))
