"""Trees, as RGBA pictures that face the camera."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Texture

SIZE = 512
_GREENS = ((72, 96, 40), (88, 110, 46), (58, 84, 42), (104, 112, 48), (128, 104, 44))


def random_tree(rng: np.random.Generator, to_sun_right: float, bare: float) -> Texture:
    """A tree uint8 [SIZE,SIZE,4], foot in the middle of the lower edge.

    `to_sun_right` in -1..1 says from which side the crown is lit, `bare` is the chance that it has
    no leaves.
    """
    picture = np.zeros((SIZE, SIZE, 4), np.uint8)
    bark = np.array((86, 74, 60)) * rng.uniform(0.75, 1.15)
    tips: list[tuple[float, float]] = []
    leafless = rng.random() < bare
    _branch(picture, rng, (SIZE / 2, SIZE), -np.pi / 2, 150, 15, bark, 7 if leafless else 5, tips)
    if not leafless:
        _leaves(picture, rng, tips, to_sun_right)
    return Texture(_bled(picture, bark))


def _branch(
    picture: np.ndarray,
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    width: float,
    bark: np.ndarray,
    depth: int,
    tips: list[tuple[float, float]],
) -> None:
    """Draw a branch and those that grow from it; `tips` collects the ends."""
    end = (start[0] + length * np.cos(angle), start[1] + length * np.sin(angle))
    colour = (*np.clip(bark * rng.uniform(0.8, 1.15), 0, 255).tolist(), 255)
    first = (round(start[0] * 8), round(start[1] * 8))
    second = (round(end[0] * 8), round(end[1] * 8))
    cv2.line(picture, first, second, colour, max(1, round(width)), cv2.LINE_AA, 3)
    tips.append(end)
    if depth == 0:
        return
    for side in (-1, 1) if depth < 4 or rng.random() < 0.6 else (-1, 0.15, 1):
        turn = side * rng.uniform(0.22, 0.6)
        upright = 0.12 * (-np.pi / 2 - angle)
        _branch(
            picture,
            rng,
            end,
            angle + turn + upright,
            length * rng.uniform(0.62, 0.8),
            width * 0.66,
            bark,
            depth - 1,
            tips,
        )


def _leaves(
    picture: np.ndarray,
    rng: np.random.Generator,
    tips: list[tuple[float, float]],
    to_sun_right: float,
) -> None:
    """Clusters of leaves round the ends of the branches, each lit on its upper, sunny side."""
    ends = np.array(tips[3:])
    middle, spread = ends.mean(axis=0), ends.std(axis=0) + 1
    count = int(rng.integers(54, 80))
    centres = ends[rng.integers(len(ends), size=count)] + rng.normal(0, 14, (count, 2))
    green = np.array(_GREENS[int(rng.integers(len(_GREENS)))]) * rng.uniform(0.85, 1.15)
    place = (centres - middle) / spread
    bright = 0.86 - 0.16 * place[:, 1] + 0.14 * place[:, 0] * to_sun_right
    bright += rng.normal(0, 0.08, count)
    for i in np.argsort(bright + rng.normal(0, 0.12, count)):
        radius = float(rng.uniform(20, 38))
        _cluster(picture, rng, centres[i], radius, green * bright[i], to_sun_right)


def _cluster(
    picture: np.ndarray,
    rng: np.random.Generator,
    centre: np.ndarray,
    radius: float,
    green: np.ndarray,
    to_sun_right: float,
) -> None:
    """A dark inside and leaves over it, brighter towards the light."""
    turns = np.linspace(0, 2 * np.pi, 22, endpoint=False)
    edge = radius * rng.uniform(0.55, 0.95, 22)
    inside = centre + np.stack([edge * np.cos(turns), 0.85 * edge * np.sin(turns)], axis=1)
    dark = (*(green * 0.52).clip(4, 255).tolist(), 255)
    cv2.fillPoly(picture, [np.round(inside * 8).astype(np.int32)], dark, cv2.LINE_AA, 3)
    count = int(radius * 1.7)
    away = np.sqrt(rng.uniform(0, 1.15, count)) * radius
    turn = rng.uniform(0, 2 * np.pi, count)
    offset = np.stack([away * np.cos(turn), 0.85 * away * np.sin(turn)], axis=1)
    light = 0.95 - 0.42 * offset[:, 1] / radius + 0.3 * to_sun_right * offset[:, 0] / radius
    light += rng.normal(0, 0.12, count)
    sizes, angles = rng.uniform(4.0, 10.0, count), rng.uniform(0, 180, count)
    for i in np.argsort(light):
        colour = (green * light[i] * (1.04, 1.0, 0.9)).clip(4, 255).tolist()
        at = centre + offset[i]
        box = ((float(at[0]), float(at[1])), (sizes[i], sizes[i] * 0.55), float(angles[i]))
        cv2.ellipse(picture, box, (*colour, 255), -1, cv2.LINE_AA)


def _bled(picture: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Colour where nothing is, so that edges don't darken when the picture is shrunk."""
    solid = picture[..., 3] > 0
    colour = picture[solid][:, :3].mean(axis=0) if solid.any() else fill
    soft = picture[..., 3:].astype(np.float32) / 255
    picture[..., :3] = np.where(
        soft > 0, np.minimum(picture[..., :3] / np.maximum(soft, 0.25), 255), colour
    )
    return picture
