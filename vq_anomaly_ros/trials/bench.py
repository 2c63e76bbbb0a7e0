"""bench: what the node and the detector cost over the bare engine, in ratios of one run.

Milliseconds depend on the machine and on what else it does; ratios of ways that took turns can be
compared. For figures worth keeping nothing else should run (about eight minutes on two cores).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.replay.files import staged, write_text
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.processes import ProcessError
from vq_anomaly_ros.replay.sample_drive import render_drive
from vq_anomaly_ros.timing import in_turns
from vq_anomaly_ros.trials import bench_picture
from vq_anomaly_ros.trials.bench_cameras import first_result, under_load
from vq_anomaly_ros.trials.bench_ways import batch_ways, engine_ways, ways_of
from vq_anomaly_ros.trials.machine_kind import machine_kind
from vq_anomaly_ros.trials.peer import TrialError, own_domain
from vq_anomaly_ros.trials.stage import Load, Stage

FILE, PICTURE = 'bench.json', 'bench.svg'
KEPT = Path(__file__).resolve().parents[2] / 'docs' / 'benchmarks'
HD, FULL_HD = (720, 1280), (1080, 1920)
# What is compared with an earlier run, and whether more is better.
RATIOS = {
    'detector_over_engine': False,
    'node_over_detector': False,
    'four_camera_share': True,
    'fairness': True,
    'first_result_s': False,
}
_NOISE = 0.05
# Cameras send this much more than the engine could take.
_OVERLOAD = 1.3
_FASTEST = 120.0  # Hz, of a camera


@dataclass(frozen=True)
class BenchConfig:
    """model and others: names or paths, the first is the node's; rounds of the ways in turns;
    seconds that each number of cameras runs; starts of the node.
    """

    model: str = 'street'
    others: tuple[str, ...] = ('street-small',)
    rounds: int = 8
    seconds: float = 12.0
    starts: int = 5


def measure(config: BenchConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Measure everything and return what bench.json holds; `folder` gets the logs.

    Raises TrialError, ProcessError, EngineError, ValueError.
    """
    machine = machine_kind()
    picture = next(iter(render_drive(0, 1, HD, 10.0))).image[:, :, ::-1]
    with own_domain() as (peer, environment), ExitStack() as stack:
        with console.status('the ways of a frame, in turns'):
            with ways_of(config.model, peer, picture) as ways:
                times = in_turns(ways, config.rounds)
            models = dict.fromkeys([config.model, *config.others])
            engines = in_turns(engine_ways(list(models), stack), config.rounds)
            batches = in_turns(batch_ways(config.model, stack), config.rounds)
            stack.close()
        file = folder / 'picture.png'
        cv2.imwrite(str(file), picture)
        stage = Stage(peer.node.context, environment, folder, file)
        rows = list(_cameras(config, stage, median(times['engine']), console))
        with console.status('starting the node'):
            starts = [
                first_result(stage, config.model, np.ascontiguousarray(picture))
                for _ in range(config.starts)
            ]
    result = _result(machine, config, times, engines, rows, starts)
    return {**result, 'batch': _batch_ratios(batches)}


def _cameras(
    config: BenchConfig, stage: Stage, engine_ms: float, console: Console
) -> Iterator[dict[str, Any]]:
    loads = [
        *(Load(cameras, HD, _rate(engine_ms, cameras)) for cameras in (1, 2, 4, 8)),
        Load(4, HD, _rate(engine_ms, 4), streams=1),
        Load(4, FULL_HD, _rate(engine_ms, 4)),
        Load(4, HD, _rate(engine_ms, 4), 'camera'),
        Load(4, FULL_HD, _rate(engine_ms, 4), 'camera'),
    ]
    with ExitStack() as stack:
        engine = next(iter(batch_ways(config.model, stack).values()))
        for load in loads:
            with console.status(f'{load.cameras} cameras of {load.size[1]}x{load.size[0]}'):
                yield under_load(stage, config.model, load, engine, config.seconds)


def _rate(engine_ms: float, cameras: int) -> float:
    return round(min(_FASTEST, _OVERLOAD * 1e3 / engine_ms / cameras), 2)


