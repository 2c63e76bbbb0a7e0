"""calibrate: how a model scores uneventful drives, as a file that gives its alarms a known rate.

Takes no labels. Nothing out of the ordinary should be seen on the drives; where that is not sure,
--polluted bounds what the frames with something else can do. Several bags are learnt from by a
process each. Exit code: 0 written, 2 wrong usage or input (of several bags: written without those
that failed), 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import CalibrationError, check_target_fpr
from vq_anomaly_ros.detection.calibration_file import CalibrationFile
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFileError, find_model
from vq_anomaly_ros.detection.regions import (
    ALL,
    Region,
    RegionError,
    calibrated_region,
    parse_region,
)
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.bags import BagError
from vq_anomaly_ros.replay.files import OutputError, write_text
from vq_anomaly_ros.replay.fleet import FleetError, Workers, add_fleet_options
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.learnt_drive import (
    DriveLearner,
    LearntDrive,
    calibration_of,
    ego_of_bag,
    frames_of,
)
from vq_anomaly_ros.replay.normal_scores import PIXEL_TARGETS
from vq_anomaly_ros.replay.options import threads
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.replay.topic_choice import ask_for_topic_of

_REASONS_TOLD = 5  # of each drive
EXPECTED_ERRORS = (
    BagError,
    CalibrationError,
    EngineError,
    ModelFileError,
    OutputError,
    RegionError,
)


@dataclass(frozen=True)
class CalibrateConfig:
    """What to calibrate on and how.

    bags: at least one; model: path of the model file; topic: the image topic, None for the only
    one; polluted: see normal_scores.fit; target_fpr: rates a pixel whose realised values are told;
    region: where pixels count; find_ego: whether to look for the vehicle itself, which never
    counts; the others as in DetectorConfig.
    """

    bags: tuple[Path, ...]
    model: Path
    topic: str | None = None
    polluted: float = 0.0
    target_fpr: tuple[float, ...] = PIXEL_TARGETS
    region: Region = ALL
    find_ego: bool = True
    backend: str = 'auto'
    threads: int = 0

    @property
    def frames(self) -> int:
        """How many there are; 0 of bags that cannot be read."""
        try:
            topics = [(bag, bags.choose_topic(bag, self.topic)) for bag in self.bags]
            return sum(bags.image_topics(bag)[topic][1] for bag, topic in topics)
        except BagError:
            return 0


def calibrate(config: CalibrateConfig, console: Console | None = None) -> CalibrationFile:
    """Run a model over drives and sum up what it scores; writes nothing.

    Raises:
        One of EXPECTED_ERRORS.
    """
    with progress_bar(console) as progress:
        task = progress.add_task('calibrating', total=config.frames)
        drives = learn(config, lambda frames: progress.advance(task, frames))
    return calibration_from(drives, config)


def learn(config: CalibrateConfig, tick: Callable[[int], None]) -> list[LearntDrive]:
    """Run a model over drives, in their order; `tick` is called with 1 after each frame.

    Raises:
        One of EXPECTED_ERRORS.
    """
    topics = [(bag, bags.choose_topic(bag, config.topic)) for bag in config.bags]
    with Detector(_detector_config(config)) as detector:
        learner = DriveLearner(detector, config.region)
        return [
            learner.learn(
                _ticking(frames_of(bag, topic), tick),
                bag.name,
                topic,
                bags.image_topics(bag)[topic][1],
                ego_of_bag(bag, topic) if config.find_ego else (),
            )
            for bag, topic in topics
        ]


def _ticking(
    frames: Iterable[tuple[int, Frame | str]], tick: Callable[[int], None]
) -> Iterator[tuple[int, Frame | str]]:
    for one in frames:
        yield one
        tick(1)


def calibration_from(drives: Sequence[LearntDrive], config: CalibrateConfig) -> CalibrationFile:
    """The calibration of what was learnt; says on stderr what is missing from it.

    Raises:
        CalibrationError: the drives are too short, or one frame over and over.
    """
    info = model_file.read(config.model).info
    file, problems = calibration_of(drives, info, config.polluted, config.target_fpr)
    for drive in drives:
        told = drive.left_out[:_REASONS_TOLD]
        if more := len(drive.left_out) - len(told):
            told.append(f'{drive.scores.name}: and {more} more frames')
        problems = told + problems
    for sentence in problems:
        print(f'calibrate: {sentence}', file=sys.stderr)
    return file


def _detector_config(config: CalibrateConfig) -> DetectorConfig:
    return DetectorConfig(
        model=config.model,
        backend=config.backend,
        threads=config.threads,
        output_size='network',
        with_codes=True,
        min_obstacle_area=1.0,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help. Returns the exit code."""
    # It learns of each bag with what is here.
    from vq_anomaly_ros.replay import calibrate_fleet

    options = _parser().parse_args(arguments)
    many = len(options.bag) > 1 or options.ray is not None
    kept = calibrate_fleet.parts_folder(options.out)
    failed: dict[str, str] = {}
    try:
        with interruptible():
            config, console = _config(options), Console(stderr=True)
            if many:
                workers = Workers(options.jobs, options.ray)
                drives, failed = calibrate_fleet.learn_fleet(
                    config, kept, workers, options.fresh, console
                )
                file = calibration_from(drives, config)
            else:
                file = calibrate(config, console)
            write_text(options.out, file.to_json())
    except (*EXPECTED_ERRORS, FleetError) as error:
        print(f'calibrate: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = f'; what was learnt of bags so far is kept in {kept}' if kept.exists() else ''
        print(f'calibrate: interrupted; nothing was written{more}', file=sys.stderr)
        return 130
    if not failed:
        calibrate_fleet.forget(kept)
    _tell(file, options.out)
    for name, why in failed.items():
        print(f'NOT IN IT: {name}: {why}')
    return 2 if failed else 0


def _tell(file: CalibrationFile, out: Path) -> None:
    bag_names = ', '.join(bag.name for bag in file.bags)
    print(f'{file.frames} frames, {file.overall.pixels} pixels of {bag_names}')
    print('rate of false alarms   asked for   raw score above   held out   95 % of such drives')
    for rate in file.realised:
        table = file.overall if rate.per == 'pixel' else file.frame_table
        print(
            f'a {rate.per:<19}  {rate.target:<9.2g}   {table.threshold(rate.target):<15.4f}   '
            f'{rate.rate:<8.2g}   {rate.low:.2g} to {rate.high:.2g}'
        )
    for topic in file.regions or {}:
        region, ego = calibrated_region(file.regions, topic)
        seen = 'seen, does not count' if ego else 'not seen'
        print(f'{topic}  region: {region}; the vehicle itself: {seen}')
    told = 'limits learnt' if file.drift else 'no limits, only frozen frames will be told'
    print(f'drift monitor  {told}')
    print(f'calibration  {out}')


def _config(options: argparse.Namespace) -> CalibrateConfig:
    asked = tuple(check_target_fpr(target) for target in options.target_fpr)
    return CalibrateConfig(
        bags=tuple(options.bag),
        model=find_model(options.model),
        topic=ask_for_topic_of(options.bag, options.topic),
        polluted=options.polluted,
        target_fpr=tuple(sorted({*PIXEL_TARGETS, *asked}, reverse=True)),
        region=parse_region(options.region),
        find_ego=not options.no_ego,
        backend=options.backend,
        threads=options.threads,
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 0.5:
        raise argparse.ArgumentTypeError(f'{text!r} is no share of the frames; give 0 to 0.5')
    return share


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('calibrate', description=__doc__)
    add = parser.add_argument
    add('bag', nargs='+', type=Path, help='bag folders, or single .mcap or .db3 files')
    add('--model', default='street', help='path of a model file or name of a shipped one')
    add('--out', type=Path, required=True, metavar='FILE', help='the calibration, a JSON file')
    add('--topic', help='image topic; may be left out where a bag has one only')
    add(
        '--polluted',
        type=_share,
        default=0.0,
        metavar='SHARE',
        help='of the frames that may hold something out of the ordinary, such as 0.01',
    )
    add(
        '--target-fpr',
        type=float,
        action='append',
        default=[],
        metavar='RATE',
        help='also tell what comes out for this rate a pixel; may be repeated',
    )
    add(
        '--region',
        default='all',
        help="where pixels count: all, road (the ground and what stands on it), or a polygon 'x,y "
        "x,y x,y' in shares of the picture",
    )
    add('--no-ego', action='store_true', help='do not look for the vehicle itself in the pictures')
    add('--backend', default='auto', help='tensorrt, openvino, onnxruntime or auto')
    add('--threads', type=threads, default=0, help='0 leaves it to the runtime')
    add_fleet_options(parser)
    add('--fresh', action='store_true', help='of many bags, learn anew what was learnt already')
    return parser


if __name__ == '__main__':
    # Under its own name, by which other processes find what is here.
    from vq_anomaly_ros.replay import calibrate as command

    sys.exit(command.main())
