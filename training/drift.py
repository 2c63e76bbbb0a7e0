"""Does the drift monitor tell a faulty camera, and a drive that is not the calibrated one?

`python -m training.drift --data DATA --json docs/benchmarks/drift.json --page docs/drift.md`

Each drive of DRIVES is given stamps of 10 Hz; its first half is the calibration drive, its second
half the uneventful test. Faults of severity 3 (`replay.faults`) begin at one or two moments of the
second half; the delay is that from the first faulty frame's stamp to that of the first frame at
which the monitor says WARN or ERROR. Then each half drive is calibrated on and run over each other
drive: by how much is the rate of alarms off, and does the monitor say so? `--cost` measures instead
how long the monitor takes for a frame.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from training.card import CardError
from training.data.folders import FolderError
from training.drift_drives import DRIVES, RATE_HZ, Drive, DriveError, SignsOnDisk
from training.studies import drive_config, drive_parser, keep_results
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.drift import Baseline, DriftMonitor, Learner
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.frame_signs import FrameSigns, frame_signs, score_edges
from vq_anomaly_ros.detection.levels import Level
from vq_anomaly_ros.detection.model_file import ModelFileError
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.faults import FAULTS, FROZEN, faulty
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.timing import Way, median_ms

SEVERITY = 3
WITHIN_S = 2.0
OFF = 3.0  # times the calibrated rate
_STEP_NS = round(1e9 / RATE_HZ)
_FAULTY_FRAMES = round(WITHIN_S * RATE_HZ) + 1
_TABLE = 'drift'

Figures = dict[str, Any]


def stamped(signs: Iterable[FrameSigns]) -> Iterator[tuple[int, FrameSigns]]:
    """Consecutive frames with the stamps, ns, that they have at RATE_HZ."""
    return ((place * _STEP_NS, one) for place, one in enumerate(signs))


def baseline_of(signs: Sequence[FrameSigns]) -> Baseline:
    """The baseline of consecutive frames at RATE_HZ."""
    learner = Learner()
    learner.add_drive(stamped(signs))
    return learner.baseline()


def levels(baseline: Baseline, signs: Sequence[FrameSigns]) -> Iterator[tuple[Level, list[str]]]:
    """The level frame by frame, and the statistics that left their limits."""
    monitor = DriftMonitor(baseline)
    for stamp_ns, one in stamped(signs):
        state = monitor.update(stamp_ns, one)
        told = [name for name, figure in state.figures.items() if figure.level is not Level.OK]
        yield state.judgement.level, told + [FROZEN] * monitor.is_frozen


def fault_case(
    baseline: Baseline, before: Sequence[FrameSigns], faulty_signs: Sequence[FrameSigns]
) -> Figures:
    """How soon the monitor tells a fault; alarms before it count as none of it."""
    found = list(levels(baseline, [*before, *faulty_signs]))
    false = any(level is not Level.OK for level, _ in found[: len(before)])
    for place, (level, told) in enumerate(found[len(before) :]):
        if level is not Level.OK and not false:
            return {'delay_s': place / RATE_HZ, 'told_by': told, 'alarm_before': False}
    return {'delay_s': None, 'told_by': [], 'alarm_before': false}


def uneventful_case(baseline: Baseline, signs: Sequence[FrameSigns]) -> Figures:
    """How often the monitor raises on a drive."""
    found = list(levels(baseline, signs))
    raised = [level is not Level.OK for level, _ in found]
    edges = sum(now and not before for before, now in itertools.pairwise([False, *raised]))
    told = sorted({name for _, names in found for name in names})
    return {'frames': len(signs), 'raised': edges, 'share': float(np.mean(raised)), 'told_by': told}


def rate_factor(baseline: Baseline, signs: Sequence[FrameSigns]) -> float:
    """Rate of alarms on a drive over that of the calibration drive, at 1/1000 of its positions."""
    first, _ = baseline.reference.tails
    scores = np.sum([one.scores for one in signs], axis=0)
    # Few frames may have none above: then their rate is below what was asked for.
    expected = float(baseline.reference.scores[first:].sum()) or 1e-3
    return float(scores[first:].sum() / scores.sum() / expected)


def study(data: Path, kept: SignsOnDisk, console: Console | None = None) -> Figures:
    """All cases of all drives; raises DriveError, FolderError, EngineError."""
    faults: list[Figures] = []
    uneventful: list[Figures] = []
    signs: dict[str, list[FrameSigns]] = {}
    with progress_bar(console) as progress:
        for drive in progress.track(list(DRIVES.values()), description='drives'):
            pictures = drive.read(data)
            found = signs[drive.name] = kept.of(drive.name, partial(iter, pictures))
            if not drive.onsets:
                continue
            half = len(found) // 2
            baseline = baseline_of(found[:half])
            row = uneventful_case(baseline, found[half:])
            uneventful.append({'drive': drive.name, 'calibrated_on': half, **row})
            faults += _faults_of(drive, pictures, found, baseline, kept)
    return {
        'severity': SEVERITY,
        'rate_hz': RATE_HZ,
        'faults': faults,
        'uneventful': uneventful,
        'crossed': _crossed(signs),
    }


def _faults_of(
    drive: Drive,
    pictures: Sequence[np.ndarray],
    signs: Sequence[FrameSigns],
    baseline: Baseline,
    kept: SignsOnDisk,
) -> Iterator[Figures]:
    half = len(signs) // 2
    for seed, onset in enumerate(drive.onsets):
        start = half + int(onset * (len(signs) - half))
        end = min(start + _FAULTY_FRAMES, len(signs))

        for fault in (*FAULTS, FROZEN):
            if fault == FROZEN:
                changed = [signs[start - 1]] * (end - start)
            else:
                name = f'{drive.name}-{fault}-{SEVERITY}-{start}-{seed}'
                changed = kept.of(name, partial(_damaged, pictures, fault, range(start, end), seed))
            case = fault_case(baseline, signs[half:start], changed)
            yield {'drive': drive.name, 'fault': fault, 'frame': start, 'seed': seed, **case}


def _damaged(
    pictures: Sequence[np.ndarray], fault: str, places: range, seed: int
) -> Iterator[np.ndarray]:
    return (faulty(pictures[place], fault, SEVERITY, place, seed) for place in places)


def _crossed(signs: dict[str, list[FrameSigns]]) -> list[Figures]:
    """Every drive run over with the calibration of every other one."""
    rows = []
    for one, other in itertools.permutations(signs, 2):
        if not DRIVES[one].onsets:
            continue
        baseline = baseline_of(signs[one])
        row = uneventful_case(baseline, signs[other])
        factor = rate_factor(baseline, signs[other])
        rows.append({'calibrated': one, 'run': other, 'factor': factor, **row})
    return rows


def summary(found: Figures) -> Figures:
    """The figures that the issue asks for, of what `study` found."""
    in_time = [_in_time(row) for row in found['faults']]
    off = [row for row in found['crossed'] if not 1 / OFF <= row['factor'] <= OFF]
    return {
        'fault_cases': len(in_time),
        'told_in_time': sum(in_time),
        'share_in_time': float(np.mean(in_time)),
        'uneventful_drives': len(found['uneventful']),
        'uneventful_raised': sum(row['raised'] > 0 for row in found['uneventful']),
        'crossed_off': len(off),
        'crossed_off_told': sum(row['raised'] > 0 for row in off),
    }


def _in_time(row: Figures) -> bool:
    return row['delay_s'] is not None and row['delay_s'] <= WITHIN_S


def markdown(found: Figures) -> str:
    """The tables of docs/drift.md."""
    total = found['summary']
    lines = [
        f'{total["told_in_time"]} of {total["fault_cases"]} faults told within {WITHIN_S:g} s '
        f'({total["share_in_time"]:.0%}); {total["uneventful_raised"]} of '
        f'{total["uneventful_drives"]} uneventful halves raised an alarm; '
        f'{total["crossed_off_told"]} of {total["crossed_off"]} drives whose rate of alarms is off '
        f'by more than {OFF:g} told.',
        '',
        '| fault, severity 3 | told within 2 s | median delay, s | told by |',
        '|---|---|---|---|',
    ]
    for fault in (*FAULTS, FROZEN):
        rows = [row for row in found['faults'] if row['fault'] == fault]
        delays = [row['delay_s'] for row in rows if _in_time(row)]
        median = f'{np.median(delays):.1f}' if delays else '–'
        names = [name for row in rows for name in row['told_by']]
        told = ', '.join(sorted(set(names), key=lambda name: (-names.count(name), name))[:4])
        lines.append(f'| {fault} | {len(delays)} of {len(rows)} | {median} | {told} |')
    lines += [
        '',
        '| uneventful half | frames learnt | frames run | alarms |',
        '|---|---|---|---|',
        *(
            f'| {row["drive"]} | {row["calibrated_on"]} | {row["frames"]} | {row["raised"]} |'
            for row in found['uneventful']
        ),
        '',
        '| calibrated on | run over | alarms, times the calibrated rate | share of frames told |',
        '|---|---|---|---|',
        *(
            f'| {row["calibrated"]} | {row["run"]} | {row["factor"]:.2g} | {row["share"]:.0%} |'
            for row in found['crossed']
        ),
    ]
    return '\n'.join(lines)


def cost(detector: Detector, picture: np.ndarray, repeats: int = 300) -> Figures:
    """Median time for a frame, ms: of the detector, of the signs, of the monitor."""
    frame, edges = Frame(picture, 'bgr'), score_edges(detector.info)
    (detection,) = detector.detect([frame])
    signs = frame_signs(frame, detection, detector.info, edges)
    noise = np.random.default_rng(0)
    others = [
        frame_signs(
            Frame(noise.integers(0, 255, picture.shape, np.uint8), 'bgr'),
            detection,
            detector.info,
            edges,
        )
        for _ in range(12)
    ]
    monitor = DriftMonitor(baseline_of(others))
    endless = stamped(itertools.cycle(others))
    return {
        'picture': list(picture.shape[:2]),
        'detector_ms': _rounded_ms(lambda: detector.detect([frame]), repeats // 20),
        'signs_ms': _rounded_ms(
            lambda: frame_signs(frame, detection, detector.info, edges), repeats
        ),
        'monitor_ms': _rounded_ms(lambda: monitor.update(*next(endless)), repeats),
        'engine': detector.engine.description,
        'signs_bytes': sum(a.nbytes for a in (signs.cells, signs.edges, signs.scores)),
    }


def _rounded_ms(way: Way, calls: int) -> float:
    return round(median_ms(way, calls), 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        with interruptible(), Detector(drive_config(options.model)) as detector:
            if options.cost:
                picture = DRIVES['drive_dog'].read(options.data)[0]
                print(json.dumps(cost(detector, picture), indent=1))
                return 0
            kept = SignsOnDisk(detector, options.cache)
            found: Figures = {'model': detector.info.name, 'sha256': detector.model.sha256}
            found |= study(options.data, kept, Console(stderr=True))
            found['summary'] = summary(found)
        keep_results(found, markdown(found), _TABLE, options)
    except (CardError, DriveError, EngineError, FolderError, ModelFileError, OSError) as error:
        print(f'training.drift: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('training.drift: interrupted; nothing but the cache was written', file=sys.stderr)
        return 130
    print(markdown(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = drive_parser('drift', __doc__)
    parser.add_argument('--cost', action='store_true', help='measure the time for a frame instead')
    return parser


if __name__ == '__main__':
    sys.exit(main())
