"""faults: make the frames of a bag faulty (dirt, fog, a failing sensor) to test what notices it.

`python -m vq_anomaly_ros.replay.faults DRIVE OUT --fault dirt --severity 3 --after 10` writes a bag
whose frames are faulty from the tenth second on. What a severity means stands in FAULTS (`--list`).
Dirt, drops, dead rows and what covers the lens stay where they are; noise is new in each frame.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from vq_anomaly_ros.detection.drift import FROZEN  # of the stream: the frame before comes again
from vq_anomaly_ros.images import ImageError, as_frame, compressed_fields
from vq_anomaly_ros.replay.bags import (
    COMPRESSED_IMAGE,
    NANOSECONDS,
    BagError,
    BagWriter,
    add_bag_options,
    choose_topic,
    image_topics,
    read_images,
)
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.progress import progress_bar

SEVERITIES = (1, 2, 3, 4, 5)

# A picture uint8 BGR [H, W, 3], the level of the severity, what stays in place over the frames of a
# drive, what is new in each -> the faulty picture, uint8 BGR [H, W, 3].
Apply = Callable[[np.ndarray, float, np.random.Generator, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what its level measures, that of the severities 1 to 5, how it looks."""

    meaning: str
    levels: tuple[float, float, float, float, float]
    apply: Apply


def faulty(
    picture: np.ndarray, fault: str, severity: int, frame: int = 0, seed: int = 0
) -> np.ndarray:
    """A picture with a fault: uint8 BGR [H, W, 3] -> the same; deterministic in all arguments.

    fault: a key of FAULTS; severity: 1..5; frame: its number in the drive, which noise depends on;
    seed: of where things are. Raises ValueError for a fault or severity that there is none of.
    """
    if fault not in FAULTS or severity not in SEVERITIES:
        raise ValueError(
            f'the fault {fault!r} of severity {severity} is unknown: use one of '
            f'{", ".join(FAULTS)} with 1 to 5'
        )
    kind = FAULTS[fault]
    number = list(FAULTS).index(fault)
    place, moment = (np.random.default_rng((seed, number, *more)) for more in ((), (frame,)))
    return kind.apply(picture, kind.levels[severity - 1], place, moment)


def _blur(picture: np.ndarray, level: float, place: object, moment: object) -> np.ndarray:
    return _blurred(picture, level * picture.shape[0])


def _blurred(picture: np.ndarray, deviation: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(deviation, 0.1)), picture.dtype)


def _dirt(
    picture: np.ndarray, level: float, place: np.random.Generator, moment: object
) -> np.ndarray:
    """Brown spots out of focus, until they cover the share `level`."""
    colour = place.uniform((20, 35, 45), (50, 70, 90))
    cover = _spots(picture.shape[:2], level, place, (0.02, 0.08), soft=0.35)
    return _mixed(picture, colour, 0.92 * cover)


