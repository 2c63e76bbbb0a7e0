"""The picture and its labels, painted back to front by the same geometry.

Both are held at `SUPERSAMPLING` times the size of the frame; the picture is averaged at the end,
a label is that of one of the samples.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from math import ceil, floor, log2

import cv2
import numpy as np

from .camera import Camera, clip_near
from .weather import Weather

SUPERSAMPLING = 2
SPECK = 10
"""A textured plane narrower than so many pixels is filled with its mean colour."""
UNKNOWN = 254
"""Label of an unknown object while painting."""
VOID = 255
_WHOLE = ((0.0, 0.0, 1.0, 1.0),)
_SHIFT = 4
Window = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of the canvas; right and bottom are outside."""


class Texture:
    """A picture uint8 [h,w,3 or 4] with smaller copies, made when first needed.

    The copies halve width and height independently, because a facade seen along the street shrinks
    in one direction only.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = np.ascontiguousarray(pixels)
        self._levels: dict[tuple[int, int], np.ndarray] = {(0, 0): self.pixels}

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in texels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def level(self, halvings_x: int, halvings_y: int) -> np.ndarray:
        """The copy whose width and height were halved so often."""
        key = (halvings_x, halvings_y)
        if key not in self._levels:
            height, width = self.shape
            size = (max(1, width >> halvings_x), max(1, height >> halvings_y))
            self._levels[key] = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA)
        return self._levels[key]

    def fitting(self, texels_x: float, texels_y: float) -> np.ndarray:
        """The copy for so many texels a pixel in either direction."""
        halvings = [min(6, max(0, int(log2(max(t, 1e-6)) + 0.35))) for t in (texels_x, texels_y)]
        return self.level(halvings[0], halvings[1])

    @cached_property
    def bands(self) -> list[tuple[float, float, float, float]]:
        """Horizontal bands of what is not transparent: left, top, right, bottom, shares of 1."""
        height, width = self.shape
        bands = []
        for low, high in pairwise(np.linspace(0, height, 5).astype(int)):
            columns = np.flatnonzero(self.pixels[low:high, :, 3].any(axis=0))
            if len(columns):
                span = float(columns[0]) / width, float(columns[-1] + 1) / width
                bands.append((span[0], float(low) / height, span[1], float(high) / height))
        return bands

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean colour, float64 [3]."""
        return np.asarray(self.pixels.reshape(-1, self.pixels.shape[2]).mean(axis=0)[:3])


