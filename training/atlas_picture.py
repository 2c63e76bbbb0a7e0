"""The picture of a codebook: a row a class, its codevectors side by side with their patches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.detection.atlas import Atlas

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

WIDTH = 1600  # pixels, at most
_MOST_COLUMNS = 10  # codevectors in a line: more of a class go on in the next
_LARGEST_UNIT = 64  # pixels of a small patch, where there is room for more
_LABELS = 180  # pixels left of the codevectors, for what is said of the class
_MARGIN = 12
_GAP = 10  # between codevectors
_SEAM = 1  # between patches of a codevector
_CAPTION = 26  # below a codevector
_HEAD = 62

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# BGR
_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)
_INK: Colour = (40, 40, 40)
_FAINT: Colour = (110, 110, 110)
_PALE: Colour = (232, 232, 232)


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels; a codevector has `across` x `down` small patches, a line `columns` of it."""

    columns: int
    lines: int
    across: int
    down: int
    unit: int

    @property
    def side(self) -> int:
        """Width of a codevector."""
        return self.across * self.unit + (self.across - 1) * _SEAM

    @property
    def base(self) -> int:
        """Height of the patches of a codevector."""
        return self.down * self.unit + (self.down - 1) * _SEAM

    @property
    def line(self) -> int:
        """Height of a line of codevectors."""
        return self.base + _CAPTION

    @property
    def row(self) -> int:
        """Height of a class, with the space to the next."""
        return self.lines * self.line + (self.lines - 1) * _GAP + 2 * _MARGIN

    @property
    def width(self) -> int:
        """Of the picture."""
        return _LABELS + self.columns * (self.side + _GAP) - _GAP + 2 * _MARGIN


def draw(atlas: Atlas, palette: Sequence[Colour]) -> Image:
    """The picture of a codebook: uint8 [H, W, 3] BGR, W at most WIDTH.

    palette: RGB, one a class. A row a class; its codevectors come in the order of their use, each
    with its nearest patches, the nearest of all twice as large as the others, its number, and its
    share of the positions of the class. A ring marks the position in the nearest patch.
    """
    layout = _layout(atlas)
    height = _HEAD + len(atlas.classes) * layout.row
    head = max(_text_width(text, size, width) for text, size, _, width in _head(atlas))
    width = min(max(layout.width, head + 2 * _MARGIN), WIDTH)
    canvas: Image = np.full((height, width, 3), 255, np.uint8)
    _draw_head(canvas, atlas)
    for index, colour in enumerate(palette):
        top = _HEAD + index * layout.row
        _draw_class(canvas[top : top + layout.row], atlas, index, colour[::-1], layout)
    return canvas


def as_jpeg(picture: Image, limit: int) -> bytes:
    """The bytes of a JPEG of a picture, as good as `limit` bytes allow; smaller if it must be."""
    while True:
        for quality in range(92, 43, -4):
            data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(data) <= limit or max(picture.shape[:2]) < 64:
                return data
        picture = _resized(picture, 0.9)


