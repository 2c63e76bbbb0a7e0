"""Another view of a picture, for contrast: cropped, turned, mirrored, relit, blurred.

The ranges are the released code's: area 0.8 to 1, 15 degrees, flips 0.5, colour jitter 0.4, 0.4,
0.4, 0.1, grey 0.2, blur of sigma 0.1 to 2 (of half of the views, where nothing is said).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_AREA = (0.8, 1.0)
_DEGREES = 15.0
_LIGHT = 0.4  # of brightness, contrast and saturation
_HUE = 0.1  # of a turn
_GREY, _BLURRED, _FLIPPED = 0.2, 0.5, 0.5
_SIGMA = (0.1, 2.0)
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB, ITU-R BT.601


def augmented(picture: Image, rng: np.random.Generator) -> Image:
    """Another view of uint8 RGB [H, W, 3], of the same size; all chance comes from `rng`."""
    view = relit(moved(picture, rng), rng)
    if rng.random() >= _BLURRED:
        return view
    return np.asarray(cv2.GaussianBlur(view, (0, 0), float(rng.uniform(*_SIGMA))), np.uint8)


def moved(picture: Image, rng: np.random.Generator) -> Image:
    """A part of the picture, turned and mirrored, in one bilinear warp; mirrored at the border."""
    height, width = picture.shape[:2]
    scale = np.sqrt(rng.uniform(*_AREA))
    turn = np.deg2rad(rng.uniform(-_DEGREES, _DEGREES))
    flips = np.where(rng.random(2) < _FLIPPED, -1.0, 1.0)
    free = (1.0 - scale) / 2 * np.array([width, height])
    centre = np.array([width - 1, height - 1]) / 2
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = scale * matrix * flips  # from a place of the view to that of the picture
    shift = centre + rng.uniform(-1, 1, 2) * free - matrix @ centre
    moved = cv2.warpAffine(
        picture,
        np.column_stack([matrix, shift]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(moved, np.uint8)


def relit(picture: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue changed, a fifth of the views grey."""
    light, contrast, saturation = rng.uniform(1 - _LIGHT, 1 + _LIGHT, 3)
    hue = rng.uniform(-_HUE, _HUE)
    pixels = picture.astype(np.float32) * np.float32(light)
    pixels = (pixels - pixels.mean()) * np.float32(contrast) + pixels.mean()
    grey = (pixels @ _GREY_WEIGHTS)[..., None]
    if rng.random() < _GREY:
        return np.clip(np.repeat(grey, 3, axis=2), 0, 255).astype(np.uint8)
    pixels = np.clip(grey + (pixels - grey) * np.float32(saturation), 0, 255).astype(np.uint8)
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    turned[..., 0] += np.uint8(round(256 * hue) % 256)  # a full turn is 256 steps: wraps by itself
    return np.asarray(cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL), np.uint8)
