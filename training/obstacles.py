"""Do obstacles find what stands on the road, and nothing else?

`python -m training.obstacles --data DATA --json docs/benchmarks/obstacles.json --page
docs/obstacles.md [--sheets out/obstacles]`

On `drive_dog` a dog walks over a square; rough boxes of it were drawn by hand
(docs/benchmarks/drive_dog_boxes.csv). In how many of the frames in which a person sees it does an
obstacle that is told lie on it? What else is told there, and what on drives that show nothing out
of the ordinary? An uneventful drive is calibrated on one half and run on the other, both ways; the
camera of drive_dog, which has no drive of its own, on Seq05VD. Flicker before and after is counted
on the same drives. `--sheets` paints every obstacle with some of its frames, to be looked at.
`--cost` measures instead what the scene takes of a frame's time.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from training.card import CardError
from training.drift_drives import DRIVES, RATE_HZ, DriveError
from training.maps_on_disk import Maps, MapsOnDisk
from training.studies import drive_config, drive_parser, keep_results
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection, Detector
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFileError
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle, find_obstacles
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.detection.regions import ROAD, RegionOfInterest
from vq_anomaly_ros.detection.scene import Scene, SceneConfig
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.evaluate_bag import DEFAULT_SCENE
from vq_anomaly_ros.replay.files import write_bytes
from vq_anomaly_ros.replay.flicker import Alone, FlickerCounter, shares_alone
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.normal_scores import DriveScores, fit
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.timing import median_ms

BOXES = Path(__file__).resolve().parents[1] / 'docs/benchmarks/drive_dog_boxes.csv'
DOG = 'drive_dog'
DOG_CALIBRATION = 'Seq05VD'
UNEVENTFUL = ('motorway', 'Seq05VD', '0001TP', '0006R0', '0016E5')
TARGETS = (5e-3, 4e-3, 3e-3, 1e-3)
PERSISTENCES = (1, 3, 6)
CHOSEN = 4e-3
SMOOTHING = 0.5
MIN_AREA = 5e-4
# An obstacle lies on the dog if it covers so much of the smaller of both, and is not far larger.
COVERED = 0.3
LARGER = 10.0
_TABLE = 'obstacles'

Figures = dict[str, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """One frame of a run: what was told, and the detection that it was told of."""

    place: int
    detection: Detection

    @property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """What was told in it."""
        return self.detection.obstacles


def read_boxes(path: Path = BOXES) -> dict[int, Box]:
    """{number of the frame: x, y, width, height in pixels}."""
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    names = ('x', 'y', 'width', 'height')
    return {int(row['frame']): tuple(float(row[n]) for n in names) for row in rows}  # type: ignore[misc]


def lies_on(obstacle: Box, thing: Box) -> bool:
    """Whether an obstacle's box is one of a thing's, roughly."""
    area, size = obstacle[2] * obstacle[3], thing[2] * thing[3]
    return _shared(obstacle, thing) >= COVERED * min(area, size) and area <= LARGER * size


def _shared(one: Box, other: Box) -> float:
    x, y, w, h = one
    u, v, b, t = other
    wide = max(0.0, min(x + w, u + b) - max(x, u))
    return wide * max(0.0, min(y + h, v + t) - max(y, v))


def road_calibration(info: ModelInfo, maps: Maps, places: Sequence[int]) -> Calibration:
    """The table of the road's pixels in some frames, as `calibrate --region road` makes it."""
    roi = RegionOfInterest(ROAD, info.classes, info.map_size)
    drive = DriveScores(info, 'drive', '/image_raw')
    for place in places:
        labels = _labels(maps, place)
        drive.add(maps.raw[place], labels, roi.of(labels))
    return fit([drive], info).overall


def _labels(maps: Maps, place: int) -> np.ndarray | None:
    return None if maps.labels is None else maps.labels[place]


def run(
    maps: Maps,
    places: Sequence[int],
    calibration: Calibration,
    target: float,
    scene: Scene,
    size: tuple[int, int],
) -> Iterator[Shown]:
    """What a detector tells of frames of one drive, from their maps.

    size: of the pictures, (height, width), in whose pixels boxes are told.
    """
    for place in places:
        raw, labels = maps.raw[place], _labels(maps, place)
        score = calibration.apply(scene.smoothed(raw))
        alarms = np.where(score > np.float32(1 - target), np.uint8(255), np.uint8(0))
        mask, region = scene.alarms(alarms, labels)
        obstacles = scene.obstacles(mask, score, labels, size, MIN_AREA)
        yield Shown(place, Detection(labels, score, mask, raw, None, obstacles, alarms, region))


