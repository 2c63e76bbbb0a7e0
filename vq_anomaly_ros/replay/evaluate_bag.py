"""evaluate_bag: every frame of a bag through the detector; report, numbers, video and a bag out.

Frames are read in order by this process, not replayed: the same bag gives the same bits again. Of
several bags, each is evaluated by a process of its own into OUT/bags; the report is over all.
Exit code: 0 good, 1 a --fail-if condition is met, 2 wrong usage or input (of several bags: those
that can be are evaluated), 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.detection.atlas import AtlasError, atlas_for
from vq_anomaly_ros.detection.calibration import CalibrationError
from vq_anomaly_ros.detection.detector import Detection, Detector, DetectorConfig, OutputSize
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.events import Event, camera_watch
from vq_anomaly_ros.detection.explanation import Explainer
from vq_anomaly_ros.detection.model_file import ModelFileError, ModelInfo, find_model
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.detection.regions import CALIBRATED, Region, RegionError, asked_region
from vq_anomaly_ros.detection.scene import Scene, SceneConfig, scene_of
from vq_anomaly_ros.images import Frame, ImageError, as_frame, compressed_fields
from vq_anomaly_ros.outputs import (
    anomaly_topics,
    detection_images,
    event_message,
    label_info,
    obstacles_message,
)
from vq_anomaly_ros.replay import bags, report
from vq_anomaly_ros.replay.bags import (
    BagError,
    BagVersion,
    BagWriter,
    Storage,
    add_bag_options,
)
from vq_anomaly_ros.replay.comparison import ComparisonError, read_summary
from vq_anomaly_ros.replay.conditions import Condition, ConditionError, parse
from vq_anomaly_ros.replay.files import OutputError, staged
from vq_anomaly_ros.replay.fleet import FleetError, Workers, add_fleet_options
from vq_anomaly_ros.replay.frame_results import DriveStatistics, DroppedFrame, FrameResult
from vq_anomaly_ros.replay.frame_series import FramesError
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.labels import LabelError, LabelFolder
from vq_anomaly_ros.replay.options import growth, persistence, smoothing, threads
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.replay.rerun_recording import RerunError, RerunRecording
from vq_anomaly_ros.replay.topic_choice import ask_for_topic_of
from vq_anomaly_ros.replay.video import VideoError

OUTPUT = 'output'
# As the node's parameters.
DEFAULT_SCENE = SceneConfig(persistence=6, obstacle_growth=3.0)
# What a person can mend: told in one sentence, without a traceback.
EXPECTED_ERRORS = (
    AtlasError,
    BagError,
    CalibrationError,
    ComparisonError,
    ConditionError,
    EngineError,
    LabelError,
    ModelFileError,
    OutputError,
    RegionError,
    RerunError,
    VideoError,
)


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate and how.

    bags: at least one; topic: the image topic, None for the only one; out: folder of the results;
    labels: folder of labels, see labels.LabelFolder; conditions: see conditions; storage,
    bag_version: of the bag that is written; rerun: file of a recording for the rerun viewer, None
    for none; atlas: of the model, '' for the one beside it; compare: summary of another run, or its
    folder; region: where alarms count, None for the calibration's; scene: the rest of what is made
    of a camera's scores, as the node's parameters have it; keep_record: see report.Run; the
    others as in DetectorConfig.
    """

    bags: tuple[Path, ...]
    out: Path
    model: Path
    topic: str | None = None
    labels: Path | None = None
    backend: str = 'auto'
    output_size: OutputSize = 'camera'
    target_fpr: float = 1e-3
    threads: int = 0
    video: bool = True
    conditions: tuple[Condition, ...] = ()
    storage: Storage = 'mcap'
    bag_version: BagVersion = 9
    rerun: Path | None = None
    calibration: Path | None = None
    atlas: str = ''
    compare: Path | None = None
    by_class: bool = False
    region: Region | None = None
    scene: SceneConfig = DEFAULT_SCENE
    keep_record: bool = False


