"""An explanation as a picture: what was asked about, and a row for each near codevector."""

from __future__ import annotations

import cv2
import numpy as np

from vq_anomaly_ros.detection.atlas import Atlas
from vq_anomaly_ros.detection.explanation import Explanation, NearCodevector
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.detection.spreads import SHARES
from vq_anomaly_ros.images import Frame

_WIDTH = 960
_SIDE = 320  # of the cut-out
_PATCH = 56
_PATCHES = 3
_ROW = 64
_MARGIN = 12
_CUT = 0.3  # of the frame's height is cut out
_DARK, _LIGHT, _MUTED = (32, 27, 24), (240, 236, 232), (190, 178, 168)  # BGR
_MARK = (110, 0, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def explanation_picture(
    frame: Frame, explanation: Explanation, info: ModelInfo, atlas: Atlas | None = None
) -> np.ndarray:
    """uint8 [H, 960, 3] BGR: around the pixel on the left, words and codevectors on the right."""
    lines = _wrapped(explanation.sentence + f' {explanation.note}', _WIDTH - _SIDE - 3 * _MARGIN)
    top = _MARGIN + 24 * len(lines) + 8
    rows = len(explanation.codevectors)
    picture = np.full((max(_SIDE + 2 * _MARGIN, top + _ROW * rows), _WIDTH, 3), _DARK, np.uint8)
    picture[_MARGIN : _MARGIN + _SIDE, _MARGIN : _MARGIN + _SIDE] = _cut_out(frame, explanation)
    left = _SIDE + 2 * _MARGIN
    for number, line in enumerate(lines):
        _write(picture, line, (left, _MARGIN + 18 + 24 * number), _LIGHT)
    for number, one in enumerate(explanation.codevectors):
        _draw_row(picture, (left, top + _ROW * number), one, info, atlas)
    return picture


def _cut_out(frame: Frame, explanation: Explanation) -> np.ndarray:
    """uint8 [_SIDE, _SIDE, 3]: a square around the pixel, within the frame, with a ring on it."""
    height, width = frame.size
    side = max(1, min(round(_CUT * height), height, width))
    x, y = explanation.point
    left = int(np.clip(x - side / 2, 0, width - side))
    top = int(np.clip(y - side / 2, 0, height - side))
    cut = Frame(frame.pixels[top : top + side, left : left + side], frame.order).bgr()
    large = cv2.resize(cut, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    scale = _SIDE / side
    centre = round((x - left) * scale), round((y - top) * scale)
    cv2.circle(large, centre, 16, (255, 255, 255), 4, cv2.LINE_AA)
    cv2.circle(large, centre, 16, _MARK, 2, cv2.LINE_AA)
    return large


def _draw_row(
    picture: np.ndarray,
    corner: tuple[int, int],
    one: NearCodevector,
    info: ModelInfo,
    atlas: Atlas | None,
) -> None:
    """Colour and name of the class, distance, and the patches that it stands for."""
    left, top = corner
    colour = info.palette[info.classes.index(one.class_name)][::-1]
    cv2.rectangle(picture, (left, top + 4), (left + 14, top + _PATCH), colour, -1)
    _write(picture, f'{one.class_name} {one.number}', (left + 24, top + 24), _LIGHT)
    told = f'cosine {one.cosine:.2f}'
    if one.spreads is not None and one.farther is not None:
        more = '>' if one.farther >= SHARES[-1] else ''
        told += f', {one.spreads:.1f} x usual, {more}{one.farther:.1%} nearer'
    _write(picture, told, (left + 24, top + 46), _MUTED, 0.42)
    if atlas is None:
        return
    for place in range(min(_PATCHES, int(atlas.filled[one.index].sum()))):
        x = _WIDTH - _MARGIN - (_PATCHES - place) * (_PATCH + 4)
        patch = cv2.resize(
            atlas.patches[one.index, place], (_PATCH, _PATCH), interpolation=cv2.INTER_AREA
        )
        picture[top + 2 : top + 2 + _PATCH, x : x + _PATCH] = patch[..., ::-1]


def _write(
    picture: np.ndarray,
    text: str,
    origin: tuple[int, int],
    colour: tuple[int, int, int],
    scale: float = 0.5,
) -> None:
    ascii_text = text.encode('ascii', 'replace').decode()  # OpenCV's font has no more
    cv2.putText(picture, ascii_text, origin, _FONT, scale, colour, 1, cv2.LINE_AA)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words that are at most `width` pixels wide."""
    lines = ['']
    for word in text.split():
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and cv2.getTextSize(longer, _FONT, 0.5, 1)[0][0] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
