"""Cars: a body lofted along its length, a cabin of glass, wheels and lamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .solids import GLASS, LAMP, MATT, PAINT, Builder, Solid

_PAINTS = (
    (186, 188, 192),
    (40, 42, 46),
    (226, 226, 224),
    (120, 22, 26),
    (34, 56, 104),
    (92, 96, 100),
    (30, 62, 50),
    (190, 40, 30),
    (148, 146, 138),
    (60, 88, 128),
    (204, 186, 60),
    (22, 22, 24),
)


@dataclass(frozen=True)
class _Shape:
    """Proportions in metres: z of the cabin's base and roof ends are from the rear (negative)."""

    length: float
    width: float
    belt: float
    roof: float
    bonnet: float
    boot: float
    base: tuple[float, float]
    top: tuple[float, float]
    wheel: float


_SHAPES = (
    _Shape(4.0, 1.70, 0.92, 1.46, 0.80, 0.90, (-1.92, 0.95), (-1.45, 0.2), 0.31),
    _Shape(4.5, 1.78, 0.90, 1.42, 0.76, 0.88, (-1.55, 1.02), (-0.95, 0.25), 0.32),
    _Shape(4.6, 1.80, 0.95, 1.48, 0.80, 0.95, (-2.22, 1.0), (-1.95, 0.25), 0.32),
    _Shape(4.5, 1.86, 1.08, 1.74, 0.98, 1.08, (-2.15, 0.95), (-1.9, 0.35), 0.36),
    _Shape(4.9, 1.92, 1.18, 1.98, 0.98, 1.18, (-2.42, 1.6), (-2.36, 1.0), 0.34),
    _Shape(3.6, 1.62, 0.92, 1.48, 0.80, 0.92, (-1.74, 1.05), (-1.4, 0.4), 0.29),
)
_VAN = 4


def random_car(rng: np.random.Generator) -> Solid:
    """A car by chance; it heads along +z."""
    index = int(rng.choice(len(_SHAPES), p=(0.26, 0.2, 0.16, 0.16, 0.1, 0.12)))
    colour = np.array(_PAINTS[int(rng.integers(len(_PAINTS)))]) * rng.uniform(0.85, 1.1)
    return _car(_SHAPES[index], colour, panelled=index == _VAN and bool(rng.random() < 0.6))


def _car(shape: _Shape, colour: np.ndarray, panelled: bool) -> Solid:
    builder = Builder()
    _underside(builder, shape)
    _body(builder, shape, colour)
    _cabin(builder, shape, colour, panelled)
    _ends(builder, shape, colour)
    _trim(builder, shape, colour)
    for z in (-shape.length * 0.31, shape.length * 0.32):
        for side in (-1, 1):
            _wheel(builder, shape, side, z)
    return builder.done()


def _underside(builder: Builder, shape: _Shape) -> None:
    half = shape.width / 2 - 0.12
    length = shape.length / 2 - 0.25
    builder.box((-half, 0.16, -length), (half, 0.4, length), (16, 16, 17), MATT, 0)
    for z in (-shape.length * 0.31, shape.length * 0.32):
        for side in (-1, 1):
            edge = side * (shape.width / 2 - 0.04)
            low, high = sorted((edge, edge - side * 0.2))
            radius = shape.wheel * 0.92
            builder.box((low, 0, z - radius * 0.7), (high, 0.4, z + radius * 0.7), (22, 22, 23))