def _drops(
    picture: np.ndarray, level: float, place: np.random.Generator, moment: object
) -> np.ndarray:
    """Drops of water: each a small, blurred, upside-down picture of what is around it."""
    height, width = picture.shape[:2]
    cover = _spots((height, width), level, place, (0.015, 0.05), soft=0.12)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    bend = cv2.GaussianBlur(cover, (0, 0), 0.02 * height)
    down, right = np.gradient(bend)
    strength = 6.0 * height * 0.05
    seen = cv2.remap(
        picture,
        columns + strength * right.astype(np.float32) * height * 0.1,
        rows + strength * down.astype(np.float32) * height * 0.1,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    seen = _blurred(seen, 0.012 * height)
    return _clipped(picture + cover[..., None] * (1.08 * seen - picture.astype(np.float32)))


def _dead_rows(
    picture: np.ndarray, level: float, place: np.random.Generator, moment: object
) -> np.ndarray:
    """Bands of rows that are black or stuck at one grey."""
    result = picture.copy()
    height = picture.shape[0]
    rows = max(1, round(level * height))
    while rows > 0:
        thickness = int(min(rows, place.integers(1, max(2, height // 60) + 1)))
        top = int(place.integers(0, height - thickness + 1))
        result[top : top + thickness] = 0 if place.random() < 0.7 else int(place.integers(60, 255))
        rows -= thickness
    return result


def _exposure(picture: np.ndarray, level: float, place: object, moment: object) -> np.ndarray:
    """`level` stops more (or less) light, in linear light with the gamma 2.2, clipped."""
    table = np.clip((np.arange(256) / 255.0) ** 2.2 * 2.0**level, 0.0, 1.0) ** (1 / 2.2)
    return np.asarray(cv2.LUT(picture, np.round(255.0 * table).astype(np.uint8)), np.uint8)


def _fog(
    picture: np.ndarray, level: float, place: np.random.Generator, moment: object
) -> np.ndarray:
    """Koschmieder's law with a distance that grows towards the upper third of the picture."""
    height = picture.shape[0]
    rows = np.linspace(0.0, 1.0, height, dtype=np.float32)
    distance = np.where(rows < 0.35, 1.0, 1.0 / (1.0 + 6.0 * (rows - 0.35)))
    share = 1.0 - np.exp(-level * distance)
    clouds = _noise(place, picture.shape[:2], 5)
    cover = np.clip(share[:, None] * (1.0 + 0.15 * clouds), 0.0, 1.0)
    return _mixed(picture, np.array((225, 222, 218)) * place.uniform(0.85, 1.0), cover)


def _occlusion(
    picture: np.ndarray, level: float, place: np.random.Generator, moment: object
) -> np.ndarray:
    """Something dark close to the lens grows in from one side over the share `level`."""
    height, width = picture.shape[:2]
    side = int(place.integers(4))
    along, depth = (width, height) if side in (0, 2) else (height, width)
    edge = level * depth * (1.0 + 0.15 * _noise(place, (1, along), 4)[0])
    inside = (np.arange(depth)[:, None] < edge[None, :]).astype(np.float32)
    cover = np.rot90(inside, k=side)
    cover = cv2.resize(np.ascontiguousarray(cover), (width, height))
    cover = cv2.GaussianBlur(cover, (0, 0), 0.01 * height)
    return _mixed(picture, place.uniform(5, 60, 3), cover)


def _colour_cast(
    picture: np.ndarray, level: float, place: np.random.Generator, moment: object
) -> np.ndarray:
    """One channel is amplified by 1 + level, another one damped as much."""
    raised, lowered = place.permutation(3)[:2]
    gains = np.ones(3, np.float32)
    gains[raised], gains[lowered] = 1.0 + level, 1.0 / (1.0 + level)
    return _clipped(picture * gains)


def _sensor_noise(
    picture: np.ndarray, level: float, place: object, moment: np.random.Generator
) -> np.ndarray:
    """Normal noise of `level` grey levels, new in each frame."""
    noise = moment.standard_normal(picture.shape, dtype=np.float32)
    return _clipped(picture + level * noise)


FAULTS: dict[str, Fault] = {
    'blur': Fault(
        'deviation of a Gaussian, share of the height', (0.002, 0.004, 0.008, 0.014, 0.025), _blur
    ),
    'dirt': Fault('share of the picture under dirt', (0.02, 0.05, 0.12, 0.25, 0.45), _dirt),
    'drops': Fault('share of the picture under drops', (0.03, 0.07, 0.15, 0.28, 0.45), _drops),
    'dead_rows': Fault('share of the rows', (0.01, 0.03, 0.08, 0.18, 0.35), _dead_rows),
    'overexposure': Fault('stops of light', (0.7, 1.3, 2.0, 2.8, 3.8), _exposure),
    'underexposure': Fault('stops of light', (-1.0, -1.8, -2.7, -3.7, -5.0), _exposure),
    'fog': Fault('optical depth at the horizon', (0.4, 0.8, 1.4, 2.2, 3.5), _fog),
    'occlusion': Fault('share of the picture', (0.06, 0.12, 0.22, 0.38, 0.6), _occlusion),
    'colour_cast': Fault('gain of a channel beyond 1', (0.15, 0.3, 0.5, 0.8, 1.2), _colour_cast),
    'noise': Fault('deviation, grey levels', (6.0, 12.0, 22.0, 38.0, 60.0), _sensor_noise),
}


def _spots(
    size: tuple[int, int],
    share: float,
    place: np.random.Generator,
    radii: tuple[float, float],
    soft: float,
) -> np.ndarray:
    """Round spots until they cover `share` of the picture: float32 [H, W], 1 inside."""
    height, width = size
    cover = np.zeros(size, np.float32)
    while float(cover.mean()) < share:
        radius = height * np.exp(place.uniform(*np.log(radii)))
        centre = (int(place.integers(0, width)), int(place.integers(0, height)))
        axes = (int(radius * place.uniform(0.7, 1.3)) + 1, int(radius) + 1)
        cv2.ellipse(cover, centre, axes, float(place.uniform(0, 180)), 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), soft * radii[0] * height), np.float32)


def _noise(place: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of deviation 1 or less, float32 [H, W]."""
    grid = place.standard_normal((cells, 2 * cells), dtype=np.float32)
    return np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _mixed(picture: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return _clipped(picture + cover[..., None] * (colour - picture.astype(np.float32)))


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Damage:
    """What is done to a drive: from `after` to `until` seconds of its header stamps."""

    fault: str
    severity: int = 3
    after: float = 0.0
    until: float = float('inf')
    seed: int = 0


def damaged(
    frames: Iterator[tuple[int, np.ndarray]], damage: Damage
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames (stamp in ns, uint8 BGR [H, W, 3]) of a drive, with its damage.

    `frozen` repeats the last frame before it; at the very beginning the first one.
    """
    start: int | None = None
    last: np.ndarray | None = None
    for number, (stamp, picture) in enumerate(frames):
        start = stamp if start is None else start
        seconds = (stamp - start) / NANOSECONDS
        if not damage.after <= seconds < damage.until:
            last = picture
            yield stamp, picture
        elif damage.fault == FROZEN:
            last = picture if last is None else last
            yield stamp, last
        else:
            yield stamp, faulty(picture, damage.fault, damage.severity, number, damage.seed)


def write_faulty_bag(bag: Path, out: Path, topic: str | None, damage: Damage, **how: object) -> int:
    """Write the images of one topic of a bag with a damage as a new bag; returns their number.

    Compressed images stay compressed (JPEG, quality 90). Raises BagError, ImageError.
    """
    chosen = choose_topic(bag, topic)
    compressed = image_topics(bag)[chosen][0] == COMPRESSED_IMAGE
    frames = ((stamp, as_frame(m).bgr()) for stamp, _, m in read_images(bag, chosen))
    count = 0
    with BagWriter(out, **how) as writer:  # type: ignore[arg-type]
        for stamp, picture in damaged(frames, damage):
            if compressed:
                data = compressed_fields(picture, 'jpeg', 90)['data']
                writer.write_compressed(chosen, stamp, data, 'jpeg')
            else:
                writer.write_image(chosen, stamp, np.ascontiguousarray(picture), 'bgr8')
            count += 1
        if not count:
            raise BagError(f'{bag}: holds no images; choose another bag or --topic')
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        print(table())
        return 0
    if options.bag is None or options.out is None or options.fault is None:
        print('faults: give a bag, a new bag and --fault (or --list)', file=sys.stderr)
        return 2
    damage = Damage(options.fault, options.severity, options.after, options.until, options.seed)
    try:
        with interruptible(), progress_bar(Console(stderr=True)) as progress:
            progress.add_task(f'{options.fault} {options.severity}', total=None)
            count = write_faulty_bag(
                options.bag,
                options.out,
                options.topic,
                damage,
                storage=options.storage,
                version=options.bag_version,
                overwrite=options.overwrite,
            )
    except (BagError, ImageError, OSError) as error:
        print(f'faults: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('faults: interrupted; no bag was written', file=sys.stderr)
        return 130
    print(f'{options.out}: {count} frames')
    return 0


def table() -> str:
    """The faults with the levels of their severities, as a Markdown table."""
    head = f'| fault | level | {" | ".join(map(str, SEVERITIES))} |'
    rule = '|---|---|' + '---|' * len(SEVERITIES)
    rows = [
        f'| {name} | {fault.meaning} | {" | ".join(f"{level:g}" for level in fault.levels)} |'
        for name, fault in FAULTS.items()
    ]
    rows.append(f'| {FROZEN} | the frame before the fault, again and again |' + ' – |' * 5)
    return '\n'.join([head, rule, *rows])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'faults', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('bag', type=Path, nargs='?', help='bag folder, or a single .mcap or .db3 file')
    add('out', type=Path, nargs='?', help='the new bag')
    add('--fault', choices=(*FAULTS, FROZEN))
    add('--severity', type=int, choices=SEVERITIES, default=3)
    add('--after', type=float, default=0.0, metavar='S', help='seconds from the first frame')
    add('--until', type=float, default=float('inf'), metavar='S')
    add('--seed', type=int, default=0, help='of where dirt and drops are')
    add('--topic', help='image topic; may be left out where a bag has one only')
    add('--overwrite', action='store_true', help='replace a bag of that name')
    add('--list', action='store_true', help='say what the severities mean, and end')
    add_bag_options(parser)
    return parser


if __name__ == '__main__':
    sys.exit(main())
