"""How fast a model is on this GPU: `python -m training.bench_gpu --model street`.

For each precision and number of cameras: a batch of frames of the cameras' size is copied into
page-locked memory, runs, and its results are back. Latency (median, 99th percentile, longest),
throughput, the share of the copies in the time on the GPU (by its events), and with or without a
CUDA graph; beside it the floor, the larger of the bytes over the measured rate of copies and the
operations over the measured rate of a large matrix product. `detector` is what `Detector.detect`
takes for the same frames, all that the vehicle does included.

What runs is TensorRT (or TensorRT-RTX where it accepts the card) and, where torch has CUDA, the
same buffers and streams around the same network in torch, which the rows name as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import onnx
import torch
from onnx import TensorProto

from training.exporting import commit
from training.torch_plan import CameraNet, TorchPlan, network_of
from training.train import ConfigError, read_config
from training.warm_start import StartError
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import EngineError, build, gpu_graph
from vq_anomaly_ros.detection.engines.cuda import Cuda, CudaError, Device, find_device
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions, Precision
from vq_anomaly_ros.detection.engines.lanes import Lanes
from vq_anomaly_ros.detection.engines.quantised import quantised
from vq_anomaly_ros.detection.engines.tensorrt import (
    Runtime,
    TensorRtEngine,
    camera_outputs,
    find_runtime,
)
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError, find_model
from vq_anomaly_ros.images import Frame, ImageError
from vq_anomaly_ros.replay.build_engine import frame_size, frames_of
from vq_anomaly_ros.replay.files import write_text
from vq_anomaly_ros.replay.interruption import interruptible

OUTPUTS = ('score', 'labels')
_COPIED = 1 << 26  # bytes, to measure the rate of copies
_COPIES = 10
_SIDE = 4096  # of the matrices whose product shows the rate of operations
_WARM_UP = 5

Row = dict[str, Any]
Quantise = Callable[[onnx.ModelProto], onnx.ModelProto]


class Subject(Protocol):
    """What is measured: takes frames of a camera's size, tells the time of its stages."""

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """See Engine.input_buffer."""

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer."""

    def stage_times(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """See Lanes.stage_times."""

    def close(self) -> None:
        """Release everything."""


class TorchSubject:
    """Torch's network in the lanes of the engine."""

    def __init__(
        self,
        model: ModelFile,
        size: tuple[int, int],
        options: GpuOptions,
        cuda: Cuda,
        device: Device,
    ) -> None:
        """Raises StartError where the model does not go into torch, ConfigError."""
        if options.precision == 'int8':
            raise StartError(f'{model.path}: in torch there is fp32 and fp16 alone')
        outputs = camera_outputs(_outputs(model))
        net = CameraNet(
            network_of(model.path, read_config(model.info.name, [])),
            model.info.input_size,
            size,
            outputs,
        )
        plan = TorchPlan(net, options.batch, options.precision, cuda, options.use_graphs)
        layouts = gpu_graph.output_layouts(model, size)
        # The graph, if any, is torch's own: nothing is captured around it.
        plain = GpuOptions(precision=options.precision, batch=options.batch, use_graphs=False)
        wanted = {name: layouts[name] for name in outputs}
        self._lanes = Lanes(cuda, device, plan, size, wanted, plain)

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """See Subject."""
        return self._lanes.input_buffer(batch)

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Subject."""
        return self._lanes.infer(batch)

    def stage_times(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """See Subject."""
        return self._lanes.stage_times()

    def close(self) -> None:
        """See Subject."""
        self._lanes.close()


def _outputs(model: ModelFile) -> list[str]:
    return [name for name in OUTPUTS if name in model.info.output_layouts()]


def moved_bytes(graph: onnx.ModelProto) -> tuple[int, int]:
    """Bytes of all inputs and of all outputs of a graph of fixed shapes."""

    def size(value: onnx.ValueInfoProto) -> int:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        item = 1 if kind.elem_type == TensorProto.UINT8 else 4
        return int(np.prod(shape)) * item

    return sum(map(size, graph.graph.input)), sum(map(size, graph.graph.output))


def copy_rates(cuda: Cuda) -> tuple[float, float]:
    """Bytes a millisecond from page-locked memory to the GPU, and back."""
    host, device = cuda.host_memory(_COPIED, mapped=False), cuda.device_memory(_COPIED)
    try:
        with cuda.temporary_stream() as stream, cuda.temporary_events(2) as (first, last):

            def rate(copy: Callable[[], None]) -> float:
                copy()
                cuda.record(first, stream)
                for _ in range(_COPIES):
                    copy()
                cuda.record(last, stream)
                cuda.wait_for_stream(stream)
                return _COPIES * _COPIED / cuda.milliseconds(first, last)

            inward = rate(lambda: cuda.to_device(device, host.address, _COPIED, stream))
            back = rate(lambda: cuda.to_host(host.address, device, _COPIED, stream))
    finally:
        cuda.free_device(device)
        cuda.free_host(host)
    return inward, back


def operation_rate(precision: Precision) -> float | None:
    """Operations a millisecond of a large matrix product; None without torch on CUDA."""
    if not torch.cuda.is_available() or precision == 'int8':
        return None
    kind = torch.float16 if precision == 'fp16' else torch.float32
    left, right = (torch.randn((_SIDE, _SIDE), dtype=kind, device='cuda') for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for count in (_WARM_UP, _COPIES):
        begin.record()
        for _ in range(count):
            left @ right
        end.record()
        torch.cuda.synchronize()
    return float(_COPIES * 2 * _SIDE**3 / begin.elapsed_time(end))


def latencies(way: Callable[[], object], seconds: float) -> np.ndarray:
    """Milliseconds of each call for so many seconds, after a warm-up."""
    for _ in range(_WARM_UP):
        way()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        way()
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


def percentiles(times: np.ndarray, frames: int) -> dict[str, float]:
    """Median, 99th percentile and longest, ms, and frames a second."""
    p50, p99 = np.quantile(times, (0.5, 0.99))
    throughput = 1e3 * frames / float(times.mean())
    return {'p50': float(p50), 'p99': float(p99), 'max': float(times.max()), 'fps': throughput}


def measured(subject: Subject, frames: np.ndarray, seconds: float) -> dict[str, Any]:
    """Latency and stages of a subject on frames uint8 [N, H, W, 3] that come at once."""
    batch, size = len(frames), (frames.shape[1], frames.shape[2])

    def way() -> None:
        subject.input_buffer(batch, size)[:] = frames
        subject.infer(batch, size)

    times = latencies(way, seconds)
    inward, work, back = subject.stage_times(size)
    return {
        **percentiles(times, batch),
        'calls': len(times),
        'stages': {'to_device': inward, 'work': work, 'to_host': back},
        'copies': (inward + back) / (inward + work + back),
    }


def detector_times(
    model: ModelFile, options: GpuOptions, frames: np.ndarray, seconds: float
) -> dict[str, float]:
    """What `Detector.detect` takes for the frames at once, TensorRT, output of the map's size."""
    config = DetectorConfig(model.path, 'tensorrt', 'network', gpu=options)
    pictures = [Frame(frame, 'rgb') for frame in frames]
    with Detector(config) as detector:
        return percentiles(latencies(partial(detector.detect, pictures), seconds), len(frames))


