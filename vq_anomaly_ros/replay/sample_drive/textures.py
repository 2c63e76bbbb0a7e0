"""Noise, and the surfaces made of it: asphalt, slabs, brick, plaster, tiles, sky."""

from __future__ import annotations

import cv2
import numpy as np

from .weather import Weather

Colour = tuple[float, float, float]


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = 4
) -> np.ndarray:
    """Smooth noise float32 [h,w], mean near 0, range near -1..1, coarsest detail `cell` texels."""
    total = np.zeros(shape, np.float32)
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        grid = (max(2, round(shape[0] / cell) + 1), max(2, round(shape[1] / cell) + 1))
        values = rng.uniform(-1, 1, grid).astype(np.float32)
        total += weight * cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)
        weights += weight
        weight, cell = weight * 0.55, max(1.0, cell / 2)
    return total / np.float32(weights)


def grain(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise without structure, float32 [h,w], standard deviation 1."""
    return rng.standard_normal(shape, dtype=np.float32)


def painted(colour: Colour, shade: np.ndarray) -> np.ndarray:
    """An RGB colour times a shade [h,w], uint8 [h,w,3]."""
    lit = shade[..., None] * np.array(colour, np.float32)
    return lit.clip(0, 255).astype(np.uint8)


def asphalt(rng: np.random.Generator, shape: tuple[int, int], colour: Colour) -> np.ndarray:
    """Road surface uint8 [h,w,3]; ends fit together from bottom to top."""
    shade = 1 + 0.10 * fractal(rng, shape, 160) + 0.055 * grain(rng, shape)
    speckles = rng.random(shape, dtype=np.float32)
    shade += 0.22 * (speckles > 0.985) - 0.16 * (speckles < 0.02)
    return painted(colour, looped(shade))


def looped(shade: np.ndarray, share: float = 0.25) -> np.ndarray:
    """Blend the end of rows into their beginning, so that the picture repeats without a seam."""
    rows = int(len(shade) * share)
    weight = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    body = shade[: len(shade)].copy()
    mirrored = shade[::-1][-rows:]
    body[-rows:] = shade[-rows:] * (1 - weight) + mirrored * weight
    return body


def slabs(
    rng: np.random.Generator, shape: tuple[int, int], colour: Colour, slab: tuple[int, int]
) -> np.ndarray:
    """Paving stones of `slab` (height, width) texels, uint8 [h,w,3]; repeats along it."""
    rows = np.arange(shape[0])[:, None] // slab[0]
    columns = (np.arange(shape[1])[None] + (rows % 2) * slab[1] // 2) // slab[1]
    tones = rng.uniform(0.9, 1.08, (rows.max() + 1, columns.max() + 1)).astype(np.float32)
    noise = looped(0.05 * grain(rng, shape) + 0.08 * fractal(rng, shape, 90))
    shade = tones[rows, columns] + noise
    joint = (np.arange(shape[0])[:, None] % slab[0] < 2) | (
        (np.arange(shape[1])[None] + (rows % 2) * slab[1] // 2) % slab[1] < 2
    )
    return painted(colour, shade * np.where(joint, 0.72, 1).astype(np.float32))


def bricks(
    rng: np.random.Generator, shape: tuple[int, int], colour: Colour, course: int = 4
) -> np.ndarray:
    """Brickwork uint8 [h,w,3] in courses of `course` texels with mortar between."""
    length = course * 3
    rows = np.arange(shape[0])[:, None] // course
    shifted = np.arange(shape[1])[None] + (rows % 2) * (length // 2)
    columns = shifted // length
    tones = rng.normal(1, 0.13, (rows.max() + 1, columns.max() + 1)).astype(np.float32)
    shade = tones[rows, columns] + 0.04 * grain(rng, shape) + 0.12 * fractal(rng, shape, 120)
    wall = painted(colour, shade)
    mortar = (np.arange(shape[0])[:, None] % course == 0) | (shifted % length == 0)
    tone = np.array(colour, np.float32) * 0.45 + 95
    wall[mortar] = (wall[mortar] * 0.35 + tone * 0.65).astype(np.uint8)
    return wall


def plaster(rng: np.random.Generator, shape: tuple[int, int], colour: Colour) -> np.ndarray:
    """Painted render uint8 [h,w,3], with stains running down."""
    stains = cv2.resize(fractal(rng, (shape[0] // 8, shape[1]), 12), shape[::-1])
    shade = 1 + 0.05 * fractal(rng, shape, 150) + 0.02 * grain(rng, shape) + 0.035 * stains
    return painted(colour, shade)


def stone(rng: np.random.Generator, shape: tuple[int, int], colour: Colour) -> np.ndarray:
    """Ashlar uint8 [h,w,3]."""
    rows = np.arange(shape[0])[:, None] // 16
    shifted = np.arange(shape[1])[None] + (rows % 2) * 18
    tones = rng.normal(1, 0.06, (rows.max() + 1, shifted.max() // 36 + 1)).astype(np.float32)
    shade = tones[rows, shifted // 36] + 0.03 * grain(rng, shape) + 0.14 * fractal(rng, shape, 100)
    joint = (np.arange(shape[0])[:, None] % 16 == 0) | (shifted % 36 == 0)
    return painted(colour, shade * np.where(joint, 0.8, 1).astype(np.float32))


def roof_tiles(rng: np.random.Generator, shape: tuple[int, int], colour: Colour) -> np.ndarray:
    """Tiles in overlapping courses, uint8 [h,w,3]."""
    rows = np.arange(shape[0])[:, None] // 6
    columns = (np.arange(shape[1])[None] + (rows % 2) * 4) // 8
    tones = rng.normal(1, 0.1, (rows.max() + 1, columns.max() + 1)).astype(np.float32)
    edge = 0.72 + 0.28 * (np.arange(shape[0])[:, None] % 6) / 5
    shade = tones[rows, columns] * edge + 0.12 * fractal(rng, shape, 80)
    return painted(colour, shade.astype(np.float32))


def foliage(rng: np.random.Generator, shape: tuple[int, int], colour: Colour) -> np.ndarray:
    """A dense surface of leaves, lit from above, uint8 [h,w,3]."""
    clumps = fractal(rng, shape, 40, 5)
    relief = cv2.Sobel(cv2.GaussianBlur(clumps, (0, 0), 1.5), cv2.CV_32F, 0, 1, ksize=3)
    shade = 0.78 + 0.4 * clumps + 1.1 * relief + 0.16 * grain(rng, shape)
    tint = fractal(rng, shape, 30)
    leaves = painted(colour, shade).astype(np.float32)
    leaves[..., 0] *= 1 + 0.25 * tint
    leaves[..., 2] *= 1 - 0.2 * tint
    return leaves.clip(0, 255).astype(np.uint8)


def sky(
    rng: np.random.Generator, weather: Weather, shape: tuple[int, int], horizon: int
) -> np.ndarray:
    """Gradient, clouds and glow, uint8 [h,w,3]; `horizon` is its row."""
    rows = np.arange(shape[0], dtype=np.float32)
    height = np.clip((horizon - rows) / max(1, horizon), 0, 1)[:, None, None]
    blend = height**0.6
    picture = weather.sky_low * (1 - blend) + weather.sky_top * blend
    picture = np.broadcast_to(picture, (*shape, 3)).astype(np.float32)
    return _clouded(rng, weather, picture, height).clip(0, 255).astype(np.uint8)


def _clouded(
    rng: np.random.Generator, weather: Weather, picture: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """Clouds that lie flatter the nearer they are to the horizon."""
    if weather.kind == 'fog':
        return picture
    rows, columns = picture.shape[:2]
    noise = fractal(rng, (rows // 2, columns // 2), columns / 9, 6)
    flat = (rows * (1 - np.clip(height[:, 0, 0], 0, 1) ** 0.55) * 0.5 + 1).astype(np.float32)
    across = np.arange(columns, dtype=np.float32) / 2
    map_x, map_y = np.broadcast_arrays(across[None], flat[:, None] * 0.9)
    noise = cv2.remap(noise, map_x.copy(), map_y.copy(), cv2.INTER_LINEAR)
    cover = weather.clouds
    density = np.clip((noise + (cover - 0.5) * 0.9) * 3.2, 0, 1)[..., None]
    relief = np.clip(0.5 + 1.2 * (noise - np.roll(noise, 9, axis=0)), 0, 1)[..., None]
    bright = weather.sky_low * 1.06
    dark = weather.sky_low * 0.62 + weather.sky_top * 0.25
    if cover >= 1:
        return picture * (1 + 0.13 * noise[..., None])
    return picture * (1 - density * 0.9) + (dark + (bright - dark) * relief) * density * 0.9