class Canvas:
    """What one frame is painted on.

    `image` is uint8 [h,w,3] RGB and `labels` uint8 [h,w] (a class, `UNKNOWN` or `VOID`), both at
    the camera's (supersampled) size.
    """

    def __init__(self, camera: Camera, weather: Weather) -> None:
        self.camera = camera
        self.weather = weather
        self.image = np.zeros((*camera.size, 3), np.uint8)
        self.labels = np.full(camera.size, VOID, np.uint8)

    def polygon(self, points: np.ndarray, colour: np.ndarray, label: int | None) -> None:
        """Fill a convex polygon [N,2] (x, y in pixels) with an RGB colour; no label keeps it."""
        fixed = _fixed(points)
        cv2.fillConvexPoly(self.image, fixed, colour.tolist(), shift=_SHIFT)
        if label is not None:
            cv2.fillConvexPoly(self.labels, fixed, label, shift=_SHIFT)

    def polygons(self, points: np.ndarray, colours: np.ndarray, label: int) -> None:
        """Fill convex polygons [F,N,2] one after another with RGB colours [F,3]."""
        for fixed, colour in zip(_fixed(points), colours.tolist(), strict=True):
            cv2.fillConvexPoly(self.image, fixed, colour, shift=_SHIFT)
            cv2.fillConvexPoly(self.labels, fixed, label, shift=_SHIFT)

    def face(self, corners: np.ndarray, colour: np.ndarray, label: int | None) -> None:
        """Fill a convex polygon of the world [N,3] with a colour, already lit, in the haze."""
        cut = clip_near(self.camera.to_camera(corners))
        if len(cut) >= 3:
            hazy = self.weather.haze(colour, float(cut[:, 2].mean()))
            self.polygon(self.camera.to_pixels(cut), hazy, label)

    def plane(
        self,
        texture: Texture,
        corners: tuple[np.ndarray, np.ndarray, np.ndarray],
        light: np.ndarray,
        label: int,
        whole: bool = False,
    ) -> None:
        """Paint a texture on a parallelogram of the world.

        `corners` are its top left, top right and bottom left, `light` the RGB factor on it. A
        texture of four channels is blended by its fourth, and its label is set where that is
        over a half; with `whole` also in the gaps, but for unknown objects that are seen there.
        """
        origin, right, down = corners[0], corners[1] - corners[0], corners[2] - corners[0]
        quad = np.array([origin, corners[1], corners[1] + down, corners[2]])
        cut = clip_near(self.camera.to_camera(quad))
        if len(cut) < 3:
            return
        outline = self.camera.to_pixels(cut)
        window = self._window(outline)
        if window is None:
            return
        depth = float(cut[:, 2].mean())
        if window[2] - window[0] < SPECK and texture.pixels.shape[2] == 3:
            self.polygon(outline, self.weather.haze(texture.mean * light, depth), label)
            return
        to_plane = cv2.invert(self.camera.homography(origin, right, down))[1]
        pixels = _fitting(texture, to_plane, outline, self.camera.size)
        mask = _outlined(outline, window)
        if whole:
            self._label_gaps(mask, window, label)
        warped = _flattened(pixels, to_plane, window)
        self._put(warped, mask, window, self.weather.table(light, depth), label)

    def _label_gaps(self, mask: np.ndarray, window: Window, label: int) -> None:
        """Label all of a mask that is no unknown object."""
        part = self.labels[window[1] : window[3], window[0] : window[2]]
        part[(mask > 0) & (part != UNKNOWN)] = label

    def billboard(
        self,
        texture: Texture,
        foot: np.ndarray,
        size: tuple[float, float],
        light: np.ndarray,
        label: int,
    ) -> None:
        """Paint an RGBA texture upright on a point of the world [3], `size` (height, width) in m.

        It faces the camera.
        """
        point = self.camera.to_camera(foot[None])
        depth = float(point[0, 2])
        if depth < 1.0:
            return
        x, y = self.camera.to_pixels(point)[0].tolist()
        scale = self.camera.focal / depth
        height, width = size[0] * scale, size[1] * scale
        box = (x - width / 2, y - height, width, height)
        pixels = texture.fitting(texture.shape[1] / width, texture.shape[0] / height)
        table = self.weather.table(light, depth)
        for left, top, right, bottom in texture.bands if height > 240 else _WHOLE:
            corners = np.array([[left, top], [right, bottom]]) * box[2:] + box[:2]
            # Bands share no row: what is blended twice would show as a line.
            corners[:, 1] = np.rint(corners[:, 1]) - (0, 1)
            window = self._window(corners)
            if window is not None:
                self._put(_cut_out(pixels, box, window), None, window, table, label)

    def shadow(self, corners: np.ndarray, strength: float) -> None:
        """Darken the ground under a quadrilateral of the world [4,3] with soft edges."""
        outline = self.camera.project(corners)
        window = None if outline is None else self._window(outline)
        if outline is None or window is None:
            return
        axes = corners[0], corners[1] - corners[0], corners[3] - corners[0]
        to_plane = cv2.invert(self.camera.homography(*axes))[1]
        dark = _flattened(_SOFT_SHADOW, to_plane, window)
        table = 255 - (np.arange(256) * strength).astype(np.uint8)
        keep = cv2.LUT(cv2.bitwise_and(dark, _outlined(outline, window)), table)
        part = self.image[window[1] : window[3], window[0] : window[2]]
        cv2.multiply(part, cv2.cvtColor(keep, cv2.COLOR_GRAY2RGB), dst=part, scale=1 / 255)

    def _window(self, outline: np.ndarray) -> Window | None:
        """(left, top, right, bottom) of the pixels under an outline; None if out of view."""
        height, width = self.camera.size
        low, high = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
        left, top = max(0, floor(low[0])), max(0, floor(low[1]))
        right, bottom = min(width, ceil(high[0]) + 1), min(height, ceil(high[1]) + 1)
        return (left, top, right, bottom) if right > left and bottom > top else None

    def _put(
        self,
        pixels: np.ndarray,
        mask: np.ndarray | None,
        window: Window,
        table: np.ndarray,
        label: int,
    ) -> None:
        """Blend lit pixels into a window and label it."""
        part = self.image[window[1] : window[3], window[0] : window[2]]
        labels = self.labels[window[1] : window[3], window[0] : window[2]]
        if pixels.shape[2] == 3:
            inside = np.full_like(labels, 255) if mask is None else mask
            cv2.copyTo(cv2.LUT(pixels, table), inside, part)
            labels[inside > 0] = label
            return
        alpha = pixels[..., 3] if mask is None else cv2.bitwise_and(pixels[..., 3], mask)
        alpha = np.ascontiguousarray(alpha)
        lit = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), table)
        over = cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)
        lit = cv2.multiply(lit, over, scale=1 / 255)
        under = cv2.multiply(part, cv2.bitwise_not(over), scale=1 / 255)
        cv2.add(lit, under, dst=part)
        labels[alpha > 127] = label