def dog_figures(shown: Sequence[Shown], boxes: dict[int, Box]) -> Figures:
    """How often the dog is found, and the other things that are told."""
    on_dog: set[int | None] = set()
    found = 0
    for frame in shown:
        box = boxes.get(frame.place)
        hits = [one for one in frame.obstacles if box is not None and lies_on(one.box, box)]
        found += bool(hits)
        on_dog |= {one.track for one in hits}
    others = {one.track for frame in shown for one in frame.obstacles} - on_dog
    return {
        'frames': len(boxes),
        'found': found,
        'share': found / len(boxes),
        'numbers': len(on_dog),
        'others': len(others),
        'frames_with_others': sum(
            any(one.track in others for one in frame.obstacles) for frame in shown
        ),
    }


def things(shown: Sequence[Shown]) -> dict[int, list[tuple[int, Obstacle]]]:
    """{number: frames and obstacles} of what is told."""
    found: dict[int, list[tuple[int, Obstacle]]] = {}
    for frame in shown:
        for one in frame.obstacles:
            found.setdefault(one.track or 0, []).append((frame.place, one))
    return found


def persisting(frame: Shown, persistence: int) -> Shown:
    """A frame of a run with persistence 1 as one with another tells it."""
    told = tuple(one for one in frame.obstacles if one.frames >= persistence)
    return replace(frame, detection=replace(frame.detection, obstacles=told))


def flicker_of(shown: Sequence[Shown]) -> list[Alone]:
    """What is alone in the frames of one run."""
    counter = FlickerCounter()
    return [alone for frame in shown if (alone := counter.add(frame.detection)) is not None]


