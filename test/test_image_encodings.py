"""Every encoding of an image message against slow, obvious readings of its bytes."""

from __future__ import annotations

import array
import struct
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.images import ENCODINGS, ImageError, as_frame, image_fields

WIDE = {'mono16': 1, '16UC1': 1, 'rgb16': 3, 'bgr16': 3, '16UC3': 3, 'rgba16': 4, 'bgra16': 4}
WIDE['16UC4'] = 4
BYTES = {'mono8': 1, '8UC1': 1, 'rgb8': 3, 'bgr8': 3, '8UC3': 3, 'rgba8': 4, 'bgra8': 4, '8UC4': 4}
PACKED = ('uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2')
BAYER = tuple(name for name in ENCODINGS if name.startswith('bayer'))
sides = st.integers(1, 9)
paddings = st.integers(0, 5)


def message(encoding: str, height: int, width: int, step: int, data: bytes, big: bool) -> Any:
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, data=data, is_bigendian=int(big)
    )


def bgr_of(encoding: str, values: list[int]) -> list[int]:
    """Values of one pixel -> its blue, green and red."""
    if len(values) == 1:
        return values * 3
    return values[2::-1] if encoding.startswith('rgb') else values[:3]


def test_every_encoding_of_the_ros_list_is_read() -> None:
    listed = [
        'rgb8',
        'bgr8',
        'rgba8',
        'bgra8',
        'rgb16',
        'bgr16',
        'mono8',
        'mono16',
        '8UC1',
        '8UC3',
        '8UC4',
        '16UC1',
        '32FC1',
    ]
    listed += ['uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv21', 'nv24', 'nv12']
    listed += [f'bayer_{p}{n}' for p in ('rggb', 'bggr', 'gbrg', 'grbg') for n in (8, 16)]
    assert set(listed) <= set(ENCODINGS)


@given(sides, sides, paddings, st.sampled_from(sorted(BYTES)), st.randoms(use_true_random=False))
def test_bytes_pixel_by_pixel(
    height: int, width: int, padding: int, encoding: str, rng: Any
) -> None:
    channels = BYTES[encoding]
    step = width * channels + padding
    data = rng.randbytes(step * height)
    bgr = as_frame(message(encoding, height, width, step, data, False)).bgr()
    for y in range(height):
        for x in range(width):
            start = y * step + x * channels
            assert bgr[y, x].tolist() == bgr_of(encoding, [*data[start : start + channels]])


@given(
    sides,
    sides,
    paddings,
    st.sampled_from(sorted(WIDE)),
    st.booleans(),
    st.integers(8, 16),
    st.randoms(use_true_random=False),
)
def test_words_pixel_by_pixel_in_either_byte_order(
    height: int, width: int, padding: int, encoding: str, big: bool, bits: int, rng: Any
) -> None:
    channels = WIDE[encoding]
    step = 2 * width * channels + padding
    data = rng.randbytes(step * height)
    bgr = as_frame(message(encoding, height, width, step, data, big), bits).bgr()
    for y in range(height):
        for x in range(width):
            order = f'{">" if big else "<"}{channels}H'
            values = struct.unpack_from(order, data, y * step + 2 * x * channels)
            small = [min(round(255 * value / (2**bits - 1)), 255) for value in values]
            assert bgr[y, x].tolist() == bgr_of(encoding, small)


@pytest.mark.parametrize('bits', [8, 10, 12, 16])
def test_all_values_of_a_word(bits: int) -> None:
    values = np.arange(2**bits, dtype=np.uint16).reshape(16, -1)
    small = as_frame(SimpleNamespace(**image_fields(values, 'mono16')), bits).pixels
    exact = values.astype(float) * 255 / (2**bits - 1)
    assert np.abs(small - exact).max() <= 0.5
    assert (small.min(), small.max()) == (0, 255)


@given(sides, sides, paddings, st.booleans(), st.sampled_from(['32FC1', '32FC3']))
def test_floats_from_zero_to_one(
    height: int, width: int, padding: int, big: bool, encoding: str
) -> None:
    channels = int(encoding[-1])
    values = np.random.default_rng(0).random((height, width * channels), np.float32)
    rows = values.astype('>f4' if big else '<f4').view(np.uint8)
    data = np.pad(rows, ((0, 0), (0, padding)))
    frame = as_frame(message(encoding, height, width, data.shape[1], data.tobytes(), big))
    assert frame.order == ('mono' if channels == 1 else 'bgr')
    np.testing.assert_array_equal(
        frame.pixels.reshape(height, -1), np.rint(values.astype(float) * 255)
    )


