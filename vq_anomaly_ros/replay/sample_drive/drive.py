"""Drives and single pictures of procedural streets.

Every decision has a random generator of its own, seeded with the drive's seed and a number that
stands for the decision: a new one changes none of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .canvas import SUPERSAMPLING
from .lens import Lens
from .objects import NAMES, unknown_object
from .scene import SPEED, Moving, Scene
from .street import Street
from .weather import random_weather

START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame."""


@dataclass(frozen=True)
class DriveFrame:
    """One frame of a drive with its exact labels.

    `image` uint8 [H,W,3] RGB; `classes` uint8 [H,W], a position in `CLASSES`, 255 for what is none
    of them (unknown objects too); `anomaly` uint8 [H,W], 1 unknown object, 0 normal, 255 void (the
    thin boundary of an object).
    """

    stamp_ns: int
    image: np.ndarray
    classes: np.ndarray
    anomaly: np.ndarray


@dataclass(frozen=True)
class _Visit:
    """An unknown object: when it comes and is passed (seconds), where, and how it moves."""

    comes: float
    passed: float
    name: str
    u: float
    z: float
    heading: float
    number: int


def render_drive(
    seed: int = 0,
    frames: int = 100,
    size: tuple[int, int] = (540, 960),
    rate: float = 10.0,
    unknown_objects: bool = True,
) -> Iterator[DriveFrame]:
    """A drive along a procedural street.

    `size` is (height, width) in pixels, `rate` in frames a second. The seed decides the street, the
    weather and what happens; a frame depends on it and on the frame's own time only. Raises
    ValueError for sizes below 32 pixels, no frames, or a rate that is not positive.
    """
    _check(size, frames, rate)
    drive = _Drive(seed, size, unknown_objects)
    for number in range(frames):
        yield drive.frame(number / rate)


