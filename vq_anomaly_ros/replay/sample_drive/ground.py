"""Road and pavement: a bending strip of texture, marked, lit and seen through the air."""

from __future__ import annotations

import cv2
import numpy as np

from . import textures
from .camera import Camera
from .canvas import Canvas
from .street import BLOCK, SIGHT, Street

ROAD, PAVEMENT = 3, 4
TEXELS = 48
"""Texels a metre of the nearest texture."""
TILE = 16.0
"""Metres after which the texture repeats."""
HALF = 16.0
"""Half the texture's width in metres."""
_LIGHT_TEXELS = 8
_LEVELS = ((1, 1, 3), (2, 1, 3), (4, 1, 3), (8, 1, 4), (16, 1, 5), (32, 2, 8), (64, 2, 13))
"""Texels divided along and across the street, tiles repeated, of one copy after another."""


class Ground:
    """Textures of one street's ground, and its painting."""

    def __init__(self, street: Street) -> None:
        self.street = street
        rng = np.random.default_rng([street.seed, 3])
        tile = _tile(rng, street)
        self._levels = [_repeated(tile, *level) for level in _LEVELS]
        self._shadows: dict[int, np.ndarray] = {}

    def paint(self, canvas: Canvas) -> None:
        """Paint the ground's part of the picture and its labels."""
        camera, street = canvas.camera, self.street
        rows, depth = ground_rows(camera)
        if not len(rows):
            return
        top = int(rows[0])
        across, along = street_maps(camera, street, rows, depth)
        part = canvas.image[top:]
        self._albedo(part, across, along, depth, camera)
        inside = cv2.inRange(across, -street.plan.road, street.plan.road)
        names = np.full((1, 256), PAVEMENT, np.uint8)
        names[0, 255] = ROAD
        canvas.labels[top:] = cv2.LUT(inside, names)
        _markings(canvas, street, camera.position[2])
        self._illuminate(part, across, along, camera.position[2])
        _air(part, canvas, depth)

    def _albedo(
        self,
        part: np.ndarray,
        across: np.ndarray,
        along: np.ndarray,
        depth: np.ndarray,
        camera: Camera,
    ) -> None:
        """Texture of every row from the copy that suits its distance.

        A pixel spans depth**2 / (height * focal) metres along the street.
        """
        origin = float(np.floor(camera.position[2] / TILE)) * TILE
        reach = camera.position[1] * camera.focal / TEXELS
        first = len(depth)
        for (shrink_z, shrink_x, _), texture in zip(_LEVELS, self._levels, strict=True):
            far = SIGHT if shrink_z == _LEVELS[-1][0] else np.sqrt(1.6 * shrink_z * reach)
            last, first = first, int(np.searchsorted(-depth, -far))
            if first >= last:
                continue
            scale_x, scale_z = TEXELS / shrink_x, TEXELS / shrink_z
            map_x = across[first:last] * scale_x + (HALF * scale_x - 0.5)
            map_z = along[first:last] * scale_z - (origin * scale_z + 0.5)
            np.clip(map_x, 0, texture.shape[1] - 1, out=map_x)
            cv2.remap(
                texture, map_x, map_z, cv2.INTER_LINEAR, part[first:last], cv2.BORDER_REPLICATE
            )

    def _illuminate(
        self, part: np.ndarray, across: np.ndarray, along: np.ndarray, here: float
    ) -> None:
        """Multiply by sun and sky, with the houses' shadows."""
        weather = self.street.weather
        number = int(np.floor(here / BLOCK))
        count = int(SIGHT // BLOCK) + 2
        shade = np.concatenate([self._shadow(number + i) for i in range(count)])
        map_x = across * _LIGHT_TEXELS + (HALF * _LIGHT_TEXELS - 0.5)
        map_z = along * _LIGHT_TEXELS - (number * BLOCK * _LIGHT_TEXELS + 0.5)
        lit = cv2.remap(shade, map_x, map_z, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
        up = np.array([0.0, 1.0, 0.0])
        sky = weather.ambient * (1 - 0.12 * weather.wet)
        sun = weather.light(up) - weather.ambient
        steps = np.arange(256)[None, :, None] / 255
        table = ((sky + sun * steps) * 128 * (1 - 0.25 * weather.wet)).clip(0, 255)
        light = cv2.LUT(cv2.cvtColor(lit, cv2.COLOR_GRAY2RGB), table.astype(np.uint8))
        cv2.multiply(part, light, dst=part, scale=1 / 128)

    def _shadow(self, number: int) -> np.ndarray:
        """Share of sunlight on a block, uint8 [BLOCK*8, 2*HALF*8]."""
        if number not in self._shadows:
            if len(self._shadows) > 64:
                self._shadows.clear()
            self._shadows[number] = _shadow_map(self.street, number)
        return self._shadows[number]


def _tile(rng: np.random.Generator, street: Street) -> np.ndarray:
    """Cross-section of the street repeated along it, uint8 [TILE, 2*HALF] texels, RGB."""
    plan = street.plan
    height, width = int(TILE * TEXELS), int(2 * HALF * TEXELS)
    grey = rng.uniform(84, 122)
    warm = rng.uniform(-5, 5)
    tile = textures.asphalt(rng, (height, width), (grey + warm, grey, grey - warm))
    across = (np.arange(width) + 0.5) / TEXELS - HALF
    wear = np.zeros(width, np.float32)
    for lane in (-plan.lane / 2, plan.lane / 2):
        for track in (-0.8, 0.8):
            wear += 0.10 * np.exp(-(((across - lane - track) / 0.28) ** 2))
        wear -= 0.08 * np.exp(-(((across - lane) / 0.35) ** 2))
    wear -= 0.16 * np.exp(-((np.abs(across) - plan.road) ** 2 / 0.12))
    tile = (tile * (1 + wear)[None, :, None]).clip(0, 255).astype(np.uint8)
    tone = rng.uniform(118, 158)
    slab = int(rng.uniform(0.4, 0.9) * TEXELS)
    slab = max(s for s in (16, 24, 32, 48) if s <= max(16, slab))
    paving = textures.slabs(rng, (height, width), (tone + 6, tone, tone - 8), (slab, slab))
    beside = np.abs(across) > plan.road
    tile[:, beside] = paving[:, beside]
    kerb = (np.abs(across) > plan.road) & (np.abs(across) < plan.road + 0.16)
    tile[:, kerb] = (paving[:, kerb] * 0.6 + 84).astype(np.uint8)
    gutter = np.abs(np.abs(across) - plan.road + 0.03) < 0.04
    tile[:, gutter] = (tile[:, gutter] * 0.55).astype(np.uint8)
    edge = np.abs(np.abs(across) - plan.road - 0.17) < 0.015
    tile[:, edge] = (tile[:, edge] * 0.6).astype(np.uint8)
    return tile


def _repeated(tile: np.ndarray, shrink_z: int, shrink_x: int, times: int) -> np.ndarray:
    size = (tile.shape[1] // shrink_x, max(1, tile.shape[0] // shrink_z))
    return np.tile(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), (times, 1, 1))


def ground_rows(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Rows that show ground nearer than `SIGHT`, and their distance forward in metres."""
    rows = np.arange(camera.size[0])
    slope = (rows - camera.centre[1]) / camera.focal
    fall = slope * np.cos(camera.pitch) + np.sin(camera.pitch)
    depth = camera.position[1] / np.maximum(fall, 1e-6)
    chosen = depth < SIGHT
    return rows[chosen], depth[chosen]


def street_maps(
    camera: Camera, street: Street, rows: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """u and z of the street, float32 [rows, width] each, under every pixel of the rows.

    Along a row the ground is a straight line; the bend over it is taken to second order.
    """
    sin_yaw, cos_yaw = np.sin(camera.yaw), np.cos(camera.yaw)
    slope = (rows - camera.centre[1]) / camera.focal
    forward = depth * (np.cos(camera.pitch) - np.sin(camera.pitch) * slope)
    x0 = camera.position[0] + forward * sin_yaw
    z0 = camera.position[2] + forward * cos_yaw
    x_step = depth * cos_yaw
    z_step = -depth * sin_yaw
    column = ((np.arange(camera.size[1]) - camera.centre[0]) / camera.focal).astype(np.float32)
    bend = street.bend(z0)
    first, second = street.slope(z0), street.slope(z0, 2)
    constant = (x0 - bend).astype(np.float32)[:, None]
    linear = (x_step - first * z_step).astype(np.float32)[:, None]
    square = (-0.5 * second * z_step**2).astype(np.float32)[:, None]
    across = square * column
    across += linear
    across *= column
    across += constant
    along = z_step.astype(np.float32)[:, None] * column + z0.astype(np.float32)[:, None]
    return across, along


def _markings(canvas: Canvas, street: Street, here: float) -> None:
    """Lines, zebra crossings, patches and covers, in the surface's own colours."""
    plan = street.plan
    white, yellow = np.array((214, 212, 204)), np.array((206, 166, 54))
    near, far = here + 0.5, here + 110
    if plan.lines in ('dashed', 'long'):
        length, pause = (3.0, 5.0) if plan.lines == 'dashed' else (6.0, 3.0)
        pitch = length + pause
        for i in range(int(near // pitch), int(far // pitch) + 1):
            _strip(canvas, street, 0, 0.13, i * pitch, i * pitch + length, white, near)
    elif plan.lines == 'double':
        for u in (-0.14, 0.14):
            _line(canvas, street, u, 0.11, near, far, white)
    if any(plan.parking):
        for side, parked in zip((-1, 1), plan.parking, strict=True):
            if parked:
                _line(canvas, street, side * (plan.road - 2.1), 0.1, near, far, white)
    else:
        for side in (-1, 1):
            for inset in (0.25, 0.42):
                _line(canvas, street, side * (plan.road - inset), 0.08, near, far, yellow)
    for number in range(int(here // BLOCK), int((here + 70) // BLOCK) + 1):
        _blemishes(canvas, street, number, near)


def _blemishes(canvas: Canvas, street: Street, number: int, near: float) -> None:
    """Covers, patches, seams and a zebra crossing of one block."""
    rng = np.random.default_rng([street.seed, 4, number % 2**31])
    road, start = street.plan.road, number * BLOCK
    if rng.random() < 0.22:
        z = start + rng.uniform(4, 34)
        for u in np.arange(-road + 0.3, road - 0.4, 0.95):
            _strip(canvas, street, u + 0.25, 0.5, z, z + 2.8, np.array((222, 220, 212)), near)
    for _ in range(int(rng.integers(1, 4))):
        u, z = rng.uniform(-road + 0.8, road - 0.8), start + rng.uniform(0, 38)
        tone = rng.uniform(58, 100) * np.ones(3)
        wide, long = rng.uniform(0.5, 1.6), rng.uniform(1, 5)
        _strip(canvas, street, u, wide, z, z + long, tone, near)
    for _ in range(int(rng.integers(1, 4))):
        u, z = rng.uniform(-road + 0.6, road - 0.6), start + rng.uniform(0, 40)
        for radius, grey in ((0.36, 52), (0.31, 84), (0.24, 66)):
            turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            ring = [street.world(u + radius * np.cos(a), 0, z + radius * np.sin(a)) for a in turns]
            outline = canvas.camera.project(np.array(ring)) if z - 1 > near else None
            if outline is not None:
                canvas.polygon(outline, np.full(3, grey), None)


def _line(
    canvas: Canvas, street: Street, u: float, width: float, near: float, far: float,
    colour: np.ndarray,
) -> None:  # fmt: skip
    """An unbroken line in pieces that follow the bend, longer ones farther away."""
    z = near
    while z < far:
        step = 2.0 + 0.08 * (z - near)
        _strip(canvas, street, u, width, z, z + step, colour, near)
        z += step


def _strip(
    canvas: Canvas, street: Street, u: float, width: float, start: float, end: float,
    colour: np.ndarray, near: float,
) -> None:  # fmt: skip
    """A piece of the road's surface in one colour."""
    start = max(start, near)
    if end <= start:
        return
    half = width / 2
    corners = [(u - half, start), (u + half, start), (u + half, end), (u - half, end)]
    outline = canvas.camera.project(np.array([street.world(a, 0, z) for a, z in corners]))
    if outline is not None:
        canvas.polygon(outline, colour, None)


def _air(part: np.ndarray, canvas: Canvas, depth: np.ndarray) -> None:
    """Blend rows into the haze; a wet road mirrors the low sky the flatter one looks at it."""
    weather = canvas.weather
    clear = weather.clearness(depth)
    sheen = 0.5 * weather.wet * np.clip(depth / 45, 0, 1) ** 0.6
    keep = clear * (1 - sheen)
    add = weather.air * (1 - clear)[:, None] + weather.sky_low * (clear * sheen)[:, None]
    keep_rows = np.repeat(keep[:, None] * 255, 3, axis=1)
    for rows, apply in ((keep_rows, _dim), (add, cv2.add)):
        column = rows.round().clip(0, 255).astype(np.uint8)[:, None]
        wide = cv2.resize(column, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        apply(part, wide, dst=part)


def _dim(picture: np.ndarray, factor: np.ndarray, dst: np.ndarray) -> None:
    cv2.multiply(picture, factor, dst=dst, scale=1 / 255)


def _shadow_map(street: Street, number: int) -> np.ndarray:
    """Shadows that houses and trees near a block throw on it."""
    texels = _LIGHT_TEXELS
    light = np.full((int(BLOCK * texels), int(2 * HALF * texels)), 255, np.uint8)
    sun = street.weather.to_sun
    start = number * BLOCK
    reach = (-sun[0] / sun[1], -sun[2] / sun[1])

    def texel(points: list[tuple[float, float]]) -> np.ndarray:
        raw = np.subtract(points, (-HALF, start)) * texels
        return np.round(raw * 16).clip(-(2**24), 2**24).astype(np.int32)

    for other in (number - 1, number, number + 1):
        for thing in street.block(other):
            if thing.kind == 'house':
                height = street.houses[thing.index].height + street.houses[thing.index].slope * 0.6
                du, dz = reach[0] * height, reach[1] * height
                u, z0, z1 = thing.u, thing.z, thing.z + thing.length
                quad = [(u, z0), (u, z1), (u + du, z1 + dz), (u + du, z0 + dz)]
                cv2.fillConvexPoly(light, texel(quad), 0, shift=4)
            elif thing.kind == 'tree':
                for share in (0.45, 0.6, 0.75, 0.9):
                    high = thing.height * share
                    centre = texel([(thing.u + reach[0] * high, thing.z + reach[1] * high)])[0]
                    radius = int(thing.height * 0.2 * texels * 16)
                    cv2.circle(light, centre.tolist(), radius, 70, -1, shift=4)
    soft = cv2.GaussianBlur(light, (0, 0), 1.6)
    beside = np.abs((np.arange(light.shape[1]) + 0.5) / texels - HALF) - street.house_line
    contact = 1 - 0.35 * np.exp(-np.abs(beside) / 0.5)
    return (soft * contact).astype(np.uint8)