class Study:
    """The drives, their maps and their calibrations."""

    def __init__(self, data: Path, kept: MapsOnDisk, info: ModelInfo) -> None:
        """Prepare; nothing is read yet."""
        self._data, self._kept, self.info = data, kept, info
        self._maps: dict[str, tuple[Maps, tuple[int, int]]] = {}
        self._tables: dict[tuple[str, int], Calibration] = {}
        self.boxes = read_boxes()

    def drive(self, name: str) -> tuple[Maps, tuple[int, int]]:
        """Maps of a drive at 10 Hz and the size of its pictures; DriveError, EngineError."""
        if name not in self._maps:
            pictures = DRIVES[name].read(self._data)
            maps = self._kept.of(f'{name}-{RATE_HZ:g}hz', partial(iter, pictures))
            height, width = pictures[0].shape[:2]
            self._maps[name] = maps, (height, width)
        return self._maps[name]

    def parts(self, name: str) -> Iterator[tuple[range, Calibration]]:
        """Frames to run over and what they are calibrated with."""
        count = len(self.drive(name)[0].raw)
        if name == DOG:
            other = len(self.drive(DOG_CALIBRATION)[0].raw)
            yield range(count), self._table(DOG_CALIBRATION, range(other))
            return
        halves = range(count // 2), range(count // 2, count)
        for run_over, learnt in (halves, halves[::-1]):
            yield run_over, self._table(name, learnt)

    def _table(self, name: str, places: range) -> Calibration:
        key = (name, places.start)
        if key not in self._tables:
            self._tables[key] = road_calibration(self.info, self.drive(name)[0], places)
        return self._tables[key]

    def shown(self, name: str, target: float, config: SceneConfig) -> list[Shown]:
        """What is told on a drive, the parts one after the other."""
        maps, size = self.drive(name)
        found: list[Shown] = []
        for places, table in self.parts(name):
            scene = Scene(config, self.info)
            # Numbers of the second half must not be those of the first.
            first = 1000 * len(found)
            for frame in run(maps, places, table, target, scene, size):
                obstacles = tuple(
                    replace(one, track=(one.track or 0) + first) for one in frame.obstacles
                )
                found.append(
                    replace(frame, detection=replace(frame.detection, obstacles=obstacles))
                )
        return found

    def cases(self, target: float, smoothing: float = 0.0) -> Iterator[Figures]:
        """All drives at one target rate, for each of PERSISTENCES."""
        config = replace(DEFAULT_SCENE, region=ROAD, persistence=1, smoothing=smoothing)
        every = {name: self.shown(name, target, config) for name in (DOG, *UNEVENTFUL)}
        for persistence in PERSISTENCES:
            row: Figures = {
                'target': target,
                'smoothing': smoothing,
                'persistence': persistence,
            }
            for name, frames in every.items():
                shown = [persisting(frame, persistence) for frame in frames]
                if name == DOG:
                    row['dog'] = dog_figures(shown, self.boxes)
                    row['dog_frames'] = len(shown)
                    continue
                row[name] = {
                    'things': len(things(shown)),
                    'frames': len(shown),
                    'frames_with': sum(bool(frame.obstacles) for frame in shown),
                }
            yield row

    def rate_factors(self, target: float) -> dict[str, float]:
        """Rate of alarms on the road over the target, of every drive."""
        config = replace(DEFAULT_SCENE, region=ROAD)
        factors = {}
        for name in (DOG, *UNEVENTFUL):
            pixels = alarms = 0
            for frame in self.shown(name, target, config):
                region, found = frame.detection.region, frame.detection.alarms
                if region is not None and found is not None:
                    pixels += int(np.count_nonzero(region))
                    alarms += int(np.count_nonzero(found[region]))
            factors[name] = alarms / pixels / target
        return factors

    def flicker(self, target: float) -> Figures:
        """Flicker of every drive, before and after, without smoothing and with."""
        config = replace(DEFAULT_SCENE, region=ROAD)
        kinds = {'plain': config, 'smoothed': replace(config, smoothing=SMOOTHING)}
        return {
            name: {
                kind: shares_alone(flicker_of(self.shown(name, target, one)))
                for kind, one in kinds.items()
            }
            for name in (DOG, *UNEVENTFUL)
        }


def study(found: Study, console: Console | None = None) -> Figures:
    """All cases; raises DriveError, EngineError."""
    with progress_bar(console) as progress:
        targets = progress.track(TARGETS, description='targets')
        cases = [row for target in targets for row in found.cases(target)]
        cases += found.cases(CHOSEN, SMOOTHING)
    return {
        'min_area': MIN_AREA,
        'growth': DEFAULT_SCENE.obstacle_growth,
        'chosen': {'target': CHOSEN, 'persistence': DEFAULT_SCENE.persistence},
        'cases': cases,
        'factors': found.rate_factors(CHOSEN),
        'flicker': found.flicker(CHOSEN),
    }


def markdown(found: Figures) -> str:
    """The tables of docs/obstacles.md."""
    return '\n'.join([*_case_lines(found), '', *_flicker_lines(found)])


def _case_lines(found: Figures) -> Iterator[str]:
    drives = ' | '.join(f'{name}: things (frames with)' for name in UNEVENTFUL)
    yield (
        '| target on the road | smoothing | persistence | dog found in | under numbers | '
        f'other things on {DOG} (frames with) | {drives} |'
    )
    yield '|' + '---|' * (6 + len(UNEVENTFUL))
    for row in found['cases']:
        dog = row['dog']
        cells = (
            f'{row[name]["things"]} ({row[name]["frames_with"]} of {row[name]["frames"]})'
            for name in UNEVENTFUL
        )
        yield (
            f'| {row["target"]:g} | {row["smoothing"]:g} | {row["persistence"]} | '
            f'{dog["found"]} of {dog["frames"]} ({dog["share"]:.0%}) | {dog["numbers"]} | '
            f'{dog["others"]} ({dog["frames_with_others"]} of {row["dog_frames"]}) | '
            f'{" | ".join(cells)} |'
        )


def _flicker_lines(found: Figures) -> Iterator[str]:
    yield (
        '| drive | rate on the road / target | pixels alone: before | after | smoothed | '
        'parts alone: before | obstacles alone: after | smoothed |'
    )
    yield '|' + '---|' * 8
    for name, kinds in found['flicker'].items():
        plain, smoothed = kinds['plain'], kinds['smoothed']
        cells = []
        for what in ('pixels', 'parts'):
            cells += [plain[f'{what}_before'], plain[f'{what}_after'], smoothed[f'{what}_after']]
        told = ' | '.join('–' if share is None else f'{share:.1%}' for share in cells)
        yield f'| {name} | {found["factors"][name]:.1f} | {told} |'


def write_sheets(found: Study, data: Path, folder: Path, target: float) -> list[Path]:
    """A sheet a drive with three frames of every thing that is told; returns the files."""
    written = []
    config = replace(DEFAULT_SCENE, region=ROAD)
    for name in (DOG, *UNEVENTFUL):
        shown = {frame.place: frame for frame in found.shown(name, target, config)}
        pictures = DRIVES[name].read(data)
        tiles = [
            _tile(pictures[place], shown[place].detection, found.info, f'{number} frame {place}')
            for number, seen in things(list(shown.values())).items()
            for place in dict.fromkeys(seen[i][0] for i in (0, len(seen) // 2, -1))
        ]
        if name == DOG:
            tiles = [
                _tile(picture, shown[place].detection, found.info, f'frame {place}')
                for place, picture in enumerate(pictures)
            ]
        if tiles:
            path = folder / f'{name}.jpg'
            write_bytes(path, _sheet(tiles))
            written.append(path)
    return written


def _tile(picture: np.ndarray, detection: Detection, info: ModelInfo, text: str) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = (detection.score.shape[1] / width, detection.score.shape[0] / height)
    # Boxes were told in pixels of the picture; the overlay takes them in those of the score.
    obstacles = tuple(
        replace(
            one,
            box=(
                one.box[0] * scale[0],
                one.box[1] * scale[1],
                one.box[2] * scale[0],
                one.box[3] * scale[1],
            ),
        )
        for one in detection.obstacles
    )
    painted = overlay(
        Frame(picture, 'bgr'), replace(detection, obstacles=obstacles), info, 0.15, legend=False
    )
    tile = cv2.resize(painted, (480, 270), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 255), 1, cv2.LINE_AA)
    return tile


def _sheet(tiles: Sequence[np.ndarray], columns: int = 3) -> bytes:
    empty = np.zeros_like(tiles[0])
    padded = [*tiles, *[empty] * (-len(tiles) % columns)]
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    return cv2.imencode('.jpg', np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def cost(found: Study, repeats: int = 20) -> Figures:
    """Median time for a frame of drive_dog, ms: of what was there before, and of the scene."""
    maps, size = found.drive(DOG)
    ((places, table),) = found.parts(DOG)
    config = replace(DEFAULT_SCENE, region=ROAD)
    scenes = {'plain': SceneConfig(), 'road': config, 'smoothed': replace(config, smoothing=0.5)}
    figures: Figures = {}
    for name, one in scenes.items():
        scene = Scene(one, found.info)
        act = partial(_through, maps, places, table, scene, size)
        figures[f'{name}_ms'] = median_ms(act, repeats) / len(places)
    score = table.apply(maps.raw[0])
    mask = np.where(score > np.float32(1 - CHOSEN), np.uint8(255), np.uint8(0))
    figures['find_obstacles_ms'] = median_ms(
        lambda: find_obstacles(mask, score, _labels(maps, 0), size, MIN_AREA), 10 * repeats
    )
    return {name: round(value, 3) for name, value in figures.items()}


def _through(
    maps: Maps, places: Sequence[int], table: Calibration, scene: Scene, size: tuple[int, int]
) -> None:
    for _ in run(maps, places, table, CHOSEN, scene, size):
        pass


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        with interruptible(), Detector(drive_config(options.model, with_codes=False)) as detector:
            drives = Study(options.data, MapsOnDisk(detector, options.cache), detector.info)
            if options.cost:
                print(json.dumps(cost(drives), indent=1))
                return 0
            found: Figures = {'model': detector.info.name, 'sha256': detector.model.sha256}
            found |= study(drives, Console(stderr=True))
            if options.sheets is not None:
                for path in write_sheets(drives, options.data, options.sheets, CHOSEN):
                    print(path)
        keep_results(found, markdown(found), _TABLE, options)
    except (CardError, DriveError, EngineError, ModelFileError, OSError) as error:
        print(f'training.obstacles: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('training.obstacles: interrupted; nothing but the cache was kept', file=sys.stderr)
        return 130
    print(markdown(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = drive_parser('obstacles', __doc__)
    add = parser.add_argument
    add('--sheets', type=Path, metavar='DIR', help='write sheets of what is told, to be looked at')
    add('--cost', action='store_true', help='measure the time for a frame instead')
    return parser


if __name__ == '__main__':
    sys.exit(main())
