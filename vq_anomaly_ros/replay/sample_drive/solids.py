"""Bodies of flat faces: cars, and unknown objects such as sofas and crates.

Object axes: x right, y up, z forward, in metres, the origin on the ground below the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import NEAR
from .canvas import Canvas

MATT, PAINT, GLASS, LAMP = 0, 1, 2, 3
"""Surfaces: dull, car paint, window, and what may shine by itself."""


_SPECK = 1.6
"""Faces that span fewer pixels of the canvas are left out."""


@dataclass(frozen=True)
class Solid:
    """Faces of one body.

    `corners` float64 [F,V,3] (a face of fewer corners repeats its last), `normals` [F,3] unit,
    `colours` [F,3] RGB, `surface` int [F], `layer` int [F]: lower layers are painted first.
    """

    corners: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    surface: np.ndarray
    layer: np.ndarray
    size: tuple[float, float, float]


class Builder:
    """Collects faces; `done` makes the `Solid`."""

    def __init__(self) -> None:
        self._faces: list[np.ndarray] = []
        self._colours: list[np.ndarray] = []
        self._inside: list[np.ndarray] = []
        self._surface: list[int] = []
        self._layer: list[int] = []

    def face(
        self,
        corners: list[tuple[float, float, float]] | np.ndarray,
        colour: tuple[float, float, float] | np.ndarray,
        away_from: tuple[float, float, float] | np.ndarray,
        surface: int = MATT,
        layer: int = 0,
    ) -> None:
        """A convex face that looks away from a point inside."""
        self._faces.append(np.array(corners, float))
        self._colours.append(np.array(colour, float))
        self._inside.append(np.asarray(away_from, float))
        self._surface.append(surface)
        self._layer.append(layer)

    def box(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        colour: tuple[float, float, float] | np.ndarray,
        surface: int = MATT,
        layer: int = 0,
        without: int | None = None,
    ) -> None:
        """A box between two corners, perhaps without the two sides across an axis."""
        ends = np.array([low, high], float)
        middle = ends.mean(axis=0)
        for axis in (a for a in range(3) if a != without):
            first, second = (axis + 1) % 3, (axis + 2) % 3
            for end in (0, 1):
                quad = np.empty((4, 3))
                quad[:, axis] = ends[end, axis]
                quad[:, first] = ends[[0, 1, 1, 0], first]
                quad[:, second] = ends[[0, 0, 1, 1], second]
                self.face(quad, colour, middle, surface, layer)

    def turned(
        self,
        rings: np.ndarray,
        colours: np.ndarray,
        layer: int = 0,
        surface: int = MATT,
        capped: bool = True,
    ) -> None:
        """Faces between closed rings [R,N,3]; `colours` [R-1,3], one a band, or one a face."""
        middle = rings.mean(axis=(0, 1))
        count = rings.shape[1]
        for i in range(len(rings) - 1):
            for j in range(count):
                k = (j + 1) % count
                quad = np.array([rings[i, j], rings[i, k], rings[i + 1, k], rings[i + 1, j]])
                self.face(quad, colours[i], middle, surface, layer)
        if capped:
            self.face(rings[0], colours[0], middle, surface, layer)
            self.face(rings[-1], colours[-1], middle, surface, layer)

    def done(self) -> Solid:
        """The body of all faces so far."""
        most = max(len(f) for f in self._faces)
        corners = np.stack([np.concatenate([f, np.repeat(f[-1:], most - len(f), 0)])
                            for f in self._faces])  # fmt: skip
        spread = corners.reshape(-1, 3)
        size = spread.max(axis=0) - spread.min(axis=0)
        return Solid(
            corners,
            _normals(corners, np.array([len(f) for f in self._faces]), np.stack(self._inside)),
            np.stack(self._colours),
            np.array(self._surface),
            np.array(self._layer),
            (float(size[0]), float(size[1]), float(size[2])),
        )


def _normals(corners: np.ndarray, counts: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Unit normals [F,3] of faces [F,V,3], the first `counts` [F] of V theirs, away from [F,3]."""
    sides = corners[:, 1:] - corners[:, :1]
    normals = np.cross(sides[:, 0], sides[:, 1])
    length = np.linalg.norm(normals, axis=1)
    folded = (length < 1e-9) & (counts > 3)  # the first three corners lie on a line
    if folded.any():
        normals[folded] = np.cross(sides[folded, 1], sides[folded, 2])
        length = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(length, 1e-9)[:, None]
    own = np.arange(corners.shape[1])[:, None] < counts[:, None, None]
    middles = (corners * own).sum(axis=1) / counts[:, None]
    return np.where(
        np.einsum('fi,fi->f', normals, middles - inside)[:, None] < 0, -normals, normals
    )


