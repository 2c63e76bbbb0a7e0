"""What stands along a street: an endless row of blocks, each made from the seed and its number.

Street coordinates: u metres to the right of the road's middle, z metres along it. The middle bends
sideways by `Street.bend(z)`, so a place is (u + bend(z), height, z) in the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sin

import numpy as np

from . import cars, facades, plants, textures
from .canvas import Texture
from .facades import House
from .signs import Sign, railing, signs
from .solids import Solid
from .weather import Weather

BLOCK = 40.0
"""Metres of street in a block."""
SIGHT = 150.0
"""Metres ahead in which things are painted."""


@dataclass(frozen=True)
class Plan:
    """Widths in metres and habits of a street; `drives` is 1 where traffic keeps right, else -1."""

    drives: int
    road: float
    lane: float
    pavement: float
    setback: float
    parking: tuple[bool, bool]
    trees: float
    gaps: float
    people: float
    bare: float
    lines: str
    railings: float
    bend: float
    bend_length: float
    bend_phase: float


@dataclass(frozen=True)
class Placed:
    """One thing of a block: what, where (u, z), how long along the street, turned by `heading`.

    `index` chooses among the street's houses, trees, cars and signs; `kerbside` says that people
    walk behind it, `free_end` that the wall of a house across the street's direction is seen.
    """

    kind: str
    u: float
    z: float
    length: float
    index: int
    height: float = 1.0
    heading: float = 0.0
    kerbside: bool = False
    free_end: bool = True


def random_plan(rng: np.random.Generator) -> Plan:
    """Widths and habits by chance."""
    parking = (bool(rng.random() < 0.55), bool(rng.random() < 0.55))
    lane = rng.uniform(2.9, 3.6)
    return Plan(
        drives=1 if rng.random() < 0.5 else -1,
        road=lane + (2.1 if any(parking) else 0.35),
        lane=lane,
        pavement=rng.uniform(2.0, 4.2),
        setback=float(rng.choice((0.0, 0.0, 2.5))),
        parking=parking,
        trees=float(rng.choice((0.0, 0.35, 0.7))),
        gaps=rng.uniform(0.05, 0.35),
        people=rng.uniform(0.3, 1.0),
        bare=float(rng.choice((0.0, 0.15, 0.9))),
        lines=str(rng.choice(('dashed', 'dashed', 'long', 'double', 'none'))),
        railings=rng.uniform(0.0, 0.4),
        bend=float(rng.choice((0.0, 1.0))) * rng.uniform(2, 9),
        bend_length=rng.uniform(130, 260),
        bend_phase=rng.uniform(0, 2 * np.pi),
    )


class Street:
    """The plan of a street, what its things look like, and its blocks."""

    def __init__(self, seed: int, weather: Weather) -> None:
        rng = np.random.default_rng([seed, 1])
        self.seed = seed
        self.weather = weather
        self.plan = random_plan(rng)
        dusk = weather.kind == 'dusk'
        self.lamps_on = weather.kind in ('dusk', 'fog', 'rain')
        self.houses: list[House] = [facades.random_house(rng, dusk) for _ in range(9)]
        self.lit_from = float(np.clip(weather.to_sun[0] * 1.4, -1, 1))
        self.trees: list[Texture] = [
            plants.random_tree(rng, self.lit_from, self.plan.bare) for _ in range(4)
        ]
        self.cars: list[Solid] = [cars.random_car(rng) for _ in range(12)]
        self.signs: list[Sign] = signs()
        self.railing = railing()
        self.hedge = Texture(textures.foliage(rng, (96, 512), (74, 98, 48)))
        self.brick = Texture(textures.bricks(rng, (96, 512), (140, 92, 70)))
        self._blocks: dict[int, tuple[Placed, ...]] = {}

    def bend(self, z: np.ndarray | float) -> np.ndarray:
        """Metres by which the road's middle lies right of the start's axis."""
        turn = 2 * np.pi * np.asarray(z, float) / self.plan.bend_length + self.plan.bend_phase
        return self.plan.bend * np.sin(turn)

    def slope(self, z: np.ndarray | float, order: int = 1) -> np.ndarray:
        """First or second derivative of `bend`."""
        rate = 2 * np.pi / self.plan.bend_length
        turn = rate * np.asarray(z, float) + self.plan.bend_phase
        value = np.cos(turn) * rate if order == 1 else -np.sin(turn) * rate**2
        return np.asarray(self.plan.bend * value)

    def world(self, u: float, height: float, z: float) -> np.ndarray:
        """A place of the street in the world, float64 [3]."""
        turn = 2 * pi * z / self.plan.bend_length + self.plan.bend_phase
        return np.array([u + self.plan.bend * sin(turn), height, z])

    @property
    def house_line(self) -> float:
        """|u| of the fronts."""
        return self.plan.road + self.plan.pavement + self.plan.setback

    def block(self, number: int) -> tuple[Placed, ...]:
        """Everything that stands in block `number`, from z = number * BLOCK."""
        if number not in self._blocks:
            if len(self._blocks) > 64:
                self._blocks.clear()
            self._blocks[number] = self._built(number)
        return self._blocks[number]

    def _built(self, number: int) -> tuple[Placed, ...]:
        rng = np.random.default_rng([self.seed, 2, number % 2**31])
        start = number * BLOCK
        things: list[Placed] = []
        for side in (-1, 1):
            things += self._row_of_houses(rng, start, side)
            things += self._kerbside(rng, start, side)
            things += self._people(rng, start, side)
        return tuple(things)

    def _row_of_houses(self, rng: np.random.Generator, start: float, side: int) -> list[Placed]:
        """Fronts and gaps that fill the block on one side."""
        chosen: list[int] = []
        total = 0.0
        while total < BLOCK - 5:
            gap = rng.random() < self.plan.gaps
            index = -1 if gap else int(rng.integers(len(self.houses)))
            if chosen and index == chosen[-1]:
                continue
            chosen.append(index)
            total += 8.0 if gap else self.houses[index].width
        things: list[Placed] = []
        z, stretch, hidden = start, BLOCK / total, 0.0
        for index in chosen:
            length = (8.0 if index < 0 else self.houses[index].width) * stretch
            if index < 0:
                things += self._gap(rng, z, length, side)
            else:
                free_end = self.houses[index].height > hidden
                u = side * self.house_line
                things.append(Placed('house', u, z, length, index, free_end=free_end))
            hidden = self.houses[index].height if index >= 0 else 0.0
            if self.plan.setback > 0 and index >= 0 and rng.random() < 0.8:
                u = side * (self.plan.road + self.plan.pavement)
                kind = str(rng.choice(('hedge', 'wall', 'railing')))
                things.append(Placed(kind, u, z, length, 0, rng.uniform(0.7, 1.3)))
            z += length
        return things

    def _gap(self, rng: np.random.Generator, z: float, length: float, side: int) -> list[Placed]:
        """A garden between houses: an edge towards the pavement and trees behind."""
        edge = side * self.house_line
        kind = str(rng.choice(('hedge', 'wall', 'railing', 'hedge')))
        things = [
            Placed('hedge', edge + side * 14, z, length, 0, 3.2),
            Placed(kind, edge, z, length, 0, rng.uniform(1.0, 2.0)),
        ]
        for _ in range(3):
            u = edge + side * rng.uniform(2, 11)
            place = z + rng.uniform(0.5, length - 0.5)
            index = int(rng.integers(len(self.trees)))
            things.append(Placed('tree', u, place, 0, index, rng.uniform(6, 11)))
        return things

    def _kerbside(self, rng: np.random.Generator, start: float, side: int) -> list[Placed]:
        """Lamp posts, signs, trees, railings and parked cars along the kerb."""
        plan, kerb = self.plan, self.plan.road
        things = [Placed('lamp', side * (kerb + 0.5), start + 8 + 20 * (side > 0), 0, side, 7.5)]
        for z in np.arange(start + 2, start + BLOCK, 8):
            if rng.random() < plan.trees:
                index = int(rng.integers(len(self.trees)))
                place = (side * (kerb + 0.9), float(z) + rng.uniform(-1, 1))
                things.append(Placed('tree', *place, 0, index, rng.uniform(5.5, 9)))
            if rng.random() < 0.3:
                index = int(rng.integers(len(self.signs)))
                place = (side * (kerb + 0.45), float(z) + rng.uniform(2, 5))
                things.append(Placed('sign', *place, 0, index, rng.uniform(2.2, 2.9)))
            if rng.random() < 0.12:
                place = (side * (kerb + 0.4), float(z) + 3)
                things.append(Placed('bollard', *place, 0, 0, 1.0))
        if rng.random() < 0.25:
            place = (side * (kerb + 0.4), start + rng.uniform(12, 30))
            things.append(Placed('traffic light', *place, 0, int(rng.integers(3)), 3.2))
        if rng.random() < plan.railings:
            z = start + rng.uniform(0, 20)
            for i in range(int(rng.integers(2, 5))):
                things.append(
                    Placed('railing', side * (kerb + 0.3), z + 4 * i, 4, 0, 1.05, 0, True)
                )
        elif plan.parking[(side + 1) // 2]:
            things += self._parked(rng, start, side)
        return things

    def _parked(self, rng: np.random.Generator, start: float, side: int) -> list[Placed]:
        things = []
        z = start + rng.uniform(0, 5)
        while z < start + BLOCK - 5:
            index = int(rng.integers(len(self.cars)))
            if rng.random() < 0.7:
                wide = self.cars[index].size[0] / 2
                u = side * (self.plan.road - wide - rng.uniform(0.08, 0.25))
                along = side == self.plan.drives or rng.random() < 0.15
                heading = (0.0 if along else np.pi) + rng.normal(0, 0.015)
                things.append(Placed('car', u, z + 2.5, 0, index, 1.0, heading))
            z += rng.uniform(5.4, 7.5)
        return things

    def _people(self, rng: np.random.Generator, start: float, side: int) -> list[Placed]:
        """Pedestrians on the pavement; `heading` holds their speed along the street in m/s."""
        things = []
        for _ in range(int(rng.poisson(2.2 * self.plan.people))):
            u = side * (self.plan.road + rng.uniform(0.7, self.plan.pavement - 0.3))
            speed = float(rng.choice((-1.3, 1.2, -1.1, 1.35, 0.0)))
            z = start + rng.uniform(0, BLOCK)
            things.append(Placed('pedestrian', u, z, 0, int(rng.integers(1000)), 1.0, speed))
        return things
