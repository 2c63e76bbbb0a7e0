"""People, riders and animals, as RGBA pictures made of rounded parts.

Each part is a flat shape; its distance to the outline gives it a height and so a shade, which makes
it look round.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from .canvas import Texture

TEXELS = 150
"""Texels a metre."""
Point = tuple[float, float]
Colour = tuple[float, float, float]

_SKIN = ((224, 178, 146), (198, 148, 114), (142, 96, 70), (92, 62, 46))
_COATS = (
    (38, 42, 52),
    (92, 28, 32),
    (42, 66, 102),
    (116, 108, 92),
    (62, 74, 58),
    (196, 190, 178),
    (24, 24, 26),
    (178, 82, 40),
    (70, 52, 88),
    (214, 178, 60),
)
_LEGS = ((36, 40, 54), (28, 28, 30), (78, 72, 62), (58, 68, 88), (112, 100, 82))
_HAIR = ((34, 26, 20), (86, 60, 36), (18, 16, 16), (170, 136, 84), (120, 116, 112))


class Figure:
    """A picture under construction, `size` (height, width) in metres, foot line at the bottom.

    Points are (x, y) in metres: x from the middle to the right, y up from the foot line.
    """

    def __init__(self, size: tuple[float, float], lit_from: float) -> None:
        self.size = size
        self.shape = (round(size[0] * TEXELS), round(size[1] * TEXELS))
        self.colour = np.zeros((*self.shape, 3), np.float32)
        self.alpha = np.zeros(self.shape, np.float32)
        self.lit_from = lit_from

    def _at(self, point: Point) -> tuple[float, float]:
        return (point[0] + self.size[1] / 2) * TEXELS, (self.size[0] - point[1]) * TEXELS

    def limb(self, points: list[Point], widths: list[float], colour: Colour) -> None:
        """A chain of tapered capsules through points, `widths` in metres."""
        mask = np.zeros(self.shape, np.uint8)
        for i in range(len(points) - 1):
            steps = np.linspace(0, 1, 14)
            start, end = np.array(self._at(points[i])), np.array(self._at(points[i + 1]))
            for share in steps:
                x, y = start + share * (end - start)
                radius = (widths[i] + share * (widths[i + 1] - widths[i])) * TEXELS / 2
                centre = (round(float(x) * 8), round(float(y) * 8))
                cv2.circle(mask, centre, max(4, round(radius * 8)), 255, -1, cv2.LINE_AA, 3)
        self._add(mask, colour)

    def shape_of(self, points: list[Point], colour: Colour) -> None:
        """A closed shape with rounded corners."""
        mask = np.zeros(self.shape, np.uint8)
        corners = np.array([[self._at(p) for p in points]]) * 8
        cv2.fillPoly(mask, list(np.rint(corners).astype(np.int32)), 255, cv2.LINE_AA, 3)
        soft = cv2.GaussianBlur(mask, (0, 0), 2.2).astype(int)
        self._add(np.clip((soft - 96) * 4, 0, 255).astype(np.uint8), colour)

    def ellipse(self, centre: Point, axes: Point, angle: float, colour: Colour) -> None:
        """A full ellipse, `axes` its whole width and height in metres, `angle` in degrees."""
        mask = np.zeros(self.shape, np.uint8)
        box = (self._at(centre), (axes[0] * TEXELS, axes[1] * TEXELS), angle)
        cv2.ellipse(mask, box, 255, -1, cv2.LINE_AA)
        self._add(mask, colour)

    def ring(self, centre: Point, axes: Point, width: float, colour: Colour) -> None:
        """An upright elliptic ring, as a wheel seen at an angle."""
        mask = np.zeros(self.shape, np.uint8)
        box = (self._at(centre), (axes[0] * TEXELS, axes[1] * TEXELS), 0.0)
        cv2.ellipse(mask, box, 255, max(1, round(width * TEXELS)), cv2.LINE_AA)
        self._add(mask, colour)

    def line(self, points: list[Point], width: float, colour: Colour) -> None:
        """A line of even width."""
        mask = np.zeros(self.shape, np.uint8)
        corners = np.rint(np.array([self._at(p) for p in points]) * 8).astype(np.int32)
        cv2.polylines(mask, [corners], False, 255, max(1, round(width * TEXELS)), cv2.LINE_AA, 3)
        self._add(mask, colour)

    def _add(self, mask: np.ndarray, colour: Colour) -> None:
        x, y, w, h = cv2.boundingRect(mask)
        if not w or not h:
            return
        box = np.s_[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1]
        part = np.ascontiguousarray(mask[box])
        height = cv2.distanceTransform((part > 127).astype(np.uint8), cv2.DIST_L2, 5)
        limit = max(2.0, 0.8 * float(height.max()))
        dome = np.sqrt(np.clip(1 - (1 - np.minimum(height, limit) / limit) ** 2, 0, 1))
        dome = cv2.GaussianBlur(dome, (0, 0), 2.4) * limit
        slope_x = cv2.Sobel(dome, cv2.CV_32F, 1, 0, ksize=3) / 8
        slope_y = cv2.Sobel(dome, cv2.CV_32F, 0, 1, ksize=3) / 8
        steep = np.sqrt(1 + slope_x**2 + slope_y**2)
        light = (0.62 + 0.32 * slope_y - 0.3 * self.lit_from * slope_x) / steep + 0.3
        shaded = np.clip(light, 0.25, 1.35)[..., None] * np.array(colour, np.float32)
        cover = (part / np.float32(255))[..., None]
        self.colour[box] = self.colour[box] * (1 - cover) + shaded * cover
        self.alpha[box] = np.maximum(self.alpha[box], cover[..., 0])

    def texture(self) -> Texture:
        """The picture, uint8 [h,w,4]."""
        solid = self.alpha > 0.5
        colour = self.colour[solid].mean(axis=0) if solid.any() else np.zeros(3)
        full = np.where(
            self.alpha[..., None] > 0.02,
            self.colour / np.maximum(self.alpha, 0.25)[..., None],
            colour,
        )
        rgba = np.dstack([full, self.alpha * 255])
        return Texture(rgba.clip(0, 255).astype(np.uint8))


def _choice(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    red, green, blue = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.85, 1.15)
    return float(red), float(green), float(blue)


def _darker(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@lru_cache(maxsize=512)
def pedestrian(person: int, phase: float, side_on: bool, lit_from: float) -> Texture:
    """A walking person 1.95 m x 1.1 m, head at 1.75 m; `phase` of the step in 0..1."""
    rng = np.random.default_rng([person, 11])
    figure = Figure((1.95, 1.1), lit_from)
    skin, coat, legs = _choice(rng, _SKIN), _choice(rng, _COATS), _choice(rng, _LEGS)
    hair, shoes = _choice(rng, _HAIR), (26.0, 24.0, 24.0)
    swing = np.sin(2 * np.pi * phase)
    stride = (0.28 if side_on else 0.07) * swing
    girth = rng.uniform(0.9, 1.15)
    apart = 0.03 if side_on else 0.1
    for side, way in ((-1, -stride), (1, stride)):
        lift = max(0.0, swing * side) * 0.07
        hip, foot = (side * apart, 0.9), (side * apart + way, 0.07 + lift)
        knee = ((hip[0] + foot[0]) / 2 + (0.06 * abs(swing) if side_on else 0), 0.49 + lift / 2)
        dim = 1.0 if side > 0 else 0.8
        figure.limb([hip, knee, foot], [0.19 * girth, 0.14, 0.1], _darker(legs, dim))
        toe = (foot[0] + (0.13 if side_on else 0.03 * side), foot[1] - 0.03)
        figure.limb([foot, toe], [0.1, 0.07], shoes)
    _upper_body(figure, rng, (skin, coat, hair), girth, swing, side_on)
    return figure.texture()


def _upper_body(
    figure: Figure,
    rng: np.random.Generator,
    colours: tuple[Colour, Colour, Colour],
    girth: float,
    swing: float,
    side_on: bool,
) -> None:
    """Torso, arms, head and perhaps a bag of a standing person."""
    skin, coat, hair = colours
    broad = (0.15 if side_on else 0.22) * girth
    hem = 0.62 if rng.random() < 0.3 else 0.86
    reach = 0.24 * swing if side_on else 0.05
    arm = [(-broad * 0.8, 1.4), (-broad - reach * 0.5, 1.13), (-broad * 0.9 - reach, 0.88)]
    figure.limb(arm, [0.12, 0.1, 0.08], _darker(coat, 0.78))
    figure.shape_of(
        [(-broad, 1.44), (-broad * 0.95, hem), (broad * 0.95, hem), (broad, 1.44), (0.06, 1.53),
         (-0.06, 1.53)],
        coat,
    )  # fmt: skip
    arm = [(broad * 0.8, 1.4), (broad + reach * 0.5, 1.13), (broad * 0.9 + reach, 0.88)]
    figure.limb(arm, [0.12, 0.1, 0.08], _darker(coat, 0.92))
    figure.ellipse((arm[2][0], arm[2][1] - 0.04), (0.08, 0.1), 0, skin)
    figure.limb([(0, 1.5), (0, 1.56)], [0.11, 0.1], _darker(skin, 0.8))
    figure.ellipse((0.01, 1.64), (0.17, 0.23), 0, skin)
    figure.ellipse((-0.015, 1.69), (0.18, 0.15), 0, hair)
    if rng.random() < 0.4:
        figure.ellipse((-0.03, 1.6), (0.13, 0.2), 0, hair)
    if rng.random() < 0.35:
        bag = _choice(rng, _COATS)
        figure.shape_of([(-broad - 0.1, 1.2), (-broad - 0.1, 0.9), (-broad + 0.06, 0.9),
                         (-broad + 0.06, 1.2)], bag)  # fmt: skip


@lru_cache(maxsize=256)
def bicyclist(person: int, phase: float, side_on: bool, lit_from: float) -> Texture:
    """A rider on a bicycle, 1.95 m x 1.9 m side on, 1.95 m x 0.9 m seen from behind."""
    rng = np.random.default_rng([person, 12])
    skin, coat, legs = _choice(rng, _SKIN), _choice(rng, _COATS), _choice(rng, _LEGS)
    frame = _choice(rng, _COATS)
    figure = Figure((1.95, 1.9 if side_on else 0.9), lit_from)
    if side_on:
        _bicycle(figure, frame)
        crank = 2 * np.pi * phase
        for turn, dim in ((np.pi, 0.75), (0.0, 1.0)):
            foot = (0.02 + 0.17 * np.cos(crank + turn), 0.3 + 0.17 * np.sin(crank + turn))
            knee = ((foot[0] - 0.18) / 2 + 0.27, (foot[1] + 0.98) / 2 + 0.06)
            figure.limb([(-0.18, 0.98), knee, foot], [0.18, 0.14, 0.09], _darker(legs, dim))
            figure.limb([foot, (foot[0] + 0.12, foot[1] - 0.02)], [0.09, 0.07], (24, 24, 26))
        figure.limb([(-0.2, 1.0), (0.1, 1.42)], [0.3, 0.33], coat)
        figure.limb([(0.1, 1.42), (0.3, 1.2), (0.46, 1.08)], [0.13, 0.1, 0.08], coat)
        head = (0.2, 1.64)
    else:
        figure.limb([(0, 0.02), (0, 0.66)], [0.05, 0.05], (20, 20, 22))
        figure.line([(-0.29, 1.04), (0.29, 1.04)], 0.04, (40, 40, 44))
        swing = 0.16 * np.sin(2 * np.pi * phase)
        for side in (-1, 1):
            foot = (side * 0.13, 0.3 + side * swing)
            knee = (side * 0.17, 0.66 + side * swing * 0.5)
            figure.limb([(side * 0.09, 0.95), knee, foot], [0.18, 0.14, 0.09], legs)
            figure.limb([foot, (foot[0], foot[1] - 0.04)], [0.1, 0.1], (24, 24, 26))
            figure.limb(
                [(side * 0.18, 1.4), (side * 0.3, 1.2), (side * 0.27, 1.05)],
                [0.12, 0.1, 0.08],
                coat,
            )
        figure.limb([(0, 0.98), (0, 1.38)], [0.32, 0.42], coat)
        figure.ellipse((0, 0.78), (0.05, 0.07), 0, (190, 24, 22))
        head = (0.0, 1.64)
    figure.ellipse(head, (0.18, 0.23), 0, skin)
    figure.ellipse((head[0] - 0.01, head[1] + 0.07), (0.22, 0.14), 0, _choice(rng, _COATS))
    return figure.texture()


def _bicycle(figure: Figure, frame: Colour) -> None:
    for x in (-0.52, 0.52):
        figure.ring((x, 0.35), (0.66, 0.66), 0.045, (26, 26, 28))
        figure.ellipse((x, 0.35), (0.08, 0.08), 0, (120, 122, 126))
        for angle in np.arange(0, np.pi, np.pi / 5):
            dx, dy = 0.31 * np.cos(angle), 0.31 * np.sin(angle)
            figure.line([(x - dx, 0.35 - dy), (x + dx, 0.35 + dy)], 0.008, (120, 122, 126))
    joints = [(-0.52, 0.35), (-0.18, 0.86), (0.38, 0.84), (0.02, 0.3), (-0.18, 0.86)]
    figure.line(joints, 0.035, frame)
    figure.line([(-0.52, 0.35), (0.02, 0.3)], 0.03, frame)
    figure.line([(0.52, 0.35), (0.38, 0.9), (0.46, 1.05)], 0.035, frame)
    figure.line([(-0.28, 0.95), (-0.08, 0.95)], 0.06, (30, 28, 28))


def deer(rng: np.random.Generator, lit_from: float) -> tuple[Texture, tuple[float, float]]:
    """A deer from the side, and its (height, width) in metres."""
    figure = Figure((1.75, 1.7), lit_from)
    coat = _darker((158, 112, 68), rng.uniform(0.85, 1.15))
    for x, bend, dim in ((-0.42, -0.05, 0.7), (0.32, 0.03, 0.7), (-0.5, -0.08, 1), (0.4, 0.05, 1)):
        figure.limb(
            [(x, 0.85), (x + bend, 0.45), (x + bend / 2, 0.05)],
            [0.18, 0.08, 0.055],
            _darker(coat, dim * 0.9),
        )
    figure.limb([(-0.45, 0.95), (0.0, 0.92), (0.42, 0.97)], [0.4, 0.42, 0.4], coat)
    figure.limb([(0.42, 1.02), (0.6, 1.36)], [0.3, 0.16], coat)
    figure.limb([(0.6, 1.4), (0.78, 1.32)], [0.17, 0.09], coat)
    figure.ellipse((0.8, 1.32), (0.06, 0.05), 0, (30, 24, 22))
    figure.ellipse((0.64, 1.43), (0.035, 0.035), 0, (16, 12, 10))
    figure.ellipse((0.52, 1.5), (0.06, 0.17), -35, _darker(coat, 0.85))
    figure.ellipse((-0.66, 1.02), (0.09, 0.2), 20, (226, 214, 194))
    figure.ellipse((-0.05, 0.76), (0.6, 0.1), 0, (206, 184, 150))
    for side in (-0.04, 0.08):
        figure.limb(
            [(0.58, 1.48), (0.54 + side, 1.6), (0.6 + side, 1.72)], [0.04, 0.03, 0.02], (96, 76, 56)
        )
        figure.limb([(0.55 + side, 1.6), (0.66 + side, 1.64)], [0.03, 0.02], (96, 76, 56))
    return figure.texture(), figure.size


def cow(rng: np.random.Generator, lit_from: float) -> tuple[Texture, tuple[float, float]]:
    """A spotted cow from the side, and its (height, width) in metres."""
    figure = Figure((1.65, 2.5), lit_from)
    white, patch = (228.0, 222.0, 210.0), ((40.0, 34.0, 32.0), (122.0, 66.0, 40.0))
    spot = patch[int(rng.integers(2))]
    for x, dim in ((-0.62, 0.65), (0.5, 0.65), (-0.75, 0.95), (0.62, 0.95)):
        figure.limb([(x, 0.8), (x, 0.4), (x, 0.06)], [0.26, 0.14, 0.12], _darker(white, dim))
        figure.ellipse((x, 0.05), (0.15, 0.1), 0, (50, 44, 40))
    figure.limb([(-0.65, 1.05), (0.0, 0.98), (0.6, 1.06)], [0.68, 0.78, 0.66], white)
    for _ in range(6):
        centre = (float(rng.uniform(-0.75, 0.6)), float(rng.uniform(0.85, 1.28)))
        axes = (float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.15, 0.34)))
        figure.ellipse(centre, axes, float(rng.uniform(-30, 30)), spot)
    figure.limb([(0.7, 1.18), (0.92, 1.28)], [0.42, 0.3], spot)
    figure.limb([(0.95, 1.34), (1.12, 1.1)], [0.28, 0.19], spot)
    figure.ellipse((1.13, 1.05), (0.2, 0.17), 0, (214, 160, 150))
    figure.ellipse((0.86, 1.42), (0.22, 0.09), 15, _darker(spot, 0.85))
    figure.limb([(0.96, 1.46), (1.04, 1.58)], [0.06, 0.03], (206, 198, 176))
    figure.ellipse((1.02, 1.28), (0.04, 0.04), 0, (12, 10, 10))
    figure.limb([(-0.97, 1.22), (-1.04, 0.8), (-1.02, 0.6)], [0.06, 0.04, 0.09], white)
    figure.ellipse((-0.5, 0.68), (0.26, 0.16), 0, (222, 168, 156))
    return figure.texture(), figure.size


def duck(rng: np.random.Generator, lit_from: float) -> tuple[Texture, tuple[float, float]]:
    """A huge rubber duck, and its (height, width) in metres."""
    figure = Figure((1.3, 1.4), lit_from)
    yellow = _darker((244, 204, 40), rng.uniform(0.9, 1.05))
    figure.limb([(-0.45, 0.66), (-0.1, 0.4), (0.2, 0.38)], [0.16, 0.72, 0.7], yellow)
    figure.ellipse((0.25, 0.92), (0.56, 0.54), 0, yellow)
    figure.ellipse((0.56, 0.86), (0.26, 0.12), 8, (232, 112, 30))
    figure.ellipse((0.36, 1.0), (0.08, 0.1), 0, (18, 16, 16))
    figure.ellipse((-0.12, 0.46), (0.5, 0.28), -14, _darker(yellow, 0.92))
    return figure.texture(), figure.size


def balloon(rng: np.random.Generator, lit_from: float) -> tuple[Texture, tuple[float, float]]:
    """A bunch of balloons on strings, and its (height, width) in metres."""
    figure = Figure((2.1, 1.4), lit_from)
    for _ in range(int(rng.integers(1, 5))):
        x, y = float(rng.uniform(-0.4, 0.4)), float(rng.uniform(1.35, 1.72))
        tone = np.array(
            ((210, 30, 36), (40, 90, 200), (240, 196, 30), (60, 160, 80), (220, 90, 170))
        )
        colour = tone[int(rng.integers(len(tone)))]
        figure.line([(x, y), (0.0, 0.05)], 0.012, (90, 90, 90))
        figure.ellipse(
            (x, y), (0.46, 0.56), 0, (float(colour[0]), float(colour[1]), float(colour[2]))
        )
        figure.ellipse((x - 0.09, y + 0.12), (0.08, 0.12), 30, (244, 240, 240))
    return figure.texture(), figure.size


def bear(rng: np.random.Generator, lit_from: float) -> tuple[Texture, tuple[float, float]]:
    """A sitting teddy bear of a child's height, and its (height, width) in metres."""
    figure = Figure((1.35, 1.2), lit_from)
    fur = _darker((168, 120, 72), rng.uniform(0.8, 1.2))
    light = _darker(fur, 1.3)
    for side in (-1, 1):
        figure.ellipse((side * 0.2, 1.2), (0.2, 0.2), 0, fur)
        figure.limb([(side * 0.26, 0.7), (side * 0.46, 0.45)], [0.2, 0.2], fur)
    figure.ellipse((0, 0.48), (0.66, 0.78), 0, fur)
    figure.ellipse((0, 0.46), (0.4, 0.5), 0, light)
    figure.ellipse((0, 0.98), (0.54, 0.5), 0, fur)
    figure.ellipse((0, 0.9), (0.24, 0.18), 0, light)
    figure.ellipse((0, 0.95), (0.08, 0.06), 0, (24, 18, 16))
    for side in (-1, 1):
        figure.ellipse((side * 0.11, 1.04), (0.05, 0.05), 0, (18, 14, 12))
        figure.ellipse((side * 0.3, 0.16), (0.3, 0.3), 0, fur)
        figure.ellipse((side * 0.32, 0.15), (0.17, 0.18), 0, light)
    return figure.texture(), figure.size