def _fitting(
    texture: Texture, to_plane: np.ndarray, outline: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The copy of a texture that fits its scale in the middle of the visible part."""
    x, y = np.maximum(np.minimum(outline, (size[1], size[0])), 0).mean(axis=0).tolist()
    rows = to_plane.tolist()
    here, right, below = (_mapped(rows, *at) for at in ((x, y), (x + 1, y), (x, y + 1)))
    across = max(abs(right[0] - here[0]), abs(below[0] - here[0]))
    down = max(abs(right[1] - here[1]), abs(below[1] - here[1]))
    return texture.fitting(across * texture.shape[1], down * texture.shape[0])


def _mapped(rows: list[list[float]], x: float, y: float) -> tuple[float, float]:
    """A point through a homography."""
    a, b, c = (row[0] * x + row[1] * y + row[2] for row in rows)
    return a / c, b / c


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels as the fixed-point numbers of OpenCV's drawing, far ones kept in its range."""
    limited = np.minimum(np.maximum(points, -60000.0), 60000.0)
    return np.rint(limited * (1 << _SHIFT)).astype(np.int32)


def _cut_out(
    pixels: np.ndarray,
    box: tuple[float, float, float, float],
    window: Window,
) -> np.ndarray:
    """The part in a window of a picture stretched over a box (left, top, width, height)."""
    step_x, step_y = pixels.shape[1] / box[2], pixels.shape[0] / box[3]
    left = (window[0] - box[0] + 0.5) * step_x - 0.5
    top = (window[1] - box[1] + 0.5) * step_y - 0.5
    return cv2.warpAffine(
        pixels,
        np.array([[step_x, 0, left], [0, step_y, top]]),
        (window[2] - window[0], window[3] - window[1]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )


def _flattened(pixels: np.ndarray, to_plane: np.ndarray, window: Window) -> np.ndarray:
    """A picture on a plane as seen in a window; `to_plane` takes pixels to shares of its sides."""
    height, width = pixels.shape[:2]
    # Pixel centres are at halves on the plane, at whole numbers in OpenCV.
    to_texels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
    moved = np.array([[1, 0, window[0]], [0, 1, window[1]], [0, 0, 1.0]])
    return cv2.warpPerspective(
        pixels,
        to_texels @ to_plane @ moved,
        (window[2] - window[0], window[3] - window[1]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _outlined(outline: np.ndarray, window: Window) -> np.ndarray:
    """Mask 0/255 of a convex outline in a window."""
    mask = np.zeros((window[3] - window[1], window[2] - window[0]), np.uint8)
    return cv2.fillConvexPoly(mask, _fixed(outline - window[:2]), 255, shift=_SHIFT)


def _soft_shadow() -> np.ndarray:
    """uint8 [64,64], a dark rounded square with soft edges."""
    square = np.zeros((64, 64), np.float32)
    square[13:51, 13:51] = 255
    return cv2.GaussianBlur(square, (0, 0), 5).astype(np.uint8)


_SOFT_SHADOW = _soft_shadow()