def evaluate(
    config: EvaluationConfig,
    console: Console | None = None,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate bags and write report.html, summary.json, overlay.webm and the bag output/.

    All four replace those of an earlier run once they are complete; on any error nothing changes.
    tick: called with 1 after each frame.

    Returns:
        The summary; its 'failed' lists the conditions that are met.

    Raises:
        One of EXPECTED_ERRORS.
    """
    if config.compare is not None:
        read_summary(config.compare)  # before the whole drive, not after
    topics = {bag: bags.choose_topic(bag, config.topic) for bag in config.bags}
    labels = LabelFolder(config.labels) if config.labels else None
    bags.check_replaceable(config.out / OUTPUT)
    with Detector(_detector_config(config)) as detector, staged(config.out) as folder:
        _check_conditions(config, detector)
        explainer = _explainer(config, detector)
        with ExitStack() as stack:
            writer = BagWriter(folder / OUTPUT, config.storage, version=config.bag_version)
            output = stack.enter_context(writer)
            found = _shown(_detections(config, topics, detector, labels, output), topics, console)
            if tick is not None:
                found = _ticking(found, tick)
            if config.rerun is not None:
                recording = stack.enter_context(RerunRecording(config.rerun, detector.info))
                found = recording.recorded(found)
            return report.write_report(found, folder, _run(config, topics, detector, explainer))


def _detector_config(config: EvaluationConfig) -> DetectorConfig:
    return DetectorConfig(
        model=config.model,
        backend=config.backend,
        output_size=config.output_size,
        target_fpr=config.target_fpr,
        threads=config.threads,
        calibration=config.calibration,
        by_class=config.by_class,
    )


def _check_conditions(config: EvaluationConfig, detector: Detector) -> None:
    """Find a misspelt name now, not after the whole drive: a summary of nothing has all names."""
    labelled = config.labels is not None
    statistics = DriveStatistics(detector.info.classes, labelled=labelled)
    empty = report.summarise(statistics, _run(config, {}, detector))
    for condition in config.conditions:
        condition.check_name(empty)


def _explainer(config: EvaluationConfig, detector: Detector) -> Explainer:
    """What explains the pictures of the gallery; raises AtlasError."""
    return Explainer(
        detector.model,
        detector.calibration,
        detector.calibration_file,
        atlas_for(detector.model, config.atlas),
        config.threads,
    )


def _run(
    config: EvaluationConfig,
    topics: dict[Path, str],
    detector: Detector,
    explainer: Explainer | None = None,
) -> report.Run:
    names = tuple(bag.name for bag in config.bags)
    return report.Run(
        title=f'Anomalies in {", ".join(names)}',
        sources=names,
        made_by='Every frame of the bag was read in order and evaluated in one process.',
        model=detector.model,
        calibration=detector.calibration,
        target_fpr=config.target_fpr,
        engine=detector.engine.description,
        rate=bags.frame_rate(*next(iter(topics.items()))) if topics else 1.0,
        latency='of the detector, from frame to labels, score and mask',
        labelled=config.labels is not None,
        video=config.video,
        settings=settings_of(config, topics.values()),
        conditions=config.conditions,
        calibration_file=detector.calibration_file,
        explainer=explainer,
        compare=config.compare,
        keep_record=config.keep_record,
    )


def settings_of(config: EvaluationConfig, topics: Iterable[str]) -> dict[str, Any]:
    """What a person would have to repeat, {name: value}; topics: of the images."""
    settings = {
        'bags': ', '.join(bag.name for bag in config.bags),
        'topics': ', '.join(dict.fromkeys(topics)),
        'backend': config.backend,
        'output_size': config.output_size,
        'threads': config.threads,
        'labels': config.labels.name if config.labels else None,
        'calibration': config.calibration.name if config.calibration else None,
        'by_class': config.by_class or None,
        'region': str(config.region) if config.region else CALIBRATED,
        'smoothing': config.scene.smoothing or None,
        'persistence': config.scene.persistence,
        'obstacle_growth': config.scene.obstacle_growth,
    }
    return {name: value for name, value in settings.items() if value not in (None, '')}


def _detections(
    config: EvaluationConfig,
    topics: dict[Path, str],
    detector: Detector,
    labels: LabelFolder | None,
    output: BagWriter,
) -> Iterator[FrameResult | DroppedFrame]:
    """Run the detector over the bags, writing what the node would publish as it goes.

    Raises:
        BagError: not one frame could be evaluated.
        LabelError: labels were given and not one belongs to a frame.
    """
    warm = False
    judged = 0
    for bag, topic in topics.items():
        file = detector.calibration_file
        watch = camera_watch(detector.info, file, topic)
        scene = scene_of(config.scene, config.region, detector.info, file, topic)
        for stamp_ns, _, message in bags.read_images(bag, topic):
            try:
                frame = as_frame(message)
            except ImageError as error:
                yield DroppedFrame(stamp_ns, bag.name, topic, str(error))
                continue
            if not warm:
                _announce(detector, topics, stamp_ns, output)
                # The first run allocates: not a latency that the second frame would see.
                detector.detect([frame])
                warm = True
            detection, latency_ms = _timed(detector, frame, scene)
            frame_id = message.header.frame_id
            write_detection(output, topic, stamp_ns, frame_id, detection, detector.info)
            _write_overlay(output, topic, stamp_ns, frame_id, frame, detection, detector.info)
            events = watch.see(stamp_ns, frame, detection)
            for event in events:
                _write_event(output, topic, frame_id, event, frame, detection, detector.info)
            truth = labels.of(bag, stamp_ns) if labels is not None else None
            judged += truth is not None
            yield FrameResult(
                stamp_ns,
                bag.name,
                topic,
                frame,
                detection,
                latency_ms,
                truth,
                watch.drift,
                tuple(events),
            )
    if not warm:
        raise BagError(
            f'{", ".join(map(str, topics))}: no frame of {", ".join(topics.values())} can be '
            'evaluated; check the encoding of its images'
        )
    if labels is not None and not judged:
        raise LabelError(
            f'{labels.folder}: no label belongs to a frame of {", ".join(map(str, topics))}; name '
            'them <stamp in ns>.png, or by the stems of the frames.json of images_to_bag'
        )


def _timed(detector: Detector, frame: Frame, scene: Scene) -> tuple[Detection, float]:
    start = time.perf_counter()
    (detection,) = detector.detect([frame], [scene])
    return detection, 1e3 * (time.perf_counter() - start)


def _announce(
    detector: Detector, topics: dict[Path, str], stamp_ns: int, output: BagWriter
) -> None:
    text = label_info(detector.info, detector.calibration, detector.target_fpr)
    for topic in dict.fromkeys(topics.values()):
        name = f'{anomaly_topics(topic)}/label_info_json'
        output.write_string(name, stamp_ns, text, latched=True)


def write_detection(
    output: BagWriter,
    topic: str,
    stamp_ns: int,
    frame_id: str,
    detection: Detection,
    info: ModelInfo,
) -> None:
    """Write what the node would publish for a frame of the image topic `topic`."""
    for suffix, (pixels, encoding) in detection_images(detection).items():
        name = f'{anomaly_topics(topic)}/{suffix}'
        output.write_image(name, stamp_ns, pixels, encoding, frame_id)
    told = json.dumps(obstacles_message(detection, info, stamp_ns, frame_id), sort_keys=True)
    output.write_string(f'{anomaly_topics(topic)}/obstacles_json', stamp_ns, told)


def _write_overlay(
    output: BagWriter,
    topic: str,
    stamp_ns: int,
    frame_id: str,
    frame: Frame,
    detection: Detection,
    info: ModelInfo,
) -> None:
    """Write the picture for people as the node publishes it for viewers far away: as a JPEG."""
    jpeg = compressed_fields(overlay(frame, detection, info), 'jpeg')
    name = f'{anomaly_topics(topic)}/overlay/compressed'
    output.write_compressed(name, stamp_ns, jpeg['data'], jpeg['format'], frame_id)


def _write_event(
    output: BagWriter,
    topic: str,
    frame_id: str,
    event: Event,
    frame: Frame,
    detection: Detection,
    info: ModelInfo,
) -> None:
    """Write what the node would publish of an event: its words and its picture."""
    namespace = anomaly_topics(topic)
    told = json.dumps(event_message(event, frame_id), sort_keys=True)
    output.write_string(f'{namespace}/events', event.stamp_ns, told)
    picture = overlay(frame, detection, info)
    output.write_image(f'{namespace}/event_image', event.stamp_ns, picture, 'bgr8', frame_id)


def _shown(
    found: Iterable[FrameResult | DroppedFrame], topics: dict[Path, str], console: Console | None
) -> Iterator[FrameResult | DroppedFrame]:
    """Pass results on under a progress bar."""
    total = sum(bags.image_topics(bag)[topic][1] for bag, topic in topics.items())
    with progress_bar(console) as progress:
        yield from progress.track(found, total=total, description='evaluating')


def _ticking(
    found: Iterable[FrameResult | DroppedFrame], tick: Callable[[int], None]
) -> Iterator[FrameResult | DroppedFrame]:
    for one in found:
        yield one
        tick(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command evaluate_bag; see --help. Returns the exit code."""
    # It evaluates each bag with what is here.
    from vq_anomaly_ros.replay import evaluate_fleet

    console = Console(stderr=True)
    options = _parser().parse_args(arguments)
    many = len(options.bag) > 1 or options.ray is not None
    try:
        with interruptible():
            config = _config(options)
            topic = ask_for_topic_of(config.bags, config.topic)
            config = dataclasses.replace(config, topic=topic)
            if many:
                workers = Workers(options.jobs, options.ray)
                summary = evaluate_fleet.evaluate_fleet(config, workers, options.fresh, console)
            else:
                summary = evaluate(config, console)
    except (*EXPECTED_ERRORS, FleetError, FramesError) as error:
        print(f'evaluate_bag: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = (
            'bags that were finished are kept and not evaluated again'
            if many
            else ('nothing was written, results of an earlier run are as they were')
        )
        print(f'evaluate_bag: interrupted; {kept}', file=sys.stderr)
        return 130
    _tell(summary, config, many)
    return 2 if summary.get('failed_bags') else 1 if summary['failed'] else 0


def _tell(summary: dict[str, Any], config: EvaluationConfig, many: bool) -> None:
    answered = summary['frames'] - summary['frames_dropped']
    print(f'{answered} of {summary["frames"]} frames, {summary["anomaly_fraction"]:.3%} anomalous')
    if config.labels is not None:
        names = ('ap', 'fpr95', 'auroc', 'miou')
        known = {n: summary['metrics'][n] for n in names if summary['metrics'][n] is not None}
        print(', '.join(f'{name} {value:.4f}' for name, value in known.items()))
    for condition in summary['failed']:
        print(f'FAILED: {condition}')
    for bag in summary.get('failed_bags', ()):
        print(f'NOT EVALUATED: {bag["name"]}: {bag["error"]}')
    print(f'report  {config.out / report.REPORT}')
    if many:
        print(f'bags    {config.out / "bags"}')
        return
    if config.video:
        print(f'video   {config.out / report.VIDEO}')
    print(f'bag     {config.out / OUTPUT}')
    if config.rerun is not None:
        print(f'rerun   {config.rerun}')


def _config(options: argparse.Namespace) -> EvaluationConfig:
    return EvaluationConfig(
        bags=tuple(options.bag),
        out=options.out,
        model=find_model(options.model),
        topic=options.topic,
        labels=options.labels,
        backend=options.backend,
        output_size=options.output_size,
        target_fpr=options.target_fpr,
        threads=options.threads,
        video=not options.no_video,
        conditions=tuple(parse(text) for text in options.fail_if),
        storage=options.storage,
        bag_version=options.bag_version,
        rerun=options.rerun,
        calibration=options.calibration,
        atlas=options.atlas,
        compare=options.compare,
        by_class=options.by_class,
        region=asked_region(options.region),
        scene=SceneConfig(
            smoothing=options.smoothing,
            persistence=options.persistence,
            obstacle_growth=options.obstacle_growth,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('evaluate_bag', description=__doc__)
    add = parser.add_argument
    add('bag', nargs='+', type=Path, help='bag folders, or single .mcap or .db3 files')
    add('--model', default='street', help='path of a model file or name of a shipped one')
    add('--out', type=Path, required=True, help='folder of the results')
    add('--topic', help='image topic; may be left out where a bag has one only')
    add('--labels', type=Path, help='folder with <stem>.png and semantic/<stem>.png')
    add('--backend', default='auto', help='tensorrt, openvino, onnxruntime or auto')
    add('--output-size', choices=('network', 'camera'), default='camera', help='of the images out')
    add('--target-fpr', type=float, default=1e-3, help='share of normal pixels in the mask')
    add('--calibration', type=Path, help="file of `calibrate`; without one, the model's own table")
    add('--atlas', default='', help='of training.atlas: what the codevectors stand for')
    add('--compare', type=Path, metavar='RUN', help='summary.json of another run, or its folder')
    add(
        '--by-class',
        action='store_true',
        help='compare pixels with those of their own class on the calibration drive only',
    )
    add(
        '--region',
        default=CALIBRATED,
        help="where alarms count: all, road, a polygon 'x,y x,y x,y' in shares of the picture, or "
        'calibrated: where the calibration was made',
    )
    add('--smoothing', type=smoothing, default=0.0, help='weight of the earlier frames, 0 to 0.95')
    add(
        '--persistence',
        type=persistence,
        default=DEFAULT_SCENE.persistence,
        help='frames in which an obstacle was seen before it is told',
    )
    add(
        '--obstacle-growth',
        type=growth,
        default=DEFAULT_SCENE.obstacle_growth,
        help='how the least size of obstacles grows towards the camera',
    )
    add('--threads', type=threads, default=0, help='0 leaves it to the runtime')
    add_fleet_options(parser)
    add('--fresh', action='store_true', help='of many bags, evaluate also what is done already')
    add_bag_options(parser)
    add('--rerun', type=Path, metavar='OUT.rrd', help='also write a recording for the rerun viewer')
    add('--no-video', action='store_true', help='write no overlay.webm')
    add(
        '--fail-if',
        action='append',
        default=[],
        metavar='CONDITION',
        help="exit code 1 if met, such as 'anomaly_fraction>0.01'; may be repeated",
    )
    return parser


if __name__ == '__main__':
    # Under its own name, by which other processes find what is here.
    from vq_anomaly_ros.replay import evaluate_bag as command

    sys.exit(command.main())
