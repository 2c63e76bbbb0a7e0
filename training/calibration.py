"""Does a calibration keep its word on frames that it has not seen?

`python -m training.calibration --data DATA --json docs/benchmarks/calibration.json --page
docs/calibration.md`

Three questions. Within a drive: it is cut into about twenty contiguous blocks, half of them, drawn
anew fifty times, calibrate; on the others the rate of false alarms is counted and compared with
what was asked for, and with the 95 % interval that the calibration itself states. Across drives:
calibrated on one, run on another, and what the drift monitor says of it. Polluted: objects are
pasted into one per cent of the calibration's frames; how far does the threshold move, in units of
its distance to the score of such objects?
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from training.card import CardError
from training.data.folders import FolderError
from training.data.outliers import OutlierError, Paster, read_cut_outs
from training.drift import baseline_of, uneventful_case
from training.drift_drives import DRIVES, DriveError, SignsOnDisk, motorway
from training.maps_on_disk import Maps, MapsOnDisk
from training.studies import drive_config, drive_parser, keep_results
from vq_anomaly_ros.detection.calibration_file import CalibrationFile, frame_score
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFileError
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.normal_scores import DriveScores, fit
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.replay.realised_rates import block_numbers

SPLITS = 50
BLOCKS = 20
FACTOR = 1.5
POLLUTED = 0.01
POLLUTIONS = 20
PIXEL_TARGETS = (1e-2, 1e-3)
FRAME_TARGETS = (0.1, 0.05)
# All pictures of a drive, at the camera's rate, and those that it is only tried on.
_READ = {
    'motorway': motorway,
    **{name: DRIVES[name].read for name in ('Seq05VD', 'IDD-Lite', 'drive_dog')},
}
_CALIBRATED = ('motorway', 'Seq05VD')
_TABLE = 'calibration'

Figures = dict[str, Any]


def calibration_of(info: ModelInfo, raw: np.ndarray, polluted: float = 0.0) -> CalibrationFile:
    """The calibration of frames float32 [F, h, w]."""
    drive = DriveScores(info, 'drive', '/image_raw')
    for one in raw:
        drive.add(one)
    return fit([drive], info, polluted, PIXEL_TARGETS)


def split_cases(
    info: ModelInfo, raw: np.ndarray, polluted: float = 0.0, splits: int = SPLITS
) -> Iterator[Figures]:
    """What came out on the blocks that did not calibrate, of every split and target."""
    blocks = block_numbers([len(raw)], BLOCKS)
    count = int(blocks.max()) + 1
    for seed in range(splits):
        chosen = np.random.default_rng(seed).permutation(count) < count // 2
        file = calibration_of(info, raw[chosen[blocks]], polluted)
        judged = raw[~chosen[blocks]]
        for stated in file.realised:
            if stated.target not in (PIXEL_TARGETS if stated.per == 'pixel' else FRAME_TARGETS):
                continue
            if stated.per == 'pixel':
                rate = float(np.mean(judged > file.overall.threshold(stated.target)))
            else:
                threshold = file.frame_table.threshold(stated.target)
                rate = float(np.mean([frame_score(one) > threshold for one in judged]))
            yield {
                'per': stated.per,
                'target': stated.target,
                'split': seed,
                'factor': rate / stated.target,
                'low': stated.low / stated.target,
                'high': stated.high / stated.target,
            }


def summed_up(cases: Sequence[Figures]) -> list[Figures]:
    """The splits of one drive, target by target."""
    rows = []
    for per, target in dict.fromkeys((case['per'], case['target']) for case in cases):
        of_it = [case for case in cases if (case['per'], case['target']) == (per, target)]
        factor, low, high = (
            np.array([c[name] for c in of_it]) for name in ('factor', 'low', 'high')
        )
        rows.append(
            {
                'per': per,
                'target': target,
                'splits': len(of_it),
                'mean_factor': float(factor.mean()),
                'median_factor': float(np.median(factor)),
                'share_within': float(np.mean((factor <= FACTOR) & (factor >= 1 / FACTOR))),
                'share_inside': float(np.mean((factor >= low) & (factor <= high))),
                'interval': [float(np.median(low)), float(np.median(high))],
            }
        )
    return rows


def crossed(info: ModelInfo, maps: dict[str, Maps], signs: dict[str, list[Any]]) -> list[Figures]:
    """Every drive run with the calibration of those that are long enough."""
    rows = []
    for name in _CALIBRATED:
        file = calibration_of(info, maps[name].raw)
        baseline = baseline_of(signs[name])
        for other in maps:
            if other == name:
                continue
            told = uneventful_case(baseline, signs[other])
            factors = {
                f'{target:g}': float(np.mean(maps[other].raw > file.overall.threshold(target)))
                / target
                for target in PIXEL_TARGETS
            }
            drift = {'share': told['share'], 'told_by': told['told_by']}
            rows.append({'calibrated': name, 'run': other, 'factors': factors, 'drift': drift})
    return rows


def pollution_cases(
    info: ModelInfo, raw: np.ndarray, dirty: Sequence[tuple[np.ndarray, Maps, np.ndarray]]
) -> Iterator[Figures]:
    """How far pasted objects move the thresholds.

    Args:
        info: of the model.
        raw: of the clean drive, float32 [F, h, w].
        dirty: of every case the places of the frames with objects, their maps, and bool
            [n, h, w]: where the objects are. The median score of all of them is what thresholds
            have a distance to.
    """
    clean, bounded = (calibration_of(info, raw, share) for share in (0.0, POLLUTED))
    height = float(np.median(np.concatenate([maps.raw[objects] for _, maps, objects in dirty])))
    for number, (places, maps, objects) in enumerate(dirty):
        changed = raw.copy()
        changed[places] = maps.raw
        plain, robust = (calibration_of(info, changed, share) for share in (0.0, POLLUTED))
        for target in PIXEL_TARGETS:
            before = clean.overall.threshold(target)
            after = robust.overall.threshold(target)
            moved = {
                'moved_plain': plain.overall.threshold(target) - before,
                'moved': after - before,
                'moved_by_objects': after - bounded.overall.threshold(target),
            }
            yield {
                'target': target,
                'case': number,
                'frames': len(places),
                'pixels': float(objects.sum() / raw.size),
                'distance': height - before,
                **{name: value / (height - before) for name, value in moved.items()},
            }


def polluted_pictures(
    pictures: Sequence[np.ndarray], paster: Paster, seed: int
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """One per cent of a drive with objects: places, pictures, bool [n, H, W]: where objects are."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(len(pictures), round(POLLUTED * len(pictures)), replace=False))
    changed, objects = [], []
    for place in places:
        rgb = cv2.cvtColor(pictures[place], cv2.COLOR_BGR2RGB)
        mask = np.zeros(rgb.shape[:2], np.uint8)
        while not mask.any():  # an object may fall outside of the picture
            paster.paste(rgb, mask, rng)
        changed.append(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        objects.append(mask > 0)
    return places, changed, np.array(objects)


def _dirty(
    name: str, pictures: Sequence[np.ndarray], data: Path, kept: MapsOnDisk, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, Maps, np.ndarray]]:
    paster = Paster(read_cut_outs(data / 'outlier_objects'), heights=(0.03, 0.4), relight=0.5)
    for seed in range(POLLUTIONS):
        places, changed, objects = polluted_pictures(pictures, paster, seed)
        maps = kept.of(f'{name}-polluted-{seed}', partial(iter, changed))
        small = [
            cv2.resize(one.astype(np.uint8), size[::-1], interpolation=cv2.INTER_AREA) > 0
            for one in objects
        ]
        yield places, maps, np.array(small)


