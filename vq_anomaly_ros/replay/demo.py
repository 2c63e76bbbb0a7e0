"""demo: sample drive -> player -> the real node -> recorder -> report, without ROS and data.

Node, player and recorder are processes of their own that meet over DDS, as they would on a vehicle;
this process only starts and ends them and reports what was recorded.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.dds_profile import profile_setting
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.outputs import anomaly_topics
from vq_anomaly_ros.replay import bags, report
from vq_anomaly_ros.replay.evaluate_bag import EXPECTED_ERRORS
from vq_anomaly_ros.replay.files import staged
from vq_anomaly_ros.replay.interruption import interruptible, raise_if_interrupted
from vq_anomaly_ros.replay.labels import LabelFolder
from vq_anomaly_ros.replay.processes import Child, ProcessError, start_child, wait_until
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.replay.recorded import DIAGNOSTICS, node_figures, recorded_results
from vq_anomaly_ros.replay.sample_drive import render_drive
from vq_anomaly_ros.replay.sample_drive.main import write_drive

DRIVE = 'drive'
OUTPUT = 'output'
LOGS = 'logs'
CAMERA = '/front'
TOPIC = f'{CAMERA}/image_raw'
_TARGET_FPR = 1e-3
# After the last frame was sent: two frames at most are still on their way through the node.
_DRAIN_S = 3.0
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DemoConfig:
    """What to show: out, folder of the results; model, name or path; frames, size (h, w), rate in
    Hz and seed of the sample drive.
    """

    out: Path
    model: str = 'street'
    frames: int = 100
    size: tuple[int, int] = (540, 960)
    rate: float = 10.0
    seed: int = 0


class DemoError(RuntimeError):
    """The demo cannot run; the message says what is missing and what to do."""


def demonstrate(config: DemoConfig, console: Console) -> dict[str, Any]:
    """Run the demo and return the summary.

    All results replace those of an earlier run once they are complete; on any error, and after
    Ctrl-C, nothing is changed and no process is left.

    Raises:
        DemoError, ProcessError, or one of EXPECTED_ERRORS.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise DemoError(
            'rclpy is not importable; source a ROS 2 (source /opt/ros/jazzy/setup.bash) or install '
            'its wheels: pip install -r requirements/ros-wheels.txt'
        )
    model = model_file.read(model_file.find_model(config.model))
    if model.info.calibration is None:
        raise ModelFileError(f'{model.path}: has no calibration; export it again')
    for name in (DRIVE, OUTPUT):
        bags.check_replaceable(config.out / name)
    with staged(config.out) as folder:
        (folder / LOGS).mkdir()
        with _timed(console, 'draw the sample drive'):
            _draw(config, folder, console)
        _replay(config, model, folder, console)
        with _timed(console, 'write the report'):
            return _report(model, folder, console)