@pytest.mark.parametrize(
    ('value', 'said'),
    [
        (np.nan, '1 of 6 values of the image are not finite'),
        (np.inf, 'not finite'),
        (-np.inf, 'not finite'),
        (1.5, 'go from 0 to 1.5'),
        (-0.1, 'go from -0.1 to 0'),
    ],
)
def test_floats_that_are_no_picture(value: float, said: str) -> None:
    values = np.zeros((2, 3), np.float32)
    values[1, 1] = value
    with pytest.raises(ImageError, match=said):
        as_frame(SimpleNamespace(**image_fields(values, '32FC1')))


COLOURS = {
    'red': (81, 90, 240),
    'green': (145, 54, 34),
    'blue': (41, 240, 110),
    'white': (235, 128, 128),
    'black': (16, 128, 128),
}
RGB = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255), 'white': (255,) * 3}
RGB['black'] = (0,) * 3


@pytest.mark.parametrize('colour', COLOURS)
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', [*PACKED, 'nv12', 'nv21', 'nv24'])
def test_colours_of_bt601(encoding: str, colour: str, padding: int) -> None:
    """The 100 % colour bars of ITU-R BT.601 in studio range."""
    y, u, v = COLOURS[colour]
    if encoding in PACKED:
        pair = [u, y, v, y] if encoding in ('uyvy', 'yuv422') else [y, u, y, v]
        pixels = np.tile(np.array(pair, np.uint8), (4, 3)).reshape(4, 6, 2)
    else:
        chroma = [v, u] if encoding == 'nv21' else [u, v]
        rows = 8 if encoding == 'nv24' else 2
        pixels = np.full((4 + rows, 6), y, np.uint8)
        pixels[4:] = np.tile(np.array(chroma, np.uint8), 3)
    frame = as_frame(SimpleNamespace(**image_fields(pixels, encoding, padding)))
    assert frame.size == (4, 6)
    expected = np.array(RGB[colour][::-1])
    assert np.abs(frame.bgr().astype(int) - expected).max() <= 3


def test_nv24_is_nv12_where_neighbours_share_their_colour() -> None:
    rng = np.random.default_rng(1)
    luma = rng.integers(16, 236, (6, 8), np.uint8)
    chroma = rng.integers(60, 200, (3, 4, 2), np.uint8)
    full = chroma.repeat(2, axis=0).repeat(2, axis=1)
    half = np.vstack([luma, chroma.reshape(3, 8)])
    whole = np.vstack([luma, full.reshape(12, 8)])
    one = as_frame(SimpleNamespace(**image_fields(half, 'nv12'))).bgr().astype(int)
    other = as_frame(SimpleNamespace(**image_fields(whole, 'nv24', 3))).bgr().astype(int)
    assert np.abs(one - other).max() <= 2