def _sections(shape: _Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stations along the body: z, share of the half width, height of the upper edge."""
    half = shape.length / 2
    base_rear, base_front = shape.base
    z = np.array([-half, -half + 0.12, -half + 0.45, base_rear + 0.35, 0.0, base_front - 0.1,
                  base_front + 0.35, half - 0.4, half - 0.12, half])  # fmt: skip
    z = np.maximum.accumulate(z + np.arange(len(z)) * 1e-3)
    share = np.array([0.86, 0.95, 0.985, 1.0, 1.0, 1.0, 0.995, 0.95, 0.88, 0.76])
    boot, belt, nose = shape.boot, shape.belt, shape.bonnet
    top = np.array([boot - 0.1, boot - 0.01, boot, belt, belt + 0.01, belt,
                    belt - (belt - nose) * 0.25, nose, nose - 0.07, nose - 0.2])  # fmt: skip
    return z, share, top


_RING = (
    (0.86, 0.0),
    (0.96, 0.14),
    (1.0, 0.42),
    (1.0, 0.62),
    (0.965, 0.85),
    (0.9, 0.97),
    (0.6, 1.02),
)
"""Half a cross-section: share of the half width, share of the height between sill and belt."""


def _rings(shape: _Shape) -> np.ndarray:
    """Outline of the body at every station, float64 [stations, points, 3], right side first."""
    z, share, top = _sections(shape)
    sill = np.full(len(z), 0.24)
    sill[[0, -1]] = 0.34
    rings = np.empty((len(z), 2 * len(_RING), 3))
    for j, (across, up) in enumerate(_RING):
        height = sill + (top - sill) * up
        for k, side in ((j, 1), (2 * len(_RING) - 1 - j, -1)):
            rings[:, k] = np.stack([side * across * share * shape.width / 2, height, z], axis=1)
    return rings


def _body(builder: Builder, shape: _Shape, colour: np.ndarray) -> None:
    rings = _rings(shape)
    count = rings.shape[1]
    for i in range(len(rings) - 1):
        core = np.array([0, 0.5, rings[i : i + 2, 0, 2].mean()])
        for j in range(count - 1):
            quad = rings[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            tone = 0.45 if j in (0, count - 2) else 1.0
            builder.face(quad, colour * tone, core, PAINT, 1)
    for end in (0, -1):
        builder.face(rings[end], colour * 0.93, (0, 0.55, 0), PAINT, 1)


def _trim(builder: Builder, shape: _Shape, colour: np.ndarray) -> None:
    """Seams of the doors, handles and mirrors."""
    rings = _rings(shape)
    front = shape.base[1]
    for station in (3, 4, 5):
        ring = rings[station]
        for j in (*range(1, 5), *range(8, 12)):
            seam = ring[[j, j + 1, j + 1, j]] * (1.004, 1, 1)
            seam[:, 2] += (-0.008, -0.008, 0.008, 0.008)
            builder.face(seam, colour * 0.4, (0, 0.5, ring[0, 2]), MATT, 2)
    for side in (-1, 1):
        edge = side * shape.width / 2
        for z in (rings[3, 0, 2] + 0.12, rings[4, 0, 2] + 0.12):
            _flank(builder, edge * 1.01, (shape.belt - 0.14, shape.belt - 0.11), (z, z + 0.16),
                   colour * 0.5, 2)  # fmt: skip
        low, high = sorted((edge * 0.96, edge * 1.16))
        # Painted first, so that the cabin hides the far one, and its outside again at the end.
        builder.box((low, shape.belt, front - 0.42), (high, shape.belt + 0.15, front - 0.32),
                    colour * 0.8, MATT, 0)  # fmt: skip
        _flank(builder, edge * 1.16, (shape.belt, shape.belt + 0.15), (front - 0.42, front - 0.32),
               colour * 0.8, 6)  # fmt: skip


def _flank(
    builder: Builder,
    x: float,
    y: tuple[float, float],
    z: tuple[float, float],
    colour: np.ndarray,
    layer: int,
) -> None:
    """A rectangle that faces sideways."""
    quad = [(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])]
    builder.face(quad, colour, (0, y[0], z[0]), MATT, layer)


def _cabin(builder: Builder, shape: _Shape, colour: np.ndarray, panelled: bool) -> None:
    """Roof, pillars and windows above the belt."""
    low, high = shape.width / 2 * 0.9, shape.width / 2 * 0.72
    belt, roof = shape.belt - 0.02, shape.roof
    base_rear, base_front = shape.base
    top_rear, top_front = shape.top
    middle = (0.0, (belt + roof) / 2, (base_rear + base_front) / 2)
    glass = (26, 30, 34)
    for side in (-1.0, 1.0):
        quad = np.array([(side * low, belt, base_rear), (side * low, belt, base_front),
                         (side * high, roof, top_front),
                         (side * high, roof, top_rear)])  # fmt: skip
        builder.face(quad, colour * 0.9, middle, PAINT, 2)
        panes = ((0.66, 0.95),) if panelled else ((0.06, 0.33), (0.37, 0.64), (0.68, 0.95))
        for first, last in panes:
            pane = _inset(quad, first, last, 0.06, 0.86)
            builder.face(pane + np.array([side * 0.012, 0, 0]), glass, middle, GLASS, 3)
    _screen(builder, shape, colour, glass, middle)
    arch = np.array([-1, -0.5, 0, 0.5, 1]) * high
    rise = np.array([0, 0.05, 0.065, 0.05, 0])
    ends = np.linspace(top_rear, top_front, 4)
    for i in range(4):
        for j in range(3):
            bow = 0.02 * np.array([0, 1, 1, 0])
            quad = np.array([(arch[i], roof + rise[i] + bow[j], ends[j]),
                             (arch[i + 1], roof + rise[i + 1] + bow[j], ends[j]),
                             (arch[i + 1], roof + rise[i + 1] + bow[j + 1], ends[j + 1]),
                             (arch[i], roof + rise[i] + bow[j + 1], ends[j + 1])])  # fmt: skip
            builder.face(quad, colour, middle, PAINT, 4)


def _screen(
    builder: Builder,
    shape: _Shape,
    colour: np.ndarray,
    glass: tuple[float, float, float],
    middle: tuple[float, float, float],
) -> None:
    """Windscreen and rear window in their frames."""
    low, high = shape.width / 2 * 0.9, shape.width / 2 * 0.72
    for base, top in zip(shape.base, shape.top, strict=True):
        quad = np.array([(-low, shape.belt - 0.02, base), (low, shape.belt - 0.02, base),
                         (high, shape.roof + 0.04, top),
                         (-high, shape.roof + 0.04, top)])  # fmt: skip
        builder.face(quad, colour * 0.9, middle, PAINT, 2)
        out = np.array([0, 0.01, 0.015 if base > 0 else -0.015])
        for j in range(3):
            pane = _inset(quad, 0.07, 0.93, 0.1 + 0.27 * j, 0.1 + 0.27 * (j + 1))
            builder.face(pane + out, glass, middle, GLASS, 3)


def _inset(quad: np.ndarray, left: float, right: float, low: float, high: float) -> np.ndarray:
    """A part of a quad (low left, low right, high right, high left) by shares of its sides."""

    def at(across: float, up: float) -> np.ndarray:
        bottom = quad[0] + across * (quad[1] - quad[0])
        top = quad[3] + across * (quad[2] - quad[3])
        point: np.ndarray = bottom + up * (top - bottom)
        return point

    return np.array([at(left, low), at(right, low), at(right, high), at(left, high)])


def _ends(builder: Builder, shape: _Shape, colour: np.ndarray) -> None:
    """Bumpers, grille, plates and lamps."""
    half, wide = shape.length / 2, shape.width / 2
    for end in (-1.0, 1.0):
        z, rear = end * (half + 0.012), end < 0
        tall = shape.boot if rear else shape.bonnet
        colours = ((236, 44, 34), (220, 190, 70)) if rear else ((250, 246, 228), (226, 226, 220))
        top, bottom = (tall - 0.14, tall - 0.32) if rear else (tall - 0.2, tall - 0.33)
        reach, inner = (0.84, 0.62) if rear else (0.74, 0.44)
        for side in (-1, 1):
            outer = side * wide * reach
            back = end * (half - 0.09)
            lens = [(outer, bottom, back), (side * wide * inner, bottom + 0.02, z),
                    (side * wide * inner, top, z), (outer, top, back)]  # fmt: skip
            builder.face(lens, colours[0], (0, 0.5, 0), LAMP, 5)
        _strip(builder, (-0.26, 0.26), (0.46, 0.57), z + end * 0.01, colours[1], 6)
        _strip(builder, (-wide * 0.74, wide * 0.74), (0.3, 0.4), z, colour * 0.35, 5)
        if rear:
            _strip(
                builder, (-wide * 0.6, wide * 0.6), (tall - 0.36, tall - 0.34), z, colour * 0.5, 5
            )
        else:
            _strip(builder, (-wide * 0.4, wide * 0.4), (0.6, tall - 0.21), z, (22, 22, 24), 5)


def _strip(
    builder: Builder,
    x: tuple[float, float],
    y: tuple[float, float],
    z: float,
    colour: tuple[float, float, float] | np.ndarray,
    layer: int,
) -> None:
    quad = [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]
    builder.face(quad, colour, (0, (y[0] + y[1]) / 2, 0), MATT, layer)


def _wheel(builder: Builder, shape: _Shape, side: int, z: float) -> None:
    """Arch, tyre, rim and hub, flat discs on the body's side."""
    edge = side * shape.width / 2
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    for radius, out, colour in (
        (1.16, 0.004, (12, 12, 13)),
        (1.0, 0.01, (30, 30, 31)),
        (0.66, 0.016, (150, 152, 156)),
        (0.5, 0.02, (84, 86, 90)),
        (0.2, 0.024, (170, 172, 176)),
    ):
        r = radius * shape.wheel
        disc = np.stack([np.full(16, edge + side * out), shape.wheel + r * np.sin(turns),
                         z + r * np.cos(turns)], axis=1)  # fmt: skip
        disc[:, 1] = np.maximum(disc[:, 1], 0)
        layer = 5 + round(out * 500)
        builder.face(disc, colour, (0, shape.wheel, z), MATT, layer)
