"""Does a model say on the GPU what it says on a CPU? In fp32, fp16 and int8, on real frames.

`python -m training.gpu_parity --model street --data DATA --json docs/benchmarks/gpu_parity.json`

FRAMES pictures of DATA (RoadAnomaly21, Fishyscapes Static, CamVid test), stretched to the size of a
camera, go through the GPU graph of the model and are compared with the model on a CPU, as
`build_engine --verify` does it: the difference of the score as a share of its range, the share of
labels that agree, and how AP changes on the two anomaly sets. The int8 graph is calibrated on
frames of CamVid train, which are not among them.

TensorRT does it where there is one with a GPU. Elsewhere ONNX Runtime runs the very graphs: int8
as written; of fp16 it would compute in fp32, so every operation of the half-precision part is
followed by a rounding to fp16 (`rounded`), its sums staying fp32, as tensor cores have them. The
rows say which of the two it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from rich.console import Console

from training.card import CardError
from training.data.folders import (
    AnomalyFolder,
    FolderError,
    load_anomaly_labels,
    load_image,
    load_picture,
    read_anomaly_folder,
    read_segmentation_folder,
)
from training.exporting import Image, commit, stretched
from training.predictor import size_of, upsample
from training.studies import add_result_options, keep_results
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import Engine, EngineError, gpu_graph, open_cpu_engine
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions, Precision
from vq_anomaly_ros.detection.engines.quantised import quantised
from vq_anomaly_ros.detection.engines.tensorrt import Runtime, TensorRtEngine, find_runtime
from vq_anomaly_ros.detection.engines.verify import LABEL_LIMIT, SCORE_LIMIT, verified
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError, find_model
from vq_anomaly_ros.metrics import PixelScores
from vq_anomaly_ros.replay.build_engine import frame_size
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.progress import progress_bar

SETS = {'RoadAnomaly21': 'road_anomaly21', 'Fishyscapes Static': 'fs_static'}
FRAMES = 50
CALIBRATION_FRAMES = 32
AP_LIMITS = {'fp32': 0.003, 'fp16': 0.003, 'int8': 0.01}  # of 1
_TABLE = 'gpu_parity'
_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT

Row = dict[str, Any]
Scores = Callable[[Image], np.ndarray]


@dataclass(frozen=True)
class Frames:
    """What is compared on, all uint8 RGB of one size.

    labelled: of each anomaly set (frame, labels uint8 [H, W] at the size of its own picture);
    others: frames without labels of anomalies; calibration: those of int8.
    """

    labelled: dict[str, list[tuple[Image, Image]]]
    others: list[Image]
    calibration: list[Image]

    @property
    def every(self) -> list[Image]:
        """All frames that are compared."""
        return [frame for pairs in self.labelled.values() for frame, _ in pairs] + self.others


def rounded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with fp16 parts as one that computes them in fp32 and rounds each result to fp16."""
    kinds = _half_values(graph)
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    nodes: list[onnx.NodeProto] = []
    raised: dict[str, str] = {}
    for node in graph.graph.node:
        if node.op_type == 'Cast' or not any(name in kinds for name in node.output):
            nodes.append(node)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name not in kinds:
                continue
            if name not in raised:
                raised[name] = f'{name}_raised'
                nodes.append(helper.make_node('Cast', [name], [raised[name]], to=_FLOAT))
            copy.input[place] = raised[name]
        for place, name in enumerate(node.output):
            copy.output[place] = f'{name}_exact'
        nodes.append(copy)
        nodes += [helper.make_node('Cast', [f'{n}_exact'], [n], to=_HALF) for n in node.output]
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def _half_values(graph: onnx.ModelProto) -> set[str]:
    known = onnx.shape_inference.infer_shapes(graph).graph
    values = [*known.input, *known.value_info, *known.output]
    found = {value.name for value in values if value.type.tensor_type.elem_type == _HALF}
    return found | {tensor.name for tensor in known.initializer if tensor.data_type == _HALF}


