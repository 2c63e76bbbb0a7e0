"""Sky and skyline: what is too far away to move."""

from __future__ import annotations

import cv2
import numpy as np

from . import textures
from .canvas import SUPERSAMPLING, Canvas
from .street import Street

SKY, BUILDING, TREE = 0, 1, 5


class Backdrop:
    """A picture of the horizon, twice as wide as the view, at the size of the frame."""

    def __init__(self, street: Street, size: tuple[int, int], focal: float) -> None:
        rng = np.random.default_rng([street.seed, 5])
        height, width = size
        self.focal = focal / SUPERSAMPLING
        self.horizon = int(height * 0.85)
        shape = (self.horizon + int(height * 0.15), width * 2)
        weather = street.weather
        self.image = textures.sky(rng, weather, shape, self.horizon)
        self.labels = np.full(shape, SKY, np.uint8)
        self._sun(street)
        self._skyline(rng, street)

    def _sun(self, street: Street) -> None:
        """A glow round the sun, where it stands before the camera."""
        weather, sun = street.weather, street.weather.to_sun
        if weather.kind not in ('clear', 'dusk') or sun[2] < 0.2:
            return
        x = self.image.shape[1] / 2 + self.focal * sun[0] / sun[2]
        y = self.horizon - self.focal * sun[1] / sun[2]
        rows = np.arange(self.image.shape[0], dtype=np.float32)[:, None]
        columns = np.arange(self.image.shape[1], dtype=np.float32)[None]
        away = np.hypot(rows - y, columns - x) / self.focal
        glow = 0.9 * np.exp(-((away / 0.035) ** 2)) + 0.42 * np.exp(-away / 0.22)
        tint = weather.sun / weather.sun.max() * 255
        mixed = self.image * (1 - glow[..., None]) + tint * glow[..., None]
        self.image[:] = mixed.clip(0, 255).astype(np.uint8)

    def _skyline(self, rng: np.random.Generator, street: Street) -> None:
        """Roofs and tree tops about 200 m away, in the haze."""
        width = self.image.shape[1]
        weather = street.weather
        ambient = weather.light(np.array([0.0, 0.3, -0.95]))
        x = 0
        while x < width:
            step = int(rng.uniform(0.02, 0.09) * self.focal) + 4
            trees = rng.random() < 0.45
            top = rng.uniform(0.022, 0.05 if trees else 0.075) * self.focal
            tone = np.array((60, 78, 44) if trees else (146, 122, 106)) * rng.uniform(0.8, 1.15)
            colour = weather.haze(tone * ambient, 190.0)
            columns = np.arange(x, min(x + step, width))
            heights = np.full(len(columns), top)
            if trees:
                bumps = textures.fractal(rng, (2, len(columns)), max(4.0, step / 5))[0]
                heights = top * (1 + 0.3 * bumps)
            for column, height in zip(columns, heights, strict=True):
                start = int(self.horizon - height)
                self.image[start:, column] = colour
                self.labels[start:, column] = TREE if trees else BUILDING
            x += step

    def paint(self, canvas: Canvas) -> None:
        """Copy the visible part, down to a little below the horizon."""
        camera = canvas.camera
        rows = min(camera.size[0], int(camera.horizon + 0.05 * camera.size[0]))
        if rows <= 0:
            return
        left = self.image.shape[1] / 2 + (np.tan(camera.yaw) * self.focal)
        left -= camera.centre[0] / SUPERSAMPLING
        top = self.horizon - camera.horizon / SUPERSAMPLING
        step = 1 / SUPERSAMPLING
        warp = np.array([[step, 0, left], [0, step, top]])
        flags = cv2.WARP_INVERSE_MAP
        size = (camera.size[1], rows)
        cv2.warpAffine(
            self.image,
            warp,
            size,
            dst=canvas.image[:rows],
            flags=flags | cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.warpAffine(
            self.labels,
            warp,
            size,
            dst=canvas.labels[:rows],
            flags=flags | cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE,
        )
