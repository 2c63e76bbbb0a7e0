"""Traffic signs and railings, drawn flat with a fourth channel that says where they are."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import Texture

_RED, _BLUE, _WHITE = (196, 22, 30), (20, 78, 168), (240, 240, 238)
_BLACK, _YELLOW = (24, 24, 24), (244, 200, 30)


@dataclass(frozen=True)
class Sign:
    """A plate with its `size` (height, width) in metres."""

    plate: Texture
    size: tuple[float, float]


def _blank() -> np.ndarray:
    return np.zeros((128, 128, 4), np.uint8)


def _disc(plate: np.ndarray, radius: int, colour: tuple[int, int, int]) -> None:
    cv2.circle(plate, (64, 64), radius, (*colour, 255), -1, cv2.LINE_AA)


def _lettered(
    plate: np.ndarray, text: str, at: tuple[int, int], scale: float, ink: tuple[int, int, int]
) -> np.ndarray:
    """The plate with a word on it; written on three channels, so that it stays opaque."""
    face = np.ascontiguousarray(plate[..., :3])
    width = round(2.6 * scale)
    cv2.putText(face, text, at, cv2.FONT_HERSHEY_DUPLEX, scale, ink, width, cv2.LINE_AA)
    return np.dstack([face, plate[..., 3]])


def _limit() -> np.ndarray:
    plate = _blank()
    _disc(plate, 62, _RED)
    _disc(plate, 46, _WHITE)
    return _lettered(plate, '30', (26, 84), 1.9, _BLACK)


def _no_entry() -> np.ndarray:
    plate = _blank()
    _disc(plate, 62, _RED)
    plate[52:76, 24:104] = (*_WHITE, 255)
    return plate


def _warning() -> np.ndarray:
    plate = _blank()
    outer = np.array([[64, 6], [124, 116], [4, 116]])
    inner = np.array([[64, 34], [100, 101], [28, 101]])
    cv2.fillPoly(plate, [outer], (*_RED, 255), cv2.LINE_AA)
    cv2.fillPoly(plate, [inner], (*_WHITE, 255), cv2.LINE_AA)
    plate[52:82, 60:68] = (*_BLACK, 255)
    plate[88:96, 60:68] = (*_BLACK, 255)
    return plate


def _ahead() -> np.ndarray:
    plate = _blank()
    _disc(plate, 62, _WHITE)
    _disc(plate, 57, _BLUE)
    arrow = np.array([[64, 22], [92, 56], [72, 56], [72, 104], [56, 104], [56, 56], [36, 56]])
    cv2.fillPoly(plate, [arrow], (*_WHITE, 255), cv2.LINE_AA)
    return plate


def _parking() -> np.ndarray:
    plate = np.full((128, 128, 4), (*_WHITE, 255), np.uint8)
    plate[6:-6, 6:-6] = (*_BLUE, 255)
    return _lettered(plate, 'P', (32, 100), 3.2, _WHITE)


def _board(text: str, colour: tuple[int, int, int], ink: tuple[int, int, int]) -> np.ndarray:
    plate = np.full((96, 256, 4), (*ink, 255), np.uint8)
    plate[5:-5, 5:-5] = (*colour, 255)
    return _lettered(plate, text, (18, 62), 1.3, ink)


def signs() -> list[Sign]:
    """All plates of the street."""
    return [
        Sign(Texture(_limit()), (0.65, 0.65)),
        Sign(Texture(_no_entry()), (0.65, 0.65)),
        Sign(Texture(_warning()), (0.75, 0.75)),
        Sign(Texture(_ahead()), (0.6, 0.6)),
        Sign(Texture(_parking()), (0.6, 0.6)),
        Sign(Texture(_board('CENTRE', (28, 96, 60), _WHITE)), (0.6, 1.5)),
        Sign(Texture(_board('STATION', _WHITE, _BLACK)), (0.55, 1.4)),
        Sign(Texture(_board('MUSEUM', (110, 66, 32), _WHITE)), (0.55, 1.4)),
        Sign(Texture(_board('DIVERSION', _YELLOW, _BLACK)), (0.6, 1.5)),
    ]


def railing() -> Texture:
    """Four metres of a metal railing, uint8 [h,w,4]."""
    plate = np.zeros((64, 256, 4), np.uint8)
    metal = (118, 122, 124, 255)
    plate[...] = (*metal[:3], 0)
    plate[0:5] = metal
    plate[52:56] = metal
    plate[:, ::8] = metal
    plate[:, 1::8] = (92, 96, 98, 255)
    for x in (0, 84, 168, 251):
        plate[:, x : x + 5] = (104, 108, 110, 255)
    return Texture(plate)
