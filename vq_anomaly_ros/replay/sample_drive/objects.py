"""Things that no street class covers, drawn by code: the unknown objects of a drive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import figures
from .canvas import Texture
from .solids import Builder, Solid


@dataclass(frozen=True)
class UnknownObject:
    """One thing: a body of faces or a picture with its (height, width) in metres.

    `walks` says that it comes on foot, `flies` that it drifts through the air.
    """

    name: str
    body: Solid | None
    picture: Texture | None
    size: tuple[float, float]
    walks: bool = False
    flies: bool = False


def _crate() -> Solid:
    builder = Builder()
    builder.box((-0.5, 0.0, -0.5), (0.5, 1.0, 0.5), (92, 66, 38))
    for i in range(5):
        wood = np.array((176, 132, 80)) * (1 - 0.07 * (i % 3))
        low, high = 0.02 + i * 0.2, 0.19 + i * 0.2
        builder.box((-0.51, low, -0.51), (0.51, high, 0.51), wood, layer=1, without=1)
        left, right = -0.49 + i * 0.2, -0.32 + i * 0.2
        builder.face([(left, 1.01, -0.5), (right, 1.01, -0.5), (right, 1.01, 0.5),
                      (left, 1.01, 0.5)], wood * 1.05, (0, 0, 0), layer=1)  # fmt: skip
    for x in (-0.52, 0.4):
        builder.box((x, 0, -0.52), (x + 0.12, 1.0, 0.52), (150, 108, 62), layer=2, without=0)
        builder.box((-0.52, 0, x), (0.52, 1.0, x + 0.12), (150, 108, 62), layer=2, without=2)
    return builder.done()


def _sofa(rng: np.random.Generator) -> Solid:
    builder = Builder()
    tones = ((150, 44, 40), (62, 92, 120), (112, 120, 72), (176, 146, 104), (96, 60, 104))
    cloth = np.array(tones[int(rng.integers(len(tones)))], float)
    builder.box((-1.0, 0.1, 0.25), (1.0, 0.92, 0.45), cloth * 0.85, layer=0)
    builder.box((-1.0, 0.1, -0.42), (1.0, 0.42, 0.25), cloth * 0.7, layer=1)
    for i in range(2):
        left = -0.8 + i * 0.81
        builder.box((left, 0.42, -0.45), (left + 0.78, 0.56, 0.2), cloth, layer=2)
        builder.box((left, 0.56, 0.08), (left + 0.78, 0.96, 0.27), cloth * 1.06, layer=3)
    for low, high in ((-1.08, -0.82), (0.82, 1.08)):
        builder.box((low, 0.08, -0.46), (high, 0.68, 0.42), cloth * 0.92, layer=4)
    return builder.done()


def _mattress(rng: np.random.Generator) -> Solid:
    builder = Builder()
    leaning = rng.random() < 0.5
    pale = np.array((222, 216, 204))
    if leaning:
        builder.box((-0.95, 0, -0.12), (0.95, 1.5, 0.12), pale)
        for i in range(4):
            builder.box((-0.9 + i * 0.46, 0.06, -0.13), (-0.84 + i * 0.46, 1.44, 0.13),
                        (150, 168, 196), layer=1, without=0)  # fmt: skip
    else:
        builder.box((-0.8, 0, -1.0), (0.8, 0.26, 1.0), pale)
        for i in range(4):
            builder.box((-0.76 + i * 0.4, 0.01, -1.01), (-0.7 + i * 0.4, 0.265, 1.01),
                        (150, 168, 196), layer=1, without=0)  # fmt: skip
    return builder.done()


def _ring(radius: float, height: float, count: int = 18) -> np.ndarray:
    turns = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([radius * np.cos(turns), np.full(count, height), radius * np.sin(turns)], 1)


def _tyres(rng: np.random.Generator) -> Solid:
    builder = Builder()
    for i in range(int(rng.integers(1, 5))):
        low = i * 0.22
        profile = ((0.27, 0.0), (0.34, 0.04), (0.36, 0.11), (0.34, 0.18), (0.27, 0.22))
        shift = np.array([rng.uniform(-0.05, 0.05), 0, rng.uniform(-0.05, 0.05)])
        rings = np.stack([_ring(r, low + y) for r, y in profile]) + shift
        tones = np.array([(34, 34, 35), (30, 30, 31), (27, 27, 28), (44, 44, 45)])
        builder.turned(rings, tones, layer=3 * i)
        rim = np.stack([_ring(0.2, low + 0.221), _ring(0.19, low + 0.2215)]) + shift
        builder.turned(rim, np.array([(14, 14, 15)]), layer=3 * i + 1)
    return builder.done()


def _cones(rng: np.random.Generator) -> Solid:
    builder = Builder()
    for i in range(int(rng.integers(3, 7))):
        low = i * 0.13
        builder.box((-0.22, low, -0.22), (0.22, low + 0.04, 0.22), (40, 40, 42), layer=2 * i)
        steps = ((0.17, 0.04), (0.13, 0.22), (0.1, 0.36), (0.07, 0.5), (0.04, 0.66))
        rings = np.stack([_ring(r, low + y, 14) for r, y in steps])
        tones = np.array([(236, 96, 26), (240, 238, 232), (236, 96, 26), (240, 238, 232)])
        builder.turned(rings, tones, layer=2 * i + 1)
    return builder.done()


def _boulder(rng: np.random.Generator) -> Solid:
    builder = Builder()
    tone = np.array((132, 124, 112)) * rng.uniform(0.8, 1.1)
    size = rng.uniform(0.5, 0.9)
    levels = np.linspace(-0.3, 0.5, 6) * np.pi
    rings = np.stack([_ring(float(np.cos(a)) + 0.02, float(np.sin(a)) + 0.75, 12) for a in levels])
    rings *= rng.uniform(0.82, 1.15, (6, 12, 1)) * size
    rings[..., 1] = np.maximum(rings[..., 1], 0)
    middle = rings.mean(axis=(0, 1))
    for i in range(5):
        for j in range(12):
            k = (j + 1) % 12
            quad = rings[[i, i, i + 1, i + 1], [j, k, k, j]]
            builder.face(quad, tone * rng.uniform(0.85, 1.12), middle)
    return builder.done()


def _fridge() -> Solid:
    builder = Builder()
    builder.box((-0.34, 0.03, -0.34), (0.34, 1.75, 0.34), (226, 228, 230))
    builder.box((-0.345, 1.15, -0.36), (0.345, 1.17, 0.345), (90, 92, 94), layer=1, without=1)
    builder.box((-0.28, 1.22, -0.4), (-0.25, 1.6, -0.36), (70, 72, 74), layer=2)
    builder.box((-0.28, 0.7, -0.4), (-0.25, 1.1, -0.36), (70, 72, 74), layer=2)
    return builder.done()


def _suitcases(rng: np.random.Generator) -> Solid:
    builder = Builder()
    tones = np.array(((40, 96, 150), (150, 36, 60), (208, 160, 60), (50, 50, 54)), float)
    rng.shuffle(tones)
    builder.box((-0.42, 0.0, -0.2), (0.42, 0.34, 0.3), tones[0])
    builder.box((-0.42, 0.15, -0.205), (0.42, 0.18, 0.305), tones[0] * 0.5, layer=1, without=1)
    builder.box((-0.34, 0.34, -0.16), (0.3, 0.6, 0.26), tones[1], layer=2)
    builder.box((-0.34, 0.45, -0.165), (0.3, 0.48, 0.265), tones[1] * 0.5, layer=3, without=1)
    builder.box((-0.2, 0.6, -0.12), (0.2, 0.82, 0.2), tones[2], layer=4)
    return builder.done()


def _barrel(rng: np.random.Generator) -> Solid:
    builder = Builder()
    tones = ((38, 84, 150), (178, 52, 30), (58, 120, 66))
    tone = np.array(tones[int(rng.integers(len(tones)))], float)
    steps = ((0.29, 0.0), (0.31, 0.3), (0.29, 0.32), (0.31, 0.6), (0.29, 0.62), (0.3, 0.9))
    rings = np.stack([_ring(r, y) for r, y in steps])
    shades = np.array([1, 0.7, 1.02, 0.7, 1.05])[:, None] * tone
    builder.turned(rings, shades)
    return builder.done()


def _boxes(rng: np.random.Generator) -> Solid:
    builder = Builder()
    card = np.array((178, 138, 92), float)
    low = 0.0
    for i in range(int(rng.integers(2, 4))):
        half, tall = rng.uniform(0.22, 0.42, 2), rng.uniform(0.28, 0.5)
        x = rng.uniform(-0.08, 0.08)
        builder.box((x - half[0], low, -half[1]), (x + half[0], low + tall, half[1]),
                    card * rng.uniform(0.88, 1.1), layer=2 * i)  # fmt: skip
        builder.box((x - 0.03, low - 0.002, -half[1] - 0.004),
                    (x + 0.03, low + tall + 0.004, half[1] + 0.004),
                    (206, 186, 140), layer=2 * i + 1, without=0)  # fmt: skip
        low += tall
    return builder.done()


_BODIES: dict[str, Callable[[np.random.Generator], Solid]] = {
    'crate': lambda rng: _crate(),
    'sofa': _sofa,
    'mattress': _mattress,
    'tyres': _tyres,
    'cone stack': _cones,
    'boulder': _boulder,
    'fridge': lambda rng: _fridge(),
    'suitcases': _suitcases,
    'barrel': _barrel,
    'boxes': _boxes,
}
_PICTURES: dict[
    str, Callable[[np.random.Generator, float], tuple[Texture, tuple[float, float]]]
] = {
    'deer': figures.deer,
    'cow': figures.cow,
    'duck': figures.duck,
    'balloons': figures.balloon,
    'bear': figures.bear,
}
NAMES = (*_BODIES, *_PICTURES)
"""What may come into a drive."""


def unknown_object(name: str, rng: np.random.Generator, lit_from: float) -> UnknownObject:
    """One of `NAMES`, its looks by chance; `lit_from` in -1..1 is the side of the light."""
    if name in _BODIES:
        body = _BODIES[name](rng)
        return UnknownObject(name, body, None, (body.size[1], max(body.size[0], body.size[2])))
    picture, size = _PICTURES[name](rng, lit_from)
    return UnknownObject(
        name, None, picture, size, walks=name in ('deer', 'cow'), flies=name == 'balloons'
    )