@contextmanager
def _timed(console: Console, name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    raise_if_interrupted()
    console.print(f'{name:<32}{time.monotonic() - start:7.1f} s')


@contextmanager
def _step(console: Console, name: str) -> Iterator[None]:
    with _timed(console, name), console.status(name):
        yield


def _draw(config: DemoConfig, folder: Path, console: Console) -> None:
    try:
        frames = render_drive(config.seed, config.frames, config.size, config.rate)
        write_drive(folder / DRIVE, frames, TOPIC, console, config.frames)
    except ValueError as error:
        raise DemoError(str(error)) from error


def _replay(config: DemoConfig, model: ModelFile, folder: Path, console: Console) -> None:
    """Play the drive to the node and record what comes back."""
    environment = child_environment()
    results = _result_topics(model)

    def start(module: str, arguments: list[str]) -> Child:
        name = f'vq_anomaly_ros.node.{module}'
        log = folder / LOGS / f'{module}.txt'
        return start_child(stack, name, arguments, environment, log)

    with ExitStack() as stack:
        with _step(console, 'start node and recorder'):
            node = start('detector_node', _node_arguments(model))
            recorder = start('recorder', [str(folder / OUTPUT), '--topics', *results, DIAGNOSTICS])
            # Not one result may come before the recorder listens.
            wait_until(
                lambda: all(recorder.said(f'recording {topic} ') for topic in results),
                (node, recorder),
                'that node and recorder find each other',
            )
        with _step(console, 'play the drive'):
            player = start('player', [str(folder / DRIVE), '--wait-for-subscribers', '1'])
            player.wait(120.0 + 3 * config.frames / config.rate, (node, recorder))
            time.sleep(_DRAIN_S)
        with _step(console, 'end node and recorder'):
            recorder.finish()
            node.finish()


def _result_topics(model: ModelFile) -> list[str]:
    names = ['score', 'mask', 'obstacles_json', 'events', 'label_info_json']
    names += ['semantic_mask'] if model.info.classes else []
    return [f'{anomaly_topics(TOPIC)}/{name}' for name in names]


def _node_arguments(model: ModelFile) -> list[str]:
    parameters = {
        'model': model.path.resolve(),
        'cameras': f'[{CAMERA}]',
        'output_size': 'network',
        'target_fpr': _TARGET_FPR,
    }
    return ['--ros-args', *(w for n, v in parameters.items() for w in ('-p', f'{n}:={v}'))]


def child_environment() -> dict[str, str]:
    """Return the environment of the processes: a domain of their own, this host, large images."""
    environment = dict(os.environ)
    environment['ROS_DOMAIN_ID'] = str(unused_domain())
    environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    environment['PYTHONUNBUFFERED'] = '1'
    paths = [str(_PACKAGE.parent), environment.get('PYTHONPATH', '')]
    environment['PYTHONPATH'] = os.pathsep.join(path for path in paths if path)
    return environment | profile_setting(environment)


def unused_domain() -> int:
    """Return a domain, 1 to 100, in which nobody of this host takes part at the moment.

    The first participant of a domain is known by its UDP port: 7410 + 250 domain (DDSI-RTPS 2.5,
    9.6.2.3). Where all are used, any.
    """
    domains = list(range(1, 101))
    secrets.SystemRandom().shuffle(domains)
    return next((one for one in domains if _is_free(7410 + 250 * one)), domains[0])


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True


def _report(model: ModelFile, folder: Path, console: Console) -> dict[str, Any]:
    drive, output = folder / DRIVE, folder / OUTPUT
    if not output.exists():
        raise DemoError('not one message was recorded; see whether the node logs an error')
    labels = LabelFolder(drive / 'labels')
    figures = node_figures(output, CAMERA)
    run = report.Run(
        title='Sample drive through the node',
        sources=('sample drive',),
        made_by='The sample drive was played to the node over DDS; this is what a recorder '
        'received of its answers. Its figures do not compare with a benchmark of real pictures: '
        'scene and objects are drawn, many of these are tiny, and only answered frames are judged.',
        model=model,
        calibration=Calibration.from_dict(model.info.calibration or {}),
        target_fpr=_TARGET_FPR,
        engine=figures.engine or 'not told by the node',
        rate=bags.frame_rate(drive, TOPIC),
        latency='in the node, from the arrival of an image to its results, over the last 10 s',
        judged_score='calibrated',
        labelled=True,
        settings={'topic': TOPIC, 'output_size': 'network', 'transport': 'raw, between processes'},
        counts=figures.counts,
        latency_ms=figures.latency_ms,
    )
    results = recorded_results(drive, output, TOPIC, labels)
    total = bags.image_topics(drive)[TOPIC][1]
    with progress_bar(console) as progress:
        shown = progress.track(results, total=total, description='reporting')
        return report.write_report(shown, folder, run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    config = DemoConfig(**vars(options))
    console = Console()
    try:
        with interruptible():
            summary = demonstrate(config, console)
    except (DemoError, ProcessError, *EXPECTED_ERRORS) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            'demo: interrupted; all processes have ended, results of an earlier run are as they '
            'were',
            file=sys.stderr,
        )
        return 130
    _tell(summary, config.out, console)
    return 0


def _tell(summary: dict[str, Any], out: Path, console: Console) -> None:
    metrics, latency = summary['metrics'], summary['latency_ms']
    answered = summary['frames'] - summary['frames_dropped']
    rows = {
        'frames': f'{summary["frames"]} sent, {answered} answered, '
        f'{summary["counts"].get("superseded", summary["frames_dropped"])} superseded by newer',
        'latency': f'{_text(latency["p50"], ".0f")} ms p50, {_text(latency["p99"], ".0f")} ms p99',
        'unknown objects': f'AP {_text(metrics["ap"], ".1%")}, FPR95 '
        f'{_text(metrics["fpr95"], ".1%")}, AUROC {_text(metrics["auroc"], ".1%")}',
        'classes': f'mIoU {_text(metrics["miou"], ".1%")}',
        'report': str(out / report.REPORT),
        'video': str(out / report.VIDEO),
        'bag': str(out / OUTPUT),
    }
    console.print()
    for name, value in rows.items():  # no table: it would shorten a long path
        console.print(f'{name:<15}  {value}', soft_wrap=True, markup=False)


def _text(value: float | None, form: str) -> str:
    return '–' if value is None else format(value, form)


def _size(text: str) -> tuple[int, int]:
    height, separator, width = text.partition('x')
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write HxW, such as 540x960')
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('demo', description=__doc__)
    add = parser.add_argument
    defaults = DemoConfig(Path('out/demo'))
    add('--out', type=Path, default=defaults.out, help='folder of the results')
    add('--model', default=defaults.model, help='path of a model file or name of a shipped one')
    add('--frames', type=int, default=defaults.frames, help='of the sample drive')
    add('--size', type=_size, default=defaults.size, help='of its frames, HxW')
    add('--rate', type=float, default=defaults.rate, help='of its frames, Hz')
    add('--seed', type=int, default=defaults.seed, help='of its street and objects')
    return parser


if __name__ == '__main__':
    sys.exit(main())