class GraphOnCpu:
    """The GPU graph of a model on ONNX Runtime; an engine that `takes_frames` of one size."""

    name = 'graph'
    takes_frames = True

    def __init__(
        self,
        model: ModelFile,
        size: tuple[int, int],
        precision: Precision,
        calibration: Sequence[Image] = (),
    ) -> None:
        """size: (H, W) of the frames; calibration: frames for int8. Raises EngineError."""
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                'without TensorRT the graphs run on ONNX Runtime: `pip install onnxruntime`'
            ) from error
        self._outputs = _outputs(model)
        graph = gpu_graph.derive(model, size, 1, self._outputs, precision)
        if precision == 'int8':
            graph = quantised(graph, calibration)
        if precision != 'fp32':
            graph = rounded(graph)
        self._session = onnxruntime.InferenceSession(graph.SerializeToString())
        self._frame = np.zeros((1, *size, 3), np.uint8)
        way = '' if precision == 'fp32' else ', rounded to fp16 after each operation'
        self.description = f'ONNX Runtime {onnxruntime.__version__} on the GPU graph{way}'

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [1, H, W, 3] RGB."""
        return self._frame

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer."""
        found = self._session.run(self._outputs, {'frames': self._frame})
        return dict(zip(self._outputs, found, strict=True))

    def close(self) -> None:
        """See Engine.close."""


def _outputs(model: ModelFile) -> list[str]:
    return ['score', *(['labels'] if model.info.classes else [])]


def read_frames(data: Path, size: tuple[int, int]) -> Frames:
    """FRAMES frames of the data, evenly chosen within each set; raises FolderError."""
    labelled = {name: _labelled(data / folder, size) for name, folder in SETS.items()}
    missing = max(0, FRAMES - sum(len(pairs) for pairs in labelled.values()))
    return Frames(
        labelled,
        _street(data / 'camvid' / 'test', missing, size),
        _street(data / 'camvid' / 'train', CALIBRATION_FRAMES, size),
    )


def _labelled(folder: Path, size: tuple[int, int]) -> list[tuple[Image, Image]]:
    data: AnomalyFolder = read_anomaly_folder(folder)
    return [
        (_rgb(load_picture(sample), size), load_anomaly_labels(sample.label, data.coding))
        for sample in data.samples
    ]


def _street(folder: Path, count: int, size: tuple[int, int]) -> list[Image]:
    samples = read_segmentation_folder(folder).samples
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [_rgb(load_image(samples[place].image), size) for place in chosen]


def _rgb(bgr: Image, size: tuple[int, int]) -> Image:
    return np.ascontiguousarray(stretched(bgr, size)[..., ::-1])


def average_precisions(scores: Scores, frames: Frames) -> dict[str, float]:
    """AP, a fraction of 1, over all pixels of each labelled set; scores: RGB frame -> raw map."""
    result = {}
    for name, pairs in frames.labelled.items():
        pixels = PixelScores()
        for frame, labels in pairs:
            pixels.add(upsample(scores(frame), size_of(labels)), labels)
        result[name] = pixels.result().ap
    return result


def _through(engine: Engine, frame: Image) -> np.ndarray:
    engine.input_buffer(1, size_of(frame))[0] = frame
    return np.array(engine.infer(1, size_of(frame))['score'][0])


def _on_cpu(engine: Engine, model: ModelFile, frame: Image) -> np.ndarray:
    engine.input_buffer(1)[0] = stretched(frame, model.info.input_size)
    return np.array(engine.infer(1)['score'][0])


def opened(
    model: ModelFile, precision: Precision, frames: Frames, runtime: Runtime | None
) -> Engine:
    """TensorRT where there is a runtime, else the graph on ONNX Runtime. Raises EngineError."""
    if runtime is None:
        return GraphOnCpu(model, size_of(frames.every[0]), precision, frames.calibration)
    options = GpuOptions(
        precision=precision, quantise=lambda graph: quantised(graph, frames.calibration)
    )
    return TensorRtEngine(model, _outputs(model), options, runtime)