def _result(
    machine: dict[str, Any],
    config: BenchConfig,
    times: Mapping[str, list[float]],
    engines: Mapping[str, list[float]],
    rows: list[dict[str, Any]],
    starts: list[float],
) -> dict[str, Any]:
    ms = {name: median(found) for name, found in times.items()}
    four = next(row for row in rows if row['cameras'] == 4 and row['size'] == HD)
    return {
        'detector_over_engine': round(ms['detector network'] / ms['engine'], 3),
        'node_over_detector': round(ms['node network 32FC1'] / ms['detector network'], 3),
        'four_camera_share': four['share_of_engine'],
        'fairness': min(row['fairness'] for row in rows),
        'first_result_s': round(median(starts), 2),
        'machine': machine,
        'model': config.model,
        'ms': {name: round(value, 2) for name, value in ms.items()},
        'engine_ms': {name: round(median(found), 2) for name, found in engines.items()},
        'cameras': rows,
        'starts_s': [round(start, 2) for start in starts],
    }


def _batch_ratios(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Time of a frame in a batch over that of a frame alone, by the batch's size."""
    alone = median(times['1'])
    return {
        batch: round(median(found) / int(batch) / alone, 3)
        for batch, found in times.items()
        if batch != '1'
    }


def kept_one(result: Mapping[str, Any], folder: Path = KEPT) -> dict[str, Any] | None:
    """Return what was kept (bench*.json) of a machine of the same kind: processor and cores."""
    kind = ('cpu', 'cores')
    for path in sorted(folder.glob('bench*.json')):
        kept: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        if all(kept['machine'][name] == result['machine'][name] for name in kind):
            return kept
    return None


def moved(result: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """Say which ratios moved by more than the noise of a quiet machine, 5 %, and which way."""
    sentences = []
    for name, more_is_better in RATIOS.items():
        change = result[name] / kept[name] - 1
        if abs(change) > _NOISE:
            word = 'better' if (change > 0) == more_is_better else 'worse'
            sentences.append(f'{name}: {kept[name]} -> {result[name]} ({change:+.0%}), {word}')
    return sentences


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console()
    config = BenchConfig(
        options.model, tuple(options.others), options.rounds, options.seconds, options.starts
    )
    try:
        with interruptible(), staged(options.out) as folder:
            with tempfile.TemporaryDirectory(prefix='bench.') as logs:
                result = measure(config, Path(logs), console)
            write_text(folder / FILE, json.dumps(result, indent=1) + '\n')
            bench_picture.draw(result, folder / PICTURE)
    except (TrialError, ProcessError, EngineError, ValueError, OSError) as error:
        print(f'bench: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'bench: interrupted; {options.out} is as it was', file=sys.stderr)
        return 130
    _tell(result, kept_one(result), options.out, console)
    return 0


def _tell(
    result: Mapping[str, Any], kept: Mapping[str, Any] | None, out: Path, console: Console
) -> None:
    for name in RATIOS:
        console.print(f'{name:<24}{result[name]}')
    console.print(f'written: {out / FILE}, {out / PICTURE}')
    if result['machine']['load'] > 1:
        console.print(f'other work ran: load {result["machine"]["load"]} before the start')
    if kept is None:
        console.print(f'nothing is kept of a machine of this kind ({KEPT}/bench*.json)')
        return
    for sentence in moved(result, kept) or ['nothing moved by more than 5 %']:
        console.print(f'against {kept["machine"]["date"]}: {sentence}')


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f'{text}: give 1 to 3600 seconds')
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('bench', description=__doc__)
    defaults = BenchConfig()
    add = parser.add_argument
    add('--out', type=Path, default=Path('out/bench'), help='folder of the results')
    add('--model', default=defaults.model, help="the node's: path or name of a shipped one")
    add('--others', nargs='*', default=defaults.others, help='models whose engines are timed, too')
    add('--rounds', type=_count, default=defaults.rounds, help='of the ways that take turns')
    add('--seconds', type=_seconds, default=defaults.seconds, help='that cameras send')
    add('--starts', type=_count, default=defaults.starts, help='of the node, to its first result')
    return parser


if __name__ == '__main__':
    sys.exit(main())