def training_pictures(
    seed: int, count: int, size: tuple[int, int] = (360, 480)
) -> Iterator[DriveFrame]:
    """Single pictures of many streets without unknown objects, to learn the classes from.

    Each has its own place, time and pose of the camera; street, weather and lens change every six
    pictures. The n-th picture of a seed is always the same.
    """
    _check(size, max(count, 1), 1.0)
    drive = None
    for number in range(count):
        if drive is None or number % 6 == 0:
            drive = _Drive(_mixed(seed, number // 6), size, False)
        yield drive.snapshot(number)


def _check(size: tuple[int, int], frames: int, rate: float) -> None:
    if min(size) < 32:
        raise ValueError(f'a drive of size {size[0]}x{size[1]} is too small: take 32x32 or more')
    if frames < 1 or rate <= 0:
        raise ValueError(f'{frames} frames at {rate} Hz are no drive: take 1 frame, 1 Hz or more')


def _mixed(seed: int, number: int) -> int:
    """A seed for the n-th street of a seed."""
    return int(np.random.default_rng([seed, 77, number]).integers(2**31))


class _Drive:
    """A street, a lens and a timetable."""

    def __init__(self, seed: int, size: tuple[int, int], unknown_objects: bool) -> None:
        rng = np.random.default_rng([seed, 25])
        self.seed, self.size = seed, size
        self.street = Street(seed, random_weather(rng))
        self.canvas_size = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
        self.focal = self.canvas_size[1] * float(rng.uniform(0.72, 0.98))
        self.eye = float(rng.uniform(1.25, 1.75))
        self.pitch = float(rng.uniform(-0.03, 0.06))
        self.phases = rng.uniform(0, 2 * np.pi, 4)
        self.start = float(rng.uniform(40, 400))
        self.scene = Scene(self.street, size, self.focal)
        self.lens = Lens(seed, size, self.street.weather)
        self.unknown_objects = unknown_objects
        self._visits: list[_Visit] = []

    def frame(self, seconds: float) -> DriveFrame:
        """The frame at a time of the drive."""
        z = self.start + SPEED * seconds
        camera = self._camera(z, seconds)
        moving = self._traffic(z, seconds)
        if self.unknown_objects:
            moving += self._unknown(seconds)
        canvas = self.scene.paint(camera, moving)
        rng = np.random.default_rng([self.seed, 9, round(seconds * 1e6)])
        return DriveFrame(START_NS + round(seconds * 1e9), *self.lens.expose(canvas, rng))

    def snapshot(self, number: int) -> DriveFrame:
        """A picture from some place and pose, at some time."""
        rng = np.random.default_rng([self.seed, 10, number])
        seconds = float(rng.uniform(0, 60))
        z = self.start + SPEED * seconds
        camera = self._camera(
            z,
            seconds,
            aside=float(rng.normal(0, 0.6)),
            yaw=float(rng.normal(0, 0.1)),
            pitch=float(rng.normal(0, 0.03)),
            eye=float(rng.uniform(-0.2, 0.5)),
            zoom=float(rng.uniform(0.8, 1.25)),
        )
        canvas = self.scene.paint(camera, self._traffic(z, seconds))
        stamp = START_NS + number * 100_000_000
        return DriveFrame(stamp, *self.lens.expose(canvas, rng))

    def _camera(
        self,
        z: float,
        seconds: float,
        aside: float = 0.0,
        yaw: float = 0.0,
        pitch: float = 0.0,
        eye: float = 0.0,
        zoom: float = 1.0,
    ) -> Camera:
        """In the middle of its lane, swaying a little."""
        street, sway = self.street, np.sin(np.array((0.7, 1.9, 2.6, 0.45)) * seconds + self.phases)
        u = street.plan.drives * street.plan.lane / 2 + 0.12 * sway[3] + aside
        heading = float(np.arctan(street.slope(z + 4)))
        return Camera(
            self.canvas_size,
            self.focal * zoom,
            (u + float(street.bend(z)), self.eye + eye + 0.012 * float(sway[2]), z),
            heading + 0.012 * float(sway[0]) + yaw,
            self.pitch + 0.006 * float(sway[1]) + pitch,
        )

    def _traffic(self, here: float, seconds: float) -> list[Moving]:
        """Cars that come, a car and a rider ahead, and somebody crossing."""
        plan, street = self.street.plan, self.street
        rng = np.random.default_rng([self.seed, 11])
        moving: list[Moving] = []
        gap, speed = rng.uniform(38, 90), rng.uniform(7, 12)
        phase = (here + speed * seconds) / gap
        for i in range(int(phase) - 1, int(phase) + 6):
            chance = np.random.default_rng([self.seed, 12, i % 2**31])
            z = i * gap - speed * seconds + chance.uniform(0, gap * 0.5)
            index = int(chance.integers(len(street.cars)))
            if chance.random() < 0.8:
                u = -plan.drives * plan.lane / 2 + chance.normal(0, 0.1)
                moving.append(Moving('car', u, z, np.pi, index=index))
        if rng.random() < 0.7:
            z = here + rng.uniform(16, 42) + 4 * np.sin(0.25 * seconds + self.phases[0])
            u = plan.drives * plan.lane / 2
            moving.append(Moving('car', u, z, 0, index=int(rng.integers(len(street.cars)))))
        moving += self._riders(here, seconds)
        return moving

    def _riders(self, here: float, seconds: float) -> list[Moving]:
        """Bicyclists along the kerb and people who cross, one stretch of road after another."""
        plan = self.street.plan
        moving: list[Moving] = []
        for i in range(int(here // 60) - 2, int(here // 60) + 4):
            chance = np.random.default_rng([self.seed, 13, i % 2**31])
            meets = (i * 60 - self.start) / SPEED
            index = int(chance.integers(1000))
            kind, side = chance.random(), 1 if chance.random() < 0.6 else -1
            edge = plan.lane - 0.5 if any(plan.parking) else plan.road - 0.75
            if kind < 0.55:
                speed = 4.2 * side
                z = i * 60 + 20 + speed * (seconds - meets)
                phase = (seconds * 1.1 + index * 0.1) % 1
                moving.append(
                    Moving('bicyclist', plan.drives * side * edge, z, 0, phase=phase, index=index)
                )
            elif kind < 0.8:
                u = side * ((seconds - meets) * 1.3 + 1.0)
                if abs(u) < plan.road + 1.5:
                    phase = (seconds * 0.95) % 1
                    moving.append(Moving('pedestrian', u, i * 60 + 26, 0, phase=phase, index=index))
        return moving

    def _unknown(self, seconds: float) -> list[Moving]:
        """The unknown objects that are there at a time."""
        while not self._visits or self._visits[-1].comes <= seconds:
            self._visits.append(self._next_visit())
        return [
            self._placed(visit, seconds)
            for visit in self._visits
            if visit.comes <= seconds < visit.passed
        ]

    def _next_visit(self) -> _Visit:
        """Appointments follow one another; about as long without an object as with one."""
        number = len(self._visits)
        rng = np.random.default_rng([self.seed, 14, number])
        free_from = self._visits[-1].passed if self._visits else 0.0
        stays = float(rng.uniform(0.8, 2.2))
        comes = free_from + float(rng.uniform(0.6, 1.9))
        passed = comes + stays
        plan = self.street.plan
        own = plan.drives * plan.lane / 2
        spots = (own - plan.drives * plan.lane, own + plan.drives * 1.9, plan.road + 0.8,
                 -plan.road - 0.8, own * 0.1)  # fmt: skip
        u = float(rng.choice(spots)) + float(rng.normal(0, 0.3))
        order = np.random.default_rng([self.seed, 41]).permutation(len(NAMES))
        name = NAMES[int(order[number % len(NAMES)])]
        z = self.start + SPEED * passed + 3.0
        return _Visit(comes, passed, name, u, z, float(rng.uniform(-0.9, 0.9)), number)

    def _placed(self, visit: _Visit, seconds: float) -> Moving:
        """Where an object is: it walks in, drifts in, or drops and settles."""
        rng = np.random.default_rng([self.seed, 16, visit.number])
        thing = unknown_object(visit.name, rng, self.street.lit_from)
        since = seconds - visit.comes
        u, height, tilt = visit.u, 0.0, 0.0
        if thing.walks:
            u -= 1.1 * (1.2 - since)
        elif thing.flies:
            height = 0.6 + 0.3 * np.sin(2 * since) + max(0.0, 1.0 - since) * 2
            u += 0.4 * np.sin(since)
        else:
            height = max(0.0, 2.6 - 9.0 * since - 4.9 * since**2)
            tilt = 0.25 * min(1.0, height) * np.sin(visit.heading * 9)
        return Moving(
            'unknown', u, visit.z, visit.heading, float(height), tilt=float(tilt), thing=thing
        )