def row(model: ModelFile, precision: Precision, frames: Frames, runtime: Runtime | None) -> Row:
    """One line of the table: a model in one precision."""
    engine, reference = opened(model, precision, frames, runtime), open_cpu_engine(model, ['score'])
    try:
        report = verified(engine, model, frames.every)
        found = average_precisions(partial(_through, engine), frames)
        expected = average_precisions(partial(_on_cpu, reference, model), frames)
    finally:
        engine.close()
        reference.close()
    change = {name: found[name] - expected[name] for name in found}
    within = all(abs(value) <= AP_LIMITS[precision] for value in change.values())
    return {
        'model': model.info.name,
        'sha256': model.sha256,
        'precision': precision,
        **report,
        'ap': found,
        'ap_change': change,
        'passed': report['passed'] and within,
        'size': list(size_of(frames.every[0])),
        'calibration_frames': len(frames.calibration) if precision == 'int8' else 0,
        'commit': commit(),
    }


def markdown(rows: Sequence[Row]) -> str:
    """The table of the page; differences in per cent of the score's range, AP in points."""
    sets = list(rows[0]['ap'])
    head = ['model', 'precision', 'score, 99 % below', 'score, largest', 'labels that agree']
    head += [f'AP {name}' for name in sets] + ['within the limits']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for one in rows:
        cells = [one['model'], one['precision']]
        cells += [f'{100 * one[name]:.2f} %' for name in ('score_99', 'score')]
        cells.append(f'{100 * one["labels"]:.2f} %')
        cells += [f'{100 * one["ap"][n]:.1f} ({100 * one["ap_change"][n]:+.2f})' for n in sets]
        lines.append('| ' + ' | '.join([*cells, 'yes' if one['passed'] else '**no**']) + ' |')
    ran = dict.fromkeys(f'{one["engine"]}' for one in rows)
    limits = (
        f'{rows[0]["frames"]} frames of {rows[0]["size"][1]}x{rows[0]["size"][0]}; limits: score '
        f'{100 * SCORE_LIMIT:.0f} %, labels {100 * LABEL_LIMIT:.1f} %, AP '
        f'{100 * AP_LIMITS["fp16"]:.1f} (int8: {100 * AP_LIMITS["int8"]:.0f}). What ran: '
        f'{"; ".join(ran)}; against {rows[0]["reference"]}.'
    )
    return '\n'.join([*lines, '', limits]) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 1 where a row is beyond the limits."""
    options = _parser().parse_args(argv)
    try:
        with interruptible():
            rows = _rows(options)
            keep_results(rows, markdown(rows), _TABLE, options)
    except (CardError, EngineError, FolderError, ModelFileError, OSError) as error:
        print(f'training.gpu_parity: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('training.gpu_parity: interrupted; nothing was written', file=sys.stderr)
        return 130
    print(markdown(rows), end='')
    return 0 if all(one['passed'] for one in rows) else 1


def _rows(options: argparse.Namespace) -> list[Row]:
    models = [model_file.read(find_model(name)) for name in options.model]
    frames = read_frames(options.data, options.size)
    runtime = _runtime()
    rows = []
    with progress_bar(Console(stderr=True)) as progress:
        jobs = [(model, precision) for model in models for precision in options.precision]
        for model, precision in progress.track(jobs, description='models and precisions'):
            rows.append(row(model, precision, frames, runtime))
    return rows


def _runtime() -> Runtime | None:
    try:
        return find_runtime()
    except EngineError as error:
        print(f'training.gpu_parity: on ONNX Runtime, because {error}', file=sys.stderr)
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='training.gpu_parity',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--model',
        nargs='+',
        default=['street', 'street-general', 'street-small'],
        help='files or shipped names',
    )
    add('--data', type=Path, required=True, help='folder of the data sets')
    add('--precision', nargs='+', choices=list(AP_LIMITS), default=list(AP_LIMITS))
    add('--size', type=frame_size, default=(720, 1280), metavar='HxW', help='of the camera')
    add_result_options(parser, 'write the rows there')
    return parser


if __name__ == '__main__':
    sys.exit(main())
