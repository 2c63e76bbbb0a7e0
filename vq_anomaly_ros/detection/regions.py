"""Where alarms of a camera count: all of the picture, a polygon, or the road and what stands on it.

A region is judged on the score map. The ego vehicle, where `calibrate` found it, never counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

Points = tuple[tuple[float, float], ...]
Kind = Literal['all', 'road', 'polygon']

# Classes of the ground, as the data sets that models are trained on call them.
GROUND = frozenset(
    {'road', 'pavement', 'sidewalk', 'drivable', 'non-drivable', 'parking', 'ground'}
)
# The region that the calibration was made in, everything where it says nothing of it.
CALIBRATED = 'calibrated'
EXAMPLE = '0.1,1 0.4,0.5 0.6,0.5 0.9,1'
# Of the picture: a smaller patch of ground is none, what hides less of the far edge is bridged.
_SMALLEST_GROUND = 0.01
_BRIDGE = 15 / 256
_OPENING = np.ones((3, 3), np.uint8)


class RegionError(ValueError):
    """A region that makes no sense, or not for this model; says why and what to give."""


@dataclass(frozen=True)
class Region:
    """Where alarms count.

    kind: 'all' of the picture; 'road': the ground and what stands on it, of each frame's labels;
    'polygon': what lies within `points`, (x, y) in shares of the picture, 0..1.
    """

    kind: Kind = 'all'
    points: Points = ()

    def __str__(self) -> str:
        if self.kind != 'polygon':
            return self.kind
        return ' '.join(f'{x:g},{y:g}' for x, y in self.points)


ALL = Region()
ROAD = Region('road')


def parse_region(text: str) -> Region:
    """The region of a parameter or an option: 'all', 'road', or the corners of a polygon.

    A corner is 'x,y' in shares of the picture, 0 to 1 from its upper left; corners are apart by
    spaces. Raises RegionError for fewer than three, for one outside of the picture, and where they
    span nothing.
    """
    words = text.split()
    if words in (['all'], ['road']):
        return ALL if words == ['all'] else ROAD
    points = tuple(_corner(word, text) for word in words)
    if len(points) < 3:
        raise RegionError(
            f'the region {text!r} has {len(points)} corners where a polygon has three or more: '
            f"give 'all', 'road' or a polygon such as '{EXAMPLE}'"
        )
    if _area(points) < 1e-4:
        raise RegionError(
            f'the region {text!r} spans less than a ten-thousandth of the picture: give its '
            f"corners in their order around it, such as '{EXAMPLE}'"
        )
    return Region('polygon', points)


def _corner(word: str, text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in word.split(','))
    except ValueError:
        raise RegionError(
            f'the region {text!r} is none: {word!r} is no corner x,y; give '
            f"'all', 'road' or a polygon such as '{EXAMPLE}'"
        ) from None
    # Written so that nan, which compares with nothing, is refused.
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise RegionError(
            f'the corner {word} of the region {text!r} is outside of the picture: give shares of '
            'its width and height, 0 to 1'
        )
    return x, y


def _area(points: Points) -> float:
    return abs(cv2.contourArea(np.array(points, np.float32)))


def asked_region(text: str) -> Region | None:
    """As `parse_region`, but None for 'calibrated'."""
    return None if text.strip() == CALIBRATED else parse_region(text)


def regions_of(entries: Sequence[str], cameras: Sequence[str]) -> dict[str, Region | None]:
    """{camera: region} of 'region' for every camera, or 'camera: region' for one.

    A later entry counts; None is the calibration's, which cameras without an entry have. Raises
    RegionError, also for a camera that is not among `cameras`.
    """
    found: dict[str, Region | None] = dict.fromkeys(cameras)
    for entry in entries:
        camera, colon, text = entry.rpartition(':')
        camera = camera.strip()
        if colon and camera not in cameras:
            raise RegionError(
                f'the region {entry!r} is of the camera {camera!r}, which is none of '
                f'{", ".join(cameras)}: name one of them, or leave the camera out for all'
            )
        region = asked_region(text)
        found |= dict.fromkeys([camera] if colon else cameras, region)
    return found


def ground_classes(classes: Sequence[str]) -> tuple[int, ...]:
    """Ids of the classes that one can drive or walk on; RegionError where there is none."""
    found = tuple(index for index, name in enumerate(classes) if name in GROUND)
    if not found:
        known = ', '.join(classes) or 'none'
        raise RegionError(
            f"the region 'road' needs labels of the ground, and the model's classes are {known}: "
            "draw a polygon, or take 'all'"
        )
    return found


def polygon_mask(points: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """bool [h, w] of a polygon in shares of the picture: the positions whose centres it holds."""
    height, width = size
    # fillPoly counts from the centres of the positions, in 256ths.
    corners = np.array([[x * width - 0.5, y * height - 0.5] for x, y in points])
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.rint(corners * 256).astype(np.int32)], 1, shift=8)
    return mask > 0


def road_mask(labels: np.ndarray, ground: Sequence[int]) -> np.ndarray:
    """bool [h, w]: the ground between its far and its near edge, and what hides it there.

    Column by column, from the highest to the lowest position of the ground in labels uint8 [h, w];
    things that hide less of the edge than a seventeenth of the width do not move it. Patches of
    ground below a hundredth of the picture are taken for errors. Of one frame: labels of earlier
    ones lag behind a camera that pitches.
    """
    plain = _without_specks(np.isin(labels, ground).astype(np.uint8))
    height, width = plain.shape
    there = plain.any(axis=0)
    top = np.where(there, plain.argmax(axis=0), height).astype(np.float32)
    bottom = np.where(there, height - 1 - plain[::-1].argmax(axis=0), -1).astype(np.float32)
    bridge = np.ones((1, 2 * math.ceil(_BRIDGE * width / 2) - 1), np.uint8)
    top = cv2.dilate(cv2.erode(top[None], bridge), bridge)[0]
    bottom = cv2.erode(cv2.dilate(bottom[None], bridge), bridge)[0]
    rows = np.arange(height)[:, None]
    return np.asarray((rows >= top) & (rows <= bottom))


def _without_specks(ground: np.ndarray) -> np.ndarray:
    opened = cv2.morphologyEx(ground, cv2.MORPH_OPEN, _OPENING)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= _SMALLEST_GROUND * ground.size
    large[0] = False
    return large[parts].astype(np.uint8)


def standing(mask: np.ndarray, region: np.ndarray) -> np.ndarray:
    """What of a mask lies in a region, and what rises above it: bool [h, w] of two such.

    Column by column, a run of the mask that reaches into the region from above belongs to it, or
    that ends right above it: feet are often half a position short of the ground.
    """
    kept = mask & region
    kept[:-1] |= mask[:-1] & region[1:]
    for row in range(len(mask) - 2, -1, -1):
        kept[row] |= mask[row] & kept[row + 1]
    return kept


class RegionOfInterest:
    """The region of one camera on the score map, frame by frame."""

    def __init__(
        self,
        region: Region,
        classes: Sequence[str],
        size: tuple[int, int],
        ego: Sequence[Sequence[Sequence[float]]] = (),
    ) -> None:
        """Prepare for the score map's size (h, w).

        classes: of the model; ego: polygons of the vehicle itself, in shares of the picture.
        Raises RegionError for the road of a model without ground.
        """
        self.region = region
        self._ground = ground_classes(classes) if region.kind == 'road' else ()
        self._size = size
        self._fixed: np.ndarray | None = None
        if region.kind == 'polygon':
            self._fixed = polygon_mask(region.points, size)
        for polygon in ego:
            vehicle = polygon_mask(polygon, size)
            self._fixed = ~vehicle if self._fixed is None else self._fixed & ~vehicle

    def of(self, labels: np.ndarray | None) -> np.ndarray | None:
        """Where alarms count in a frame with labels uint8 [h, w]: bool [h, w]; None: everywhere."""
        if self.region.kind != 'road' or labels is None:
            return self._fixed
        road = road_mask(labels, self._ground)
        return road if self._fixed is None else road & self._fixed

    def ground(self, labels: np.ndarray | None) -> np.ndarray | None:
        """Where the ground is seen, bool [h, w], for the region 'road'; None for others."""
        return np.isin(labels, self._ground) if self._ground and labels is not None else None

    def alarms(self, mask: np.ndarray, region: np.ndarray | None) -> np.ndarray:
        """What of a mask, bool [h, w], counts in `region`, which `of` returned: bool [h, w]."""
        if region is None:
            return mask
        return standing(mask, region) if self._ground else mask & region


def region_section(region: Region, ego: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """What a calibration file keeps of one image topic."""
    return {'region': str(region), 'ego': [[list(corner) for corner in one] for one in ego]}


def calibrated_region(
    sections: Mapping[str, Any] | None, topic: str
) -> tuple[Region, list[list[list[float]]]]:
    """Region and ego vehicle that a calibration file knows of an image topic.

    sections: CalibrationFile.regions. Everything, and no vehicle, for a topic that it does not
    hold. Raises RegionError for what is no such section.
    """
    section = (sections or {}).get(topic)
    if section is None:
        return ALL, []
    try:
        ego = [[[float(x), float(y)] for x, y in polygon] for polygon in section['ego']]
        if any(len(polygon) < 3 for polygon in ego):
            raise RegionError('a polygon of the vehicle has fewer than three corners')
        return parse_region(section['region']), ego
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise RegionError(
            f'the calibration has no valid region of {topic} ({error}): write it again with '
            '`calibrate`'
        ) from error
