"""build_engine: make the TensorRT plan of a model ahead of time, and prove it on frames.

The node builds a plan by itself when the first frame of a size comes; that takes minutes, once a
model, frame size, GPU and TensorRT version. This command does it beforehand, for images and CI.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError, gpu_graph
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.engines.plan_cache import PlanCache, PlanError, PlanKey
from vq_anomaly_ros.detection.engines.quantised import quantised
from vq_anomaly_ros.detection.engines.tensorrt import (
    BUILDING,
    TensorRtEngine,
    camera_outputs,
    find_runtime,
    plan_of,
)
from vq_anomaly_ros.detection.engines.verify import verified
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError, find_model
from vq_anomaly_ros.images import Frame, ImageError, as_frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.files import write_bytes
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.progress import progress_bar


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with interruptible():
            return _run(options)
    except (
        EngineError, ImageError, ModelFileError, PlanError, OSError, ValueError,
    ) as error:  # fmt: skip
        print(f'build_engine: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('build_engine: interrupted; no plan was written', file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    model = model_file.read(find_model(options.model))
    outputs = camera_outputs(_outputs(model, options))
    frames = []
    if options.bag is not None:
        frames = frames_of(options.bag, options.topic, options.frames, options.size)
    if options.onnx is not None:
        graph = gpu_graph.derive(model, options.size, options.batch, outputs, options.precision)
        if options.precision == 'int8':
            graph = quantised(graph, frames)
        write_bytes(options.onnx, graph.SerializeToString(deterministic=True))
        print(f'{options.onnx}: the graph for {options.size[1]}x{options.size[0]}')
        return 0
    runtime = find_runtime()
    with _Status() as status:
        gpu = _gpu_options(options, frames, status)
        plan, key = plan_of(model, options.size, outputs, gpu, runtime)
    about = f'{len(plan) / 2**20:.1f} MiB, for {runtime.device.name}, {key.library}'
    print(f'{gpu.folder / key.digest}: {about}')
    if not options.verify:
        return 0
    if not frames:
        raise EngineError('--verify needs frames: give a bag with --bag')
    engine = TensorRtEngine(model, _outputs(model, options), gpu, runtime)
    return _verify(engine, model, PlanCache(gpu.folder), key, frames)


def _outputs(model: ModelFile, options: argparse.Namespace) -> list[str]:
    """Those that the node asks for with the same label_upsampling."""
    labels = ['labels', *(['class_scores'] if options.label_upsampling == 'bilinear' else [])]
    return ['score', *(labels if model.info.classes else [])]


def _gpu_options(
    options: argparse.Namespace, frames: list[np.ndarray], status: _Status
) -> GpuOptions:
    return GpuOptions(
        precision=options.precision,
        batch=options.batch,
        workspace_mb=options.workspace,
        report=status.say,
        progress=status.progress,
        quantise=(lambda graph: quantised(graph, frames)) if frames else None,
    )


def _verify(
    engine: TensorRtEngine,
    model: ModelFile,
    cache: PlanCache,
    key: PlanKey,
    frames: list[np.ndarray],
) -> int:
    """Compare with the CPU and keep the report beside the plan; 1 where the limits do not hold."""
    try:
        report = verified(engine, model, frames)
    finally:
        engine.close()
    cache.note(key, {'verified': report})
    print(json.dumps(report, indent=1))
    return 0 if report['passed'] else 1


def frames_of(bag: Path, topic: str | None, most: int, size: tuple[int, int]) -> list[np.ndarray]:
    """At most so many frames of a bag, evenly chosen: uint8 [H, W, 3] RGB of `size` (H, W).

    Raises BagError, ImageError.
    """
    topic = bags.choose_topic(bag, topic)
    _, count = bags.image_topics(bag)[topic]
    step = max(1, count // most)
    images = itertools.islice(bags.read_images(bag, topic), 0, None, step)
    return [_rgb(as_frame(image), size) for _, _, image in images][:most]


def _rgb(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    pixels = frame.rgb()
    if frame.size != size:
        pixels = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(pixels)


class _Status:
    """What the build says: a progress bar on a terminal, a line each elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = progress_bar(self._console)
        self._task = self._bar.add_task('preparing the graph', total=None)

    def __enter__(self) -> _Status:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def progress(self, phase: str, done: float) -> None:
        """Draw how far the phase of a build is, 0..1."""
        self._bar.update(self._task, description=phase, total=100, completed=round(100 * done))

    def say(self, line: str) -> None:
        """Tell a line; above the bar it would only repeat how far the build is."""
        if not (self._console.is_terminal and line.startswith(BUILDING)):
            self._console.print(line, highlight=False)


def frame_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH as an argument of a command: (H, W)."""
    found = re.fullmatch(r'(\d{2,5})x(\d{2,5})', text)
    if found is None:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write HEIGHTxWIDTH, as 720x1280')
    return int(found[1]), int(found[2])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of 1 or more')
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('build_engine', description=__doc__)
    add = parser.add_argument
    add('--model', default='street', help='path of a model file or name of a shipped one')
    add('--size', type=frame_size, required=True, metavar='HxW', help="the camera's, as 720x1280")
    add('--batch', type=_positive, default=1, metavar='N', help='frames that run together')
    add('--precision', choices=('fp32', 'fp16', 'int8'), default='fp16')
    add('--label-upsampling', choices=('nearest', 'bilinear'), default='nearest', help="the node's")
    add('--workspace', type=_positive, default=512, metavar='MB', help='memory a layer may use')
    add('--bag', type=Path, help='frames for int8 and for --verify')
    add('--topic', help='image topic; may be left out where a bag has one only')
    add('--frames', type=_positive, default=50, metavar='N', help='of the bag, evenly chosen')
    add('--verify', action='store_true', help='compare with the CPU on the frames of the bag')
    add('--onnx', type=Path, metavar='FILE', help='write the graph instead; needs no TensorRT')
    return parser


if __name__ == '__main__':
    sys.exit(main())
