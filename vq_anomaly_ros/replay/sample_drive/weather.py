"""Light and weather of a drive, and what the lens does with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log
from typing import Literal

import numpy as np

Kind = Literal['clear', 'overcast', 'dusk', 'rain', 'fog']
KINDS: tuple[Kind, ...] = ('clear', 'overcast', 'dusk', 'rain', 'fog')


@dataclass(frozen=True, eq=False)
class Weather:
    """Light and air.

    Colours are RGB: `sky_top`, `sky_low` and `air` 0..255, `sun` and `ambient` factors on a
    surface's colour. `to_sun` is a unit vector of the world, `sight` the distance in metres over
    which 63 % of a colour is lost to the air, `clouds` and `wet` shares of 1, `noise` the sensor's
    standard deviation in grey levels.
    """

    kind: Kind
    to_sun: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    sky_top: np.ndarray
    sky_low: np.ndarray
    air: np.ndarray
    sight: float
    clouds: float
    wet: float
    noise: float

    def light(self, normal: np.ndarray) -> np.ndarray:
        """RGB factors float64 [...,3] on surfaces of unit normals [...,3]."""
        normal = np.asarray(normal, float)
        direct = np.maximum(normal @ self.to_sun, 0)[..., None] * self.sun
        return direct + (0.78 + 0.22 * normal[..., 1:2]) * self.ambient

    def clearness(self, depth: np.ndarray | float) -> np.ndarray:
        """Share of a colour that is left after `depth` metres."""
        return np.exp(-np.asarray(depth, float) / self.sight)

    def haze(self, colour: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        """Colours [...,3] seen through `depth` metres [...] of air, in 0..255."""
        clear = self.clearness(depth)[..., None]
        return np.minimum(np.maximum(colour * clear + self.air * (1 - clear), 0), 255)

    def table(self, light: np.ndarray, depth: float) -> np.ndarray:
        """Look-up table uint8 [1,256,3]: a texture's value, lit and seen through the air.

        The depth counts in steps of 3 %, so that tables can be kept.
        """
        red, green, blue = light.tolist()
        return _table(self, (red, green, blue), round(33 * log(max(depth, 1.0))))


@lru_cache(maxsize=4096)
def _table(weather: Weather, light: tuple[float, float, float], step: int) -> np.ndarray:
    values = np.arange(256, dtype=float)[None, :, None] * light
    return weather.haze(_shoulder(values), exp(step / 33)).astype(np.uint8)


def _shoulder(values: np.ndarray) -> np.ndarray:
    """Compress what is brighter than 200 as a film does, so that sunlit walls keep structure."""
    over = np.clip(values - 200, 0, None)
    return np.minimum(values, 200) + 55 * (1 - np.exp(-over / 55))


def random_weather(rng: np.random.Generator, kind: Kind | None = None) -> Weather:
    """Weather by chance, of a given kind or any."""
    if kind is None:
        kind = KINDS[int(rng.choice(len(KINDS), p=(0.4, 0.26, 0.12, 0.12, 0.1)))]
    bearing = rng.uniform(-np.pi, np.pi)
    height = np.radians(rng.uniform(8, 16) if kind == 'dusk' else rng.uniform(28, 58))
    to_sun = np.array(
        [np.cos(height) * np.sin(bearing), np.sin(height), np.cos(height) * np.cos(bearing)]
    )
    make = {'clear': _clear, 'overcast': _overcast, 'dusk': _dusk, 'rain': _rain, 'fog': _fog}
    return make[kind](rng, to_sun)


def _rgb(*values: float) -> np.ndarray:
    return np.array(values, float)


def _clear(rng: np.random.Generator, to_sun: np.ndarray) -> Weather:
    exposure = rng.uniform(0.85, 1.25)
    return Weather(
        kind='clear',
        to_sun=to_sun,
        sun=_rgb(0.92, 0.86, 0.74) * exposure,
        ambient=_rgb(0.54, 0.59, 0.67) * exposure,
        sky_top=_rgb(70, 128, 208) * rng.uniform(0.85, 1.1),
        sky_low=_rgb(206, 226, 242),
        air=_rgb(190, 208, 226),
        sight=rng.uniform(380, 900),
        clouds=rng.uniform(0.05, 0.6),
        wet=0.0,
        noise=rng.uniform(1.5, 3.0),
    )


def _overcast(rng: np.random.Generator, to_sun: np.ndarray) -> Weather:
    exposure = rng.uniform(0.8, 1.2)
    return Weather(
        kind='overcast',
        to_sun=to_sun,
        sun=_rgb(0.12, 0.12, 0.12) * exposure,
        ambient=_rgb(0.86, 0.88, 0.9) * exposure,
        sky_top=_rgb(186, 194, 204) * rng.uniform(0.85, 1.1),
        sky_low=_rgb(226, 229, 232),
        air=_rgb(208, 212, 216),
        sight=rng.uniform(220, 500),
        clouds=1.0,
        wet=0.0,
        noise=rng.uniform(2.0, 3.5),
    )


def _dusk(rng: np.random.Generator, to_sun: np.ndarray) -> Weather:
    exposure = rng.uniform(0.9, 1.3)
    return Weather(
        kind='dusk',
        to_sun=to_sun,
        sun=_rgb(0.72, 0.42, 0.2) * exposure,
        ambient=_rgb(0.36, 0.35, 0.46) * exposure,
        sky_top=_rgb(66, 84, 138) * exposure,
        sky_low=_rgb(246, 178, 116) * exposure,
        air=_rgb(178, 138, 122) * exposure,
        sight=rng.uniform(250, 450),
        clouds=rng.uniform(0.3, 0.8),
        wet=0.0,
        noise=rng.uniform(3.0, 5.5),
    )


def _rain(rng: np.random.Generator, to_sun: np.ndarray) -> Weather:
    exposure = rng.uniform(0.72, 0.95)
    return Weather(
        kind='rain',
        to_sun=to_sun,
        sun=_rgb(0.05, 0.05, 0.05),
        ambient=_rgb(0.7, 0.74, 0.8) * exposure,
        sky_top=_rgb(142, 150, 162) * exposure,
        sky_low=_rgb(196, 202, 210) * exposure,
        air=_rgb(182, 189, 198) * exposure,
        sight=rng.uniform(110, 200),
        clouds=1.0,
        wet=rng.uniform(0.5, 1.0),
        noise=rng.uniform(2.5, 4.5),
    )


def _fog(rng: np.random.Generator, to_sun: np.ndarray) -> Weather:
    exposure = rng.uniform(0.85, 1.05)
    grey = _rgb(206, 209, 212) * exposure
    return Weather(
        kind='fog',
        to_sun=to_sun,
        sun=_rgb(0.08, 0.08, 0.07),
        ambient=_rgb(0.76, 0.78, 0.8) * exposure,
        sky_top=grey,
        sky_low=grey,
        air=grey,
        sight=rng.uniform(45, 90),
        clouds=1.0,
        wet=rng.uniform(0, 0.4),
        noise=rng.uniform(2.0, 3.5),
    )