def study(
    data: Path, kept: MapsOnDisk, signs_kept: SignsOnDisk, info: ModelInfo, console: Console
) -> Figures:
    """All cases; raises DriveError, FolderError, OutlierError, EngineError."""
    maps, signs = {}, {}
    splits: list[Figures] = []
    polluted: list[Figures] = []
    with progress_bar(console) as progress:
        for name, read in progress.track(_READ.items(), description='drives'):
            pictures = read(data)
            maps[name] = kept.of(name, partial(iter, pictures))
            signs[name] = signs_kept.of(name, partial(DRIVES[name].read, data))
            if name not in _CALIBRATED:
                continue
            raw = maps[name].raw
            for share in (0.0, POLLUTED):
                cases = list(split_cases(info, raw, share))
                splits.append(
                    {'drive': name, 'frames': len(raw), 'polluted': share, 'cases': cases}
                )
            dirty = list(_dirty(name, pictures, data, kept, info.map_size))
            polluted += [{'drive': name, **case} for case in pollution_cases(info, raw, dirty)]
    found = {'splits': splits, 'polluted': polluted, 'crossed': crossed(info, maps, signs)}
    return _rounded(found)


def _rounded(value: Any) -> Any:
    """Numbers to four digits that count: what is read off them is read off the file, too."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return float(f'{value:.4g}') if isinstance(value, float) else value


def summary(found: Figures) -> Figures:
    """The figures that matter, of what `study` found."""
    return _rounded(
        {
            'splits': [
                {
                    'drive': drive['drive'],
                    'frames': drive['frames'],
                    'polluted': drive['polluted'],
                    **row,
                }
                for drive in found['splits']
                for row in summed_up(drive['cases'])
            ],
            'polluted': [
                {
                    'drive': name,
                    'target': target,
                    'cases': len(moved),
                    **{f'{key}_worst': max(abs(one[key]) for one in moved) for key in _MOVED},
                    **{
                        f'{key}_median': float(np.median([one[key] for one in moved]))
                        for key in _MOVED
                    },
                }
                for name in _CALIBRATED
                for target in PIXEL_TARGETS
                if (moved := _cases_of(found['polluted'], name, target))
            ],
        }
    )


_MOVED = ('moved_plain', 'moved', 'moved_by_objects')


def _cases_of(cases: Sequence[Figures], drive: str, target: float) -> list[Figures]:
    return [case for case in cases if (case['drive'], case['target']) == (drive, target)]


def markdown(found: Figures) -> str:
    """The tables of docs/calibration.md."""
    total = summary(found)
    return '\n'.join(
        [*_split_lines(total), '', *_crossed_lines(found), '', *_polluted_lines(total)]
    )


def _split_lines(total: Figures) -> Iterator[str]:
    yield (
        '| drive | `--polluted` | a | asked for | mean of realised / asked for | median | splits '
        f'within {FACTOR:g} x | splits inside the stated 95 % interval | interval / asked for '
        '(median) |'
    )
    yield '|---|---|---|---|---|---|---|---|---|'
    for row in total['splits']:
        low, high = row['interval']
        yield (
            f'| {row["drive"]}, {row["frames"]} frames | {row["polluted"]:g} | {row["per"]} | '
            f'{row["target"]:g} | {row["mean_factor"]:.2f} | {row["median_factor"]:.2f} | '
            f'{row["share_within"]:.0%} | {row["share_inside"]:.0%} | {low:.2f} to {high:.2f} |'
        )


def _crossed_lines(found: Figures) -> Iterator[str]:
    yield (
        '| calibrated on | run on | realised / asked for at 0.01 | at 0.001 | frames that the '
        'drift monitor raises at | by |'
    )
    yield '|---|---|---|---|---|---|'
    for row in found['crossed']:
        factors, drift = row['factors'], row['drift']
        yield (
            f'| {row["calibrated"]} | {row["run"]} | {factors["0.01"]:.2g} | '
            f'{factors["0.001"]:.2g} | {drift["share"]:.0%} | '
            f'{", ".join(drift["told_by"]) or "–"} |'
        )


def _polluted_lines(total: Figures) -> Iterator[str]:
    yield (
        '| drive, 1 % of its frames with objects | at | plain: worst of the cases | median | '
        '`--polluted 0.01`: worst | median | of it by the objects: worst |'
    )
    yield '|---|---|---|---|---|---|---|'
    for row in total['polluted']:
        yield (
            f'| {row["drive"]}, {row["cases"]} cases | {row["target"]:g} | '
            f'{row["moved_plain_worst"]:.0%} | {row["moved_plain_median"]:.0%} | '
            f'{row["moved_worst"]:.0%} | {row["moved_median"]:.0%} | '
            f'{row["moved_by_objects_worst"]:.0%} |'
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = drive_parser('calibration', __doc__).parse_args(argv)
    try:
        with interruptible(), Detector(drive_config(options.model)) as detector:
            kept = MapsOnDisk(detector, options.cache)
            signs = SignsOnDisk(detector, options.cache)
            found: Figures = {'model': detector.info.name, 'sha256': detector.model.sha256}
            found |= study(options.data, kept, signs, detector.info, Console(stderr=True))
        keep_results(found, markdown(found), _TABLE, options, indent=None)
    except (
        *(CardError, DriveError, EngineError),
        *(FolderError, ModelFileError, OutlierError, OSError),
    ) as error:
        print(f'training.calibration: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('training.calibration: interrupted; nothing but the cache was kept', file=sys.stderr)
        return 130
    print(markdown(found))
    return 0


if __name__ == '__main__':
    sys.exit(main())