@dataclass(frozen=True)
class Gpu:
    """The GPU, and what can use it: TensorRT, torch or both."""

    cuda: Cuda
    device: Device
    tensorrt: Runtime | None
    torch: str | None  # its version

    @property
    def engines(self) -> dict[str, str]:
        """Names of what is measured, as the rows have them."""
        found = {}
        if self.tensorrt is not None:
            found['tensorrt'] = build.library_name(self.tensorrt.library)
        if self.torch is not None:
            found['torch'] = f'torch {self.torch}, no TensorRT'
        return found

    def subject(
        self, engine: str, model: ModelFile, size: tuple[int, int], options: GpuOptions
    ) -> Subject:
        """An engine of that name, opened; raises EngineError, StartError, ConfigError."""
        if engine == 'tensorrt':
            return TensorRtEngine(model, _outputs(model), options, self.tensorrt)
        return TorchSubject(model, size, options, self.cuda, self.device)


def find_gpu() -> Gpu:
    """The first GPU; EngineError where there is none, or nothing that could use it."""
    try:
        device = find_device()
        cuda = Cuda()
    except CudaError as error:
        raise EngineError(
            f'there is no GPU to measure: {error}; run this on the machine that is to drive'
        ) from error
    try:
        tensorrt = find_runtime()
    except EngineError as error:
        print(f'training.bench_gpu: without TensorRT: {error}', file=sys.stderr)
        tensorrt = None
    gpu = Gpu(cuda, device, tensorrt, torch.__version__ if torch.cuda.is_available() else None)
    if not gpu.engines:
        raise EngineError('neither TensorRT nor torch can use the GPU: install one of them')
    return gpu


def rows(options: argparse.Namespace, model: ModelFile, gpu: Gpu) -> Iterator[Row]:
    """All that is measured, one combination after the other; what fails is told and left out."""
    rates = copy_rates(gpu.cuda)
    calibration = _calibration(options)
    for precision in options.precision:
        peak = operation_rate(precision)
        for cameras in options.cameras:
            floor = _floor(model, options.size, cameras, rates, peak)
            asked = GpuOptions(precision=precision, batch=cameras, quantise=calibration)
            for engine, graphs in itertools.product(gpu.engines, (True, False)):
                one = dataclasses.replace(asked, use_graphs=graphs)
                try:
                    found = _row(gpu, engine, model, one, options)
                except (ConfigError, CudaError, EngineError, StartError) as error:
                    print(f'training.bench_gpu: left out: {error}', file=sys.stderr)
                    continue
                yield {**found, 'floor_ms': floor}