def _resized(picture: Image, factor: float) -> Image:
    resized = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _layout(atlas: Atlas) -> _Layout:
    columns = min(atlas.codevectors_per_class, _MOST_COLUMNS)
    lines = -(-atlas.codevectors_per_class // columns)
    small = atlas.patches.shape[1] - 1
    # the nearest patch takes the room of four
    across = math.ceil(math.sqrt(4 + small))
    down = max(2, -(-(4 + small) // across))
    room = WIDTH - _LABELS - 2 * _MARGIN - (columns - 1) * _GAP
    unit = (room // columns - (across - 1) * _SEAM) // across
    return _Layout(columns, lines, across, down, min(unit, _LARGEST_UNIT))


def _slots(layout: _Layout) -> Iterator[tuple[int, int, int]]:
    """Left, top and side of each patch of a codevector: a large one, then the small ones."""
    step = layout.unit + _SEAM
    yield 0, 0, step + layout.unit
    for row in range(layout.down):
        for column in range(layout.across):
            if row > 1 or column > 1:
                yield column * step, row * step, layout.unit


def _head(atlas: Atlas) -> tuple[tuple[str, float, Colour, int], ...]:
    """The lines above the codebook: text, size, colour, thickness."""
    title = f'What the codevectors of the model {atlas.model} stand for'
    explanation = (
        f'Each codevector with the picture patches nearest to it, the very nearest large with a '
        f'ring at the position. Below: its number, and its share of its class. {atlas.frames} '
        f'pictures ({atlas.source}), {atlas.unused} of {len(atlas.count)} codevectors unused.'
    )
    return (title, 0.7, _INK, 2), (explanation, 0.48, _FAINT, 1)


def _draw_head(canvas: Image, atlas: Atlas) -> None:
    room = canvas.shape[1] - 2 * _MARGIN
    for number, (text, size, colour, width) in enumerate(_head(atlas)):
        _write_fitting(canvas, text, (_MARGIN, 26 + 24 * number), room, size, colour, width)


def _draw_class(row: Image, atlas: Atlas, index: int, colour: Colour, layout: _Layout) -> None:
    row[0] = _PALE
    cv2.rectangle(row, (_MARGIN, _MARGIN), (_MARGIN + 14, row.shape[0] - _MARGIN), colour, -1)
    m = atlas.codevectors_per_class
    lines = (
        f'perplexity {atlas.perplexity[index]:.1f} of {m}',
        f'{_percent(atlas.class_shares[index])} of all positions',
    )
    left, room = _MARGIN + 24, _LABELS - 34
    _write_fitting(row, atlas.classes[index], (left, _MARGIN + 18), room, 0.65, _INK, 2)
    for number, line in enumerate(lines):
        origin = (left, _MARGIN + 46 + 22 * number)
        _write_fitting(row, line, origin, room, 0.48, _FAINT, 1)
    first = index * m
    order = first + np.argsort(-atlas.count[first : first + m], kind='stable')
    for number, code in enumerate(order):
        down, right = divmod(number, layout.columns)
        x = _MARGIN + _LABELS + right * (layout.side + _GAP)
        y = _MARGIN + down * (layout.line + _GAP)
        cell = row[y : y + layout.line, x : x + layout.side]
        _draw_codevector(cell, atlas, int(code), colour, layout)


def _draw_codevector(cell: Image, atlas: Atlas, code: int, colour: Colour, layout: _Layout) -> None:
    """Patches, a bar of the share, number and share in figures; in place."""
    square, base = cell[: layout.base], layout.base
    caption = f'{code % atlas.codevectors_per_class}'
    if not atlas.count[code]:
        square[:] = _PALE
        _write(square, 'unused', (layout.side // 2 - 24, base // 2 + 5), 0.45, _FAINT)
        _write(cell, caption, (0, base + 21), 0.45, _FAINT)
        return
    slots = _slots(layout)
    for rank, (left, top, side) in zip(np.flatnonzero(atlas.filled[code]), slots, strict=False):
        target = square[top : top + side, left : left + side]
        target[:] = _patch(atlas.patches[code, rank], side)
        if rank == 0:
            _mark(target, atlas.centres[code, rank], atlas.patches.shape[2])
    share = float(atlas.shares[code])
    cv2.rectangle(cell, (0, base + 3), (layout.side - 1, base + 6), _PALE, -1)
    cv2.rectangle(cell, (0, base + 3), (round(share * (layout.side - 1)), base + 6), colour, -1)
    _write(cell, caption, (0, base + 21), 0.45, _FAINT)
    text = _percent(share)
    _write(cell, text, (layout.side - _text_width(text, 0.45), base + 21), 0.45, _INK)


def _patch(patch: NDArray[np.uint8], side: int) -> Image:
    """A patch [p, p, 3] RGB as BGR [side, side, 3]."""
    method = cv2.INTER_AREA if side < len(patch) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(patch[..., ::-1], (side, side), interpolation=method), np.uint8)


def _mark(target: Image, centre: NDArray[np.int64], side: int) -> None:
    """A ring around a pixel of a patch, dark and light so that it shows on anything; in place."""
    scale = target.shape[0] / side
    y, x = (int((value + 0.5) * scale) for value in centre)
    radius = max(4, target.shape[0] // 14)
    cv2.circle(target, (x, y), radius, _BLACK, 3, cv2.LINE_AA)
    cv2.circle(target, (x, y), radius, _WHITE, 1, cv2.LINE_AA)


def _percent(share: float) -> str:
    """'42 %', '4.2 %', '0.3 %', '< 0.1 %'; '0 %' of nothing."""
    if share == 0:
        return '0 %'
    if share < 0.001:
        return '< 0.1 %'
    return f'{100 * share:.0f} %' if share >= 0.0995 else f'{100 * share:.1f} %'


def _write(
    canvas: Image, text: str, origin: tuple[int, int], size: float, colour: Colour, width: int = 1
) -> None:
    cv2.putText(canvas, text, origin, _FONT, size, colour, width, cv2.LINE_AA)


def _write_fitting(
    canvas: Image,
    text: str,
    origin: tuple[int, int],
    room: int,
    size: float,
    colour: Colour,
    width: int,
) -> None:
    """A line in `size`, or as large as its room of so many pixels allows."""
    size *= min(1.0, room / max(_text_width(text, size, width), 1))
    _write(canvas, text, origin, size, colour, width)


def _text_width(text: str, size: float, width: int = 1) -> int:
    return int(cv2.getTextSize(text, _FONT, size, width)[0][0])