def paint(
    canvas: Canvas,
    solid: Solid,
    place: np.ndarray,
    heading: float,
    label: int,
    tilt: float = 0.0,
    lamps: bool = False,
) -> None:
    """Paint a body at a place [3] of the world, turned by `heading` (to the right, radians).

    `tilt` is a roll about its own z axis in radians, `lamps` says whether they are on.
    """
    turn = _turn(heading, tilt)
    corners = solid.corners @ turn.T + place
    normals = solid.normals @ turn.T
    camera = canvas.camera
    middles = corners.mean(axis=1)
    seen = np.einsum('fi,fi->f', normals, np.array(camera.position) - middles) > 0
    flat = camera.to_camera(corners.reshape(-1, 3)).reshape(corners.shape)
    seen &= (flat[..., 2] > NEAR).all(axis=1)
    chosen = np.flatnonzero(seen)
    if not len(chosen):
        return
    depth = flat[chosen, :, 2].mean(axis=1)
    order = np.lexsort((-depth, solid.layer[chosen]))
    chosen, depth = chosen[order], depth[order]
    colours = _lit(canvas, solid, chosen, normals[chosen], middles[chosen], lamps)
    colours = canvas.weather.haze(colours, depth)
    pixels = camera.focal * flat[chosen, :, :2] / flat[chosen, :, 2:] + camera.centre
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    outside = (high < 0) | (low > (camera.size[1], camera.size[0]))
    kept = ~outside.any(axis=1) & ((high - low).max(axis=1) > _SPECK)
    canvas.polygons(pixels[kept], colours[kept], label)


def _turn(heading: float, tilt: float) -> np.ndarray:
    sin, cos = np.sin(heading), np.cos(heading)
    about_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    sin, cos = np.sin(tilt), np.cos(tilt)
    return about_y @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _lit(
    canvas: Canvas,
    solid: Solid,
    chosen: np.ndarray,
    normals: np.ndarray,
    middles: np.ndarray,
    lamps: bool,
) -> np.ndarray:
    """Colours of faces: light by their normal, and what paint and glass mirror."""
    weather = canvas.weather
    surface = solid.surface[chosen][:, None]
    colours = solid.colours[chosen] * weather.light(normals)
    view = middles - np.array(canvas.camera.position)
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    along = np.einsum('fi,fi->f', view, normals)
    mirrored = view - 2 * along[:, None] * normals
    height = np.clip(mirrored[:, 1:2] * 1.6, 0, 1)
    street = np.array((72, 72, 72)) * weather.ambient
    scene = np.where(height > 0, street + (weather.sky_low - street) * height**0.7, street * 0.8)
    glance = (1 - np.abs(along[:, None])) ** 3
    shares = [0.06 + 0.4 * glance, 0.26 + 0.6 * glance]
    mirror = np.select([surface == PAINT, surface == GLASS], shares, 0)
    glint = np.clip(mirrored @ weather.to_sun, 0, 1)[:, None] ** 40
    colours = colours * (1 - mirror) + scene * mirror
    colours += glint * weather.sun * 190 * np.isin(surface, (PAINT, GLASS))
    return np.where((surface == LAMP) & lamps, solid.colours[chosen], colours)