@pytest.mark.parametrize('encoding', ['nv12', 'nv24'])
def test_a_step_over_both_planes_is_understood(encoding: str) -> None:
    height = 4
    pixels = np.random.default_rng(2).integers(
        0, 255, (height * (6 if encoding == 'nv24' else 3) // 2, 6), np.uint8
    )
    fields = image_fields(pixels, encoding)
    usual = as_frame(SimpleNamespace(**fields)).pixels
    fields['step'] = len(fields['data']) // height
    assert np.array_equal(as_frame(SimpleNamespace(**fields)).pixels, usual)


@pytest.mark.parametrize('encoding', BAYER)
def test_bayer_patterns_by_a_slow_demosaic(encoding: str) -> None:
    """In the inside of a flat picture, bilinear demosaicing gives the colour itself."""
    pattern = encoding.removeprefix('bayer_')[:4]
    deep = encoding.endswith('16')
    colour = {'r': 200, 'g': 120, 'b': 40}
    mosaic = np.empty((8, 10), np.uint16 if deep else np.uint8)
    for y in range(8):
        for x in range(10):
            mosaic[y, x] = colour[pattern[2 * (y % 2) + x % 2]] * (257 if deep else 1)
    fields = image_fields(mosaic, encoding, padding=3)
    bgr = as_frame(SimpleNamespace(**fields)).bgr()
    assert np.abs(bgr[1:-1, 1:-1].astype(int) - [40, 120, 200]).max() <= 1


@pytest.mark.parametrize('encoding', [*PACKED, 'nv12', 'nv21'])
def test_odd_sizes_that_cannot_share_colours(encoding: str) -> None:
    with pytest.raises(ImageError, match='shares colours between neighbours, so 5x4'):
        as_frame(message(encoding, 4, 5, 20, bytes(400), False))


@pytest.mark.parametrize('padding', [0, 1, 7])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_fields_of_every_encoding_are_read_again(encoding: str, padding: int) -> None:
    """Padding changes nothing, and what is written has the size that the message says."""
    pixels = natural(encoding)
    plain = as_frame(SimpleNamespace(**image_fields(pixels, encoding)))
    fields = image_fields(pixels, encoding, padding)
    fields['data'] = array.array('B', fields['data'].tobytes())
    padded = as_frame(SimpleNamespace(**fields))
    assert padded.order == plain.order and padded.size == plain.size == (4, 6)
    np.testing.assert_array_equal(padded.pixels, plain.pixels)


def natural(encoding: str, height: int = 4, width: int = 6) -> np.ndarray:
    """Random pixels as `image_fields` takes them for a picture of this size."""
    rng = np.random.default_rng(0)
    if encoding.startswith('32FC'):
        shape = (height, width) if encoding[-1] == '1' else (height, width, 3)
        return rng.random(shape, np.float32)
    if encoding in PACKED:
        return rng.integers(0, 256, (height, width, 2), np.uint8)
    if encoding.startswith('nv'):
        return rng.integers(
            0, 256, (height * (6 if encoding == 'nv24' else 3) // 2, width), np.uint8
        )
    channels = {**BYTES, **WIDE}.get(encoding, 1)
    shape = (height, width) if channels == 1 else (height, width, channels)
    wide = encoding in WIDE or encoding.endswith('16')
    return rng.integers(0, 65536 if wide else 256, shape, np.uint16 if wide else np.uint8)


def test_rows_that_are_no_planes_are_refused() -> None:
    with pytest.raises(ImageError, match='7 rows cannot be nv12'):
        image_fields(np.zeros((7, 4), np.uint8), 'nv12')


@given(
    encoding=st.sampled_from([*ENCODINGS, 'bgr64', '']) | st.text(max_size=8),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 6),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 6),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 30),
    data=st.binary(max_size=200),
    big=st.booleans(),
)
def test_whatever_the_fields_say_it_is_a_frame_or_an_image_error(
    encoding: str, height: int, width: int, step: int, data: bytes, big: bool
) -> None:
    try:
        frame = as_frame(message(encoding, height, width, step, data, big))
    except ImageError as error:
        assert len(str(error)) > 20
    else:
        assert frame.size == (height, width)


def test_a_deep_png_takes_the_same_mapping() -> None:
    values = np.arange(0, 4096, 8, dtype=np.uint16).reshape(16, 32)
    data = cv2.imencode('.png', values)[1].tobytes()
    bgr = as_frame(SimpleNamespace(format='mono16; png compressed ', data=data), 12).bgr()
    np.testing.assert_allclose(bgr[..., 1], values * (255 / 4095), atol=0.51)


def test_a_png_that_claims_a_huge_picture_is_refused_at_once() -> None:
    data = bytearray(cv2.imencode('.png', np.zeros((4, 4), np.uint8))[1].tobytes())
    for side, said in ((30000, 'says that it has 900000000 pixels'), (9000, 'cut before its end')):
        data[16:24] = struct.pack('>II', side, side)
        with pytest.raises(ImageError, match=said):
            as_frame(SimpleNamespace(format='png', data=bytes(data)))


class Bridge:
    """A stand-in of cv_bridge that converts one encoding."""

    def imgmsg_to_cv2(self, message: Any, desired_encoding: str) -> np.ndarray:
        assert desired_encoding == 'bgr8'
        if message.encoding != 'special':
            raise RuntimeError('[special] is all that I know')
        return np.full((message.height, message.width, 3), 9, np.uint8)


def test_cv_bridge_is_asked_for_what_is_not_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType('cv_bridge')
    module.CvBridge = Bridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    frame = as_frame(message('special', 2, 3, 3, bytes(6), False))
    assert frame.order == 'bgr' and (frame.pixels == 9).all()
    with pytest.raises(ImageError, match=r"'other', which cv_bridge cannot convert either \(\["):
        as_frame(message('other', 2, 3, 3, bytes(6), False))


@pytest.mark.parametrize('broken', [ImportError('numpy.core'), AttributeError('_ARRAY_API')])
def test_a_cv_bridge_that_does_not_load_is_named(
    monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise broken

    monkeypatch.setitem(sys.modules, 'cv_bridge', Broken('cv_bridge'))
    with pytest.raises(
        ImageError, match=r"'special'.*cv_bridge, which may know it, cannot be used"
    ):
        as_frame(message('special', 2, 3, 3, bytes(6), False))


def test_plain_encodings_never_import_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)  # an import would raise
    for encoding in ENCODINGS:
        as_frame(SimpleNamespace(**image_fields(natural(encoding), encoding)))
