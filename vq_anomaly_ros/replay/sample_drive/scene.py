"""Painting one frame: sky, ground, then everything that stands, the farthest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from . import solids
from .backdrop import Backdrop
from .camera import Camera
from .canvas import UNKNOWN, Canvas, Texture
from .facades import DEPTH
from .figures import bicyclist, pedestrian
from .ground import Ground
from .objects import UnknownObject
from .street import BLOCK, SIGHT, Placed, Street

CLASSES = (
    'sky',
    'building',
    'pole',
    'road',
    'pavement',
    'tree',
    'sign',
    'fence',
    'car',
    'pedestrian',
    'bicyclist',
)
"""The classes of CamVid that evaluation uses; a label is the position in this tuple."""
_ID = {name: number for number, name in enumerate(CLASSES)}
SPEED = 9.0
"""Metres a second of the camera."""
_POLE = _ID['pole']
_UP = np.array([0.0, 1.0, 0.0])
_TOWARDS = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Moving:
    """Something that is not part of a block: at (u, z), `height` above the ground, in metres."""

    kind: str
    u: float
    z: float
    heading: float = 0.0
    height: float = 0.0
    phase: float = 0.0
    tilt: float = 0.0
    index: int = 0
    thing: UnknownObject | None = None


def _order(placed: Placed) -> float:
    """How far away something counts when it is painted after what is farther.

    What reaches along the street counts by its far end, because what stands there stands before it;
    parked cars and railings at the kerb by their near end, because people walk behind them.
    """
    if placed.kind == 'car':
        return placed.z - 2.3
    return placed.z if placed.kerbside else placed.z + placed.length


def _moving_order(one: Moving) -> float:
    """The same for what moves: on the road it is before the parked cars beside it."""
    return one.z - {'car': 2.3, 'walker': 0.0}.get(one.kind, 4.6)


class Scene:
    """A street that can be painted from any place of it at any time."""

    def __init__(self, street: Street, size: tuple[int, int], focal: float) -> None:
        self.street = street
        self.ground = Ground(street)
        self.backdrop = Backdrop(street, size, focal)

    def paint(self, camera: Camera, moving: list[Moving]) -> Canvas:
        """Paint what the camera sees, with what moves there."""
        canvas = Canvas(camera, self.street.weather)
        self.backdrop.paint(canvas)
        self.ground.paint(canvas)
        here = float(camera.position[2])
        work = [(_order(p), partial(self._placed, canvas, p)) for p in self._standing(here)]
        movers = [*moving, *self._walkers(here)]
        work += [
            (_moving_order(one), partial(self._moving, canvas, one))
            for one in movers
            if 0 < one.z - here < SIGHT
        ]
        for _, paint in sorted(work, key=lambda entry: -entry[0]):
            paint()
        return canvas

    def _things(self, here: float, behind: float, ahead: float) -> Iterator[Placed]:
        for number in range(int((here - behind) // BLOCK), int((here + ahead) // BLOCK) + 1):
            yield from self.street.block(number)

    def _standing(self, here: float) -> list[Placed]:
        return [
            placed
            for placed in self._things(here, 20, SIGHT)
            if placed.kind != 'pedestrian'
            and here < placed.z + placed.length
            and placed.z < here + SIGHT
        ]

    def _walkers(self, here: float) -> list[Moving]:
        """Pedestrians of the blocks; they are at the place of their block as the camera passes."""
        walkers = []
        for placed in self._things(here, 40, SIGHT):
            if placed.kind == 'pedestrian':
                walked = placed.heading * (here - placed.z) / SPEED
                phase = (walked / 1.4 + placed.index * 0.1) % 1 if placed.heading else 0.03
                walkers.append(
                    Moving('walker', placed.u, placed.z + walked, 0, 0, phase, index=placed.index)
                )
        return walkers

    def _placed(self, canvas: Canvas, placed: Placed) -> None:
        match placed.kind:
            case 'house':
                self._house(canvas, placed)
            case 'tree':
                foot = self.street.world(placed.u, 0, placed.z)
                light = self.street.weather.light(_UP) * 0.92
                size = (placed.height, placed.height)
                canvas.billboard(self.street.trees[placed.index], foot, size, light, _ID['tree'])
            case 'hedge' | 'wall' | 'railing':
                self._barrier(canvas, placed)
            case 'car':
                self._car(canvas, placed.index, placed.u, placed.z, placed.heading, False)
            case _:
                self._post(canvas, placed)

    def _moving(self, canvas: Canvas, one: Moving) -> None:
        match one.kind:
            case 'car':
                lamps = self.street.lamps_on
                self._car(canvas, one.index, one.u, one.z, one.heading, lamps)
            case 'bicyclist':
                self._person(canvas, one, self._figure(one, False), (1.95, 0.9), 1.7)
            case 'pedestrian' | 'walker':
                self._person(canvas, one, self._figure(one, one.kind != 'walker'), (1.95, 1.1), 0.5)
            case _:
                self._unknown(canvas, one)

    def _person(
        self,
        canvas: Canvas,
        one: Moving,
        picture: Texture,
        size: tuple[float, float],
        long: float,
    ) -> None:
        """A picture of somebody, `long` metres of shadow along the street under it."""
        self._shadow(canvas, one.u, one.z, 0.55, long, 0.5)
        label = _ID['bicyclist' if one.kind == 'bicyclist' else 'pedestrian']
        foot = self.street.world(one.u, 0, one.z)
        canvas.billboard(picture, foot, size, self._standing_light(), label)

    def _standing_light(self) -> np.ndarray:
        weather = self.street.weather
        return np.asarray(weather.ambient * 0.85 + weather.sun * 0.42)

    def _figure(self, one: Moving, side_on: bool) -> Texture:
        """A person's picture; few steps, people and lights, so that most are drawn once only."""
        make = bicyclist if one.kind == 'bicyclist' else pedestrian
        lit_from = round(self.street.lit_from * 2) / 2
        return make(one.index % 10, int(one.phase * 6) % 6 / 6, side_on, lit_from)

    def _shadow(
        self, canvas: Canvas, u: float, z: float, wide: float, long: float, strength: float
    ) -> None:
        """A soft shadow under something, moved away from the sun where it shines."""
        if z - canvas.camera.position[2] > 70:
            return
        weather = self.street.weather
        bright = float(np.clip(weather.sun.mean() * 1.5, 0, 1))
        away = -weather.to_sun / max(0.35, weather.to_sun[1]) * 0.35 * bright
        u, z = u + away[0], z + away[2]
        half_u, half_z = wide * 0.85, long * 0.8
        corners = [(u - half_u, z + half_z), (u + half_u, z + half_z),
                   (u + half_u, z - half_z), (u - half_u, z - half_z)]  # fmt: skip
        ground = np.array([self.street.world(a, 0, b) for a, b in corners])
        canvas.shadow(ground, strength)

    def _car(
        self, canvas: Canvas, index: int, u: float, z: float, heading: float, lamps: bool
    ) -> None:
        car = self.street.cars[index]
        self._shadow(canvas, u, z, car.size[0], car.size[2], 0.82)
        turn = heading + float(np.arctan(self.street.slope(z)))
        solids.paint(canvas, car, self.street.world(u, 0, z), turn, _ID['car'], lamps=lamps)

    def _unknown(self, canvas: Canvas, one: Moving) -> None:
        thing = one.thing
        if thing is None:
            return
        tall, wide = thing.size
        strength = 0.75 / (1 + one.height)
        self._shadow(canvas, one.u, one.z, wide, 0.5 * wide + 0.4, strength)
        place = self.street.world(one.u, one.height, one.z)
        if thing.body is not None:
            solids.paint(canvas, thing.body, place, one.heading, UNKNOWN, tilt=one.tilt)
        elif thing.picture is not None:
            light = self._standing_light()
            canvas.billboard(thing.picture, place, (tall, wide), light, UNKNOWN)

    def _house(self, canvas: Canvas, placed: Placed) -> None:
        street, house = self.street, self.street.houses[placed.index]
        side = 1 if placed.u > 0 else -1
        u, near, far = placed.u, placed.z, placed.z + placed.length
        deep, top = u + side * DEPTH, house.height
        ridge, peak = u + side * DEPTH / 2, house.height + house.slope
        weather = street.weather
        end_light = weather.light(_TOWARDS) * house.wall * 0.9
        if house.chimney:
            self._chimney(canvas, ridge, near + 0.8, peak, end_light)
        outline = [(u, 0), (u, top), (ridge, peak), (deep, top), (deep, 0)]
        gable = np.array([street.world(a, h, near) for a, h in outline])
        canvas.face(gable, end_light, _ID['building'])
        if placed.free_end:
            inner, outer = (u, deep) if side > 0 else (deep, u)
            wall = (street.world(inner, top, near), street.world(outer, top, near),
                    street.world(inner, 0, near))  # fmt: skip
            canvas.plane(house.end, wall, weather.light(_TOWARDS) * 0.9, _ID['building'])
        left, right = (near, far) if side < 0 else (far, near)
        if house.slope:
            normal = np.array([-side * house.slope, DEPTH / 2, 0.0])
            light = weather.light(normal / np.linalg.norm(normal))
            corners = (street.world(ridge, peak, left), street.world(ridge, peak, right),
                       street.world(u - side * 0.25, top - 0.1, left))  # fmt: skip
            canvas.plane(house.roof, corners, light, _ID['building'])
        light = weather.light(np.array([-float(side), 0.0, 0.0]))
        corners = (street.world(u, top, left), street.world(u, top, right),
                   street.world(u, 0, left))  # fmt: skip
        canvas.plane(house.front, corners, light, _ID['building'])

    def _chimney(
        self, canvas: Canvas, ridge: float, z: float, peak: float, colour: np.ndarray
    ) -> None:
        street = self.street
        inner = ridge - np.sign(ridge) * 0.45
        for corners, tone in (
            (((inner, z), (inner, z + 0.7)), 0.72),
            (((inner, z), (inner + np.sign(ridge) * 0.9, z)), 0.9),
        ):
            (a, za), (b, zb) = corners
            quad = [street.world(a, peak - 0.8, za), street.world(b, peak - 0.8, zb),
                    street.world(b, peak + 1.1, zb), street.world(a, peak + 1.1, za)]  # fmt: skip
            canvas.face(np.array(quad), colour * tone, _ID['building'])

    def _barrier(self, canvas: Canvas, placed: Placed) -> None:
        """A hedge, wall or railing along the street."""
        street, weather = self.street, self.street.weather
        side = 1 if placed.u > 0 else -1
        near, far, top = placed.z, placed.z + placed.length, placed.height
        left, right = (near, far) if side < 0 else (far, near)
        u = placed.u
        light = weather.light(np.array([-float(side), 0.0, 0.0]))
        texture, label, deep = {
            'hedge': (street.hedge, 'tree', 0.8),
            'wall': (street.brick, 'building', 0.3),
            'railing': (street.railing, 'fence', 0.0),
        }[placed.kind]
        if deep:
            end = [(u, 0), (u, top), (u + side * deep, top), (u + side * deep, 0)]
            colour = texture.level(6, 6).reshape(-1, 3).mean(axis=0)
            corners = np.array([street.world(a, h, near) for a, h in end])
            back = weather.light(_TOWARDS)
            canvas.face(corners, colour * back, _ID[label])
            lid = [(u, near), (u, far), (u + side * deep, far), (u + side * deep, near)]
            corners = np.array([street.world(a, top, z) for a, z in lid])
            canvas.face(corners, np.minimum(colour * weather.light(_UP), 255), _ID[label])
        plane = (street.world(u, top, left), street.world(u, top, right),
                 street.world(u, 0, left))  # fmt: skip
        canvas.plane(texture, plane, light, _ID[label], whole=placed.kind == 'railing')

    def _post(self, canvas: Canvas, placed: Placed) -> None:
        """Lamp posts, signs, traffic lights and bollards."""
        street, u, z, top = self.street, placed.u, placed.z, placed.height
        grey = np.array((112, 116, 118)) * self._standing_light()
        radius = {'lamp': 0.08, 'bollard': 0.09}.get(placed.kind, 0.045)
        self._pole(canvas, street.world(u, 0, z), street.world(u, top, z), radius, grey)
        if placed.kind == 'lamp':
            side = -1 if u > 0 else 1
            arm = street.world(u + side * 1.5, top + 0.25, z)
            self._pole(canvas, street.world(u, top - 0.05, z), arm, 0.05, grey)
            glow = np.array((255, 226, 170)) if street.lamps_on else grey * 1.1
            head = [street.world(u + side * d, top + h, z)
                    for d, h in ((1.2, 0.12), (1.9, 0.22), (1.9, 0.34), (1.2, 0.3))]  # fmt: skip
            canvas.face(np.array(head), glow, _ID['pole'])
        elif placed.kind == 'sign':
            sign = street.signs[placed.index]
            high, wide = sign.size
            corners = (street.world(u - wide / 2, top + 0.1, z - 0.06),
                       street.world(u + wide / 2, top + 0.1, z - 0.06),
                       street.world(u - wide / 2, top + 0.1 - high, z - 0.06))  # fmt: skip
            light = self._standing_light() * 1.1
            canvas.plane(sign.plate, corners, light, _ID['sign'])
        elif placed.kind == 'traffic light':
            self._signal(canvas, placed)

    def _signal(self, canvas: Canvas, placed: Placed) -> None:
        """Three lamps in a black box, one of them on."""
        street, u, z, top = self.street, placed.u, placed.z - 0.1, placed.height

        box = ((-0.19, -0.85), (0.19, -0.85), (0.19, 0.15), (-0.19, 0.15))
        corners = np.array([street.world(u + a, top + h, z) for a, h in box])
        canvas.face(corners, np.array((26, 26, 28)), _ID['sign'])
        lamps = np.array(((255, 50, 36), (255, 176, 30), (60, 240, 120)))
        turns = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        for i in range(3):
            colour = lamps[i] * (1.0 if i == placed.index else 0.22)
            middle = top - 0.04 - 0.31 * i
            disc = [street.world(u + 0.11 * np.cos(a), middle + 0.11 * np.sin(a), z) for a in turns]
            canvas.face(np.array(disc), colour, _ID['sign'])

    def _pole(
        self,
        canvas: Canvas,
        foot: np.ndarray,
        top: np.ndarray,
        radius: float,
        colour: np.ndarray,
    ) -> None:
        """A round bar between two points, in three strips from its lit to its dark side."""
        axis = top - foot
        view = (foot + top) / 2 - np.array(canvas.camera.position)
        across = np.cross(axis, view)
        across /= max(1e-9, float(np.linalg.norm(across)))
        if float(view @ view) > 32.0**2:
            edge = across * radius
            canvas.face(np.array([foot - edge, foot + edge, top + edge, top - edge]), colour, _POLE)
            return
        lit = 1 if across @ self.street.weather.to_sun > 0 else -1
        for start, end, tone in ((-1, -0.3, 0.7), (-0.3, 0.4, 1.0), (0.4, 1, 1.3)):
            a, b = across * radius * start * lit, across * radius * end * lit
            quad = np.array([foot + a, foot + b, top + b, top + a])
            canvas.face(quad, colour * tone, _POLE)
