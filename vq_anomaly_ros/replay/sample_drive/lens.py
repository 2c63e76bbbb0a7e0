"""From a supersampled canvas to a frame: averaging, blur, vignetting, rain and sensor noise."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import SUPERSAMPLING, UNKNOWN, VOID, Canvas
from .weather import Weather


class Lens:
    """The optics and the sensor of one camera."""

    def __init__(self, seed: int, size: tuple[int, int], weather: Weather) -> None:
        rng = np.random.default_rng([seed, 6])
        self.size = size
        self.weather = weather
        self.blur = float(rng.uniform(0.35, 0.7))
        tall, wide = size
        rows = np.linspace(-1, 1, tall, dtype=np.float32)[:, None]
        columns = np.linspace(-1, 1, wide, dtype=np.float32)[None]
        falloff = 1 - rng.uniform(0.08, 0.24) * (rows**2 * 0.35 + columns**2 * 0.65) ** 1.3
        tint = 1 + rng.uniform(-0.03, 0.03, 3)
        table = (falloff[..., None] * tint / max(1.0, float(tint.max()))) * 255
        self._falloff = table.astype(np.uint8)
        noise = rng.standard_normal((tall + 64, wide + 64, 3), dtype=np.float32) * weather.noise
        noise = 0.75 * noise + 0.5 * noise.mean(axis=2, keepdims=True)
        self._noise = noise.round().astype(np.int16)

    def expose(
        self, canvas: Canvas, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The frame: image uint8 [H,W,3] RGB, classes uint8 [H,W], anomaly uint8 [H,W] 0/1/255."""
        wide_first = self.size[::-1]
        image = cv2.resize(canvas.image, wide_first, interpolation=cv2.INTER_AREA)
        if self.weather.kind == 'rain':
            _rain(image, rng)
        image = cv2.GaussianBlur(image, (0, 0), self.blur)
        image = cv2.multiply(image, self._falloff, scale=1 / 255)
        y, x = rng.integers(0, 64, 2)
        noise = self._noise[y : y + self.size[0], x : x + self.size[1]]
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
        return image, *_labels(canvas.labels)


def _labels(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes and anomaly map; a pixel that an unknown object fills only in part is void."""
    classes = samples[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
    unknown = [
        samples[i::SUPERSAMPLING, j::SUPERSAMPLING] == UNKNOWN
        for i in range(SUPERSAMPLING)
        for j in range(SUPERSAMPLING)
    ]
    any_of, all_of = np.logical_or.reduce(unknown), np.logical_and.reduce(unknown)
    anomaly = np.where(classes == VOID, np.uint8(255), np.uint8(0))
    anomaly[any_of] = 255
    anomaly[all_of] = 1
    classes[any_of] = VOID
    return classes, anomaly


def _rain(image: np.ndarray, rng: np.random.Generator) -> None:
    """Streaks of falling drops."""
    tall, wide = image.shape[:2]
    streaks = np.zeros((tall, wide), np.uint8)
    count = int(tall * wide / 2600)
    x, y = rng.uniform(0, wide, count), rng.uniform(-20, tall, count)
    length = rng.uniform(0.01, 0.035, count) * tall
    for i in range(count):
        start = (int(x[i] * 8), int(y[i] * 8))
        end = (int((x[i] + length[i] * 0.12) * 8), int((y[i] + length[i]) * 8))
        cv2.line(streaks, start, end, 255, 1, cv2.LINE_AA, 3)
    pale = cv2.cvtColor(streaks, cv2.COLOR_GRAY2RGB)
    image[:] = cv2.add(cv2.multiply(image, 255 - pale // 6, scale=1 / 255), pale // 7)