def _row(
    gpu: Gpu, engine: str, model: ModelFile, asked: GpuOptions, options: argparse.Namespace
) -> Row:
    frames = np.random.default_rng(0).integers(0, 256, (asked.batch, *options.size, 3), np.uint8)
    with closing(gpu.subject(engine, model, options.size, asked)) as subject:
        found = measured(subject, frames, options.seconds)
    if engine == 'tensorrt':
        found['detector'] = detector_times(model, asked, frames, options.seconds)
    return {
        'engine': gpu.engines[engine],
        'precision': asked.precision,
        'cameras': asked.batch,
        'cuda_graph': asked.use_graphs,
        **found,
    }


def _calibration(
    options: argparse.Namespace,
) -> Callable[[onnx.ModelProto], onnx.ModelProto] | None:
    """Makes int8 graphs on frames of the bag; None without one."""
    if options.bag is None:
        return None
    return partial(quantised, frames=frames_of(options.bag, options.topic, 50, options.size))


def _floor(
    model: ModelFile,
    size: tuple[int, int],
    cameras: int,
    rates: tuple[float, float],
    peak: float | None,
) -> dict[str, float | None]:
    """Milliseconds that the copies and the operations of a batch cannot go below."""
    graph = gpu_graph.derive(model, size, cameras, camera_outputs(_outputs(model)), 'fp32')
    inward, back = moved_bytes(graph)
    return {
        'copies': inward / rates[0] + back / rates[1],
        'operations': None if peak is None else sum(gpu_graph.operations(graph)) / peak,
    }


def report(options: argparse.Namespace, model: ModelFile, gpu: Gpu) -> dict[str, Any]:
    """Device, date, model and all rows; EngineError where nothing could be measured."""
    found = []
    for one in rows(options, model, gpu):
        print(_line(one), flush=True)
        found.append(one)
    if not found:
        raise EngineError(f'{model.path}: nothing could be measured; see the lines above')
    major, minor = gpu.device.compute_capability
    return {
        'device': gpu.device.name,
        'compute_capability': f'{major}.{minor}',
        'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
        'model': model.info.name,
        'sha256': model.sha256,
        'size': list(options.size),
        'commit': commit(),
        'rows': found,
    }


_HEAD = (
    '| engine | precision | cameras | CUDA graph | p50 ms | p99 ms | longest | frames/s | copies '
    '| floor ms (copies, operations) | detector p99 ms |\n|' + '---|' * 11
)


def _line(one: Row) -> str:
    floor, detector = one['floor_ms'], one.get('detector')
    cells = [
        one['engine'],
        one['precision'],
        str(one['cameras']),
        'yes' if one['cuda_graph'] else 'no',
        *(f'{one[name]:.2f}' for name in ('p50', 'p99', 'max')),
        f'{one["fps"]:.0f}',
        f'{100 * one["copies"]:.0f} %',
        f'{floor["copies"]:.2f}, '
        + ('–' if floor['operations'] is None else f'{floor["operations"]:.2f}'),
        '–' if detector is None else f'{detector["p99"]:.2f}',
    ]
    return '| ' + ' | '.join(cells) + ' |'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        with interruptible():
            model = model_file.read(find_model(options.model))
            gpu = find_gpu()
            print(_HEAD)
            found = report(options, model, gpu)
            if options.json is not None:
                write_text(options.json, json.dumps(found, indent=1) + '\n')
    except (EngineError, ImageError, ModelFileError, OSError, ValueError) as error:
        print(f'training.bench_gpu: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('training.bench_gpu: interrupted; nothing was written', file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='training.bench_gpu',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--model', default='street', help='path of a model file or name of a shipped one')
    add('--size', type=frame_size, default=(1080, 1920), metavar='HxW', help="the cameras'")
    add('--cameras', type=int, nargs='+', default=[1, 2, 4, 8], metavar='N')
    add('--precision', nargs='+', choices=get_args(Precision), default=['fp32', 'fp16'])
    add('--bag', type=Path, help='frames that int8 is calibrated on')
    add('--topic', help='image topic; may be left out where a bag has one only')
    add('--seconds', type=float, default=5.0, help='of each row')
    add('--json', type=Path, metavar='F', help='write device, date and rows there')
    return parser


if __name__ == '__main__':
    sys.exit(main())
