"""The TensorRT engine on stand-ins: results of the CPU path, nothing leaked, all faults told."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import EngineError, open_engine, tensorrt
from vq_anomaly_ros.detection.engines.cuda import Cuda, Device
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.engines.plan_cache import PlanCache
from vq_anomaly_ros.detection.engines.tensorrt import (
    Runtime,
    TensorRtEngine,
    camera_outputs,
)
from vq_anomaly_ros.detection.model_file import ModelFile
from vq_anomaly_ros.images import Frame

ROOT = Path(__file__).resolve().parents[3]
FRAME = (90, 170)


@pytest.fixture
def model(tiny_model: Path) -> ModelFile:
    return model_file.read(tiny_model)


def ran(engine: Any, pictures: np.ndarray) -> dict[str, np.ndarray]:
    size = pictures.shape[1:3]
    engine.input_buffer(len(pictures), size)[:] = pictures
    return {name: array.copy() for name, array in engine.infer(len(pictures), size).items()}


def cpu_path(model: ModelFile, size: tuple[int, int], pictures: np.ndarray) -> list[np.ndarray]:
    import cv2

    engine = open_engine(model, 'onnxruntime', ['score'], threads=1)
    height, width = model.info.input_size
    results = []
    for picture in pictures:
        engine.input_buffer(1)[0] = cv2.resize(
            picture, (width, height), interpolation=cv2.INTER_LINEAR_EXACT
        )
        results.append(engine.infer(1)['score'][0].copy())
    return results


@pytest.mark.parametrize('batch', [1, 2, 4])
@pytest.mark.parametrize('integrated', [False, True], ids=['discrete', 'jetson'])
def test_any_number_of_frames_gives_the_results_of_the_cpu_path(
    model, runtime, options, picture, batch: int, integrated: bool
) -> None:
    device = dataclasses.replace(runtime.device, integrated=integrated)
    runtime = dataclasses.replace(runtime, device=device)
    engine = TensorRtEngine(
        model, ['score', 'labels'], dataclasses.replace(options, batch=batch), runtime
    )
    for count in (1, 3, 4, 2, 4, 4):  # plain runs first, then launches of captured graphs
        pictures = np.stack([picture(100 * count + n, *FRAME) for n in range(count)])
        found = ran(engine, pictures)
        assert found['camera_labels'].shape == (count, *FRAME)
        for place, expected in enumerate(cpu_path(model, FRAME, pictures)):
            np.testing.assert_allclose(found['score'][place], expected, atol=1e-5)
    engine.close()
    assert not any(runtime.cuda.held.values())


def test_a_jetson_copies_nothing_where_chunks_begin_aligned(
    model, options, library, cudart
) -> None:
    device = Device('Stand-in Orin', (8, 7), integrated=True)
    engine = TensorRtEngine(model, ['score'], options, Runtime(library, Cuda(cudart), device))
    ran(engine, np.zeros((1, *FRAME, 3), np.uint8))
    assert 'cudaMemcpyAsync' not in cudart.calls and 'cudaMalloc' not in cudart.calls
    ran(engine, np.zeros((2, *FRAME, 3), np.uint8))
    assert 'cudaMemcpyAsync' in cudart.calls, '90 x 170 x 3 bytes are no multiple of 256'


def test_the_time_of_each_stage_comes_from_events_of_the_gpu(
    model, runtime, options, cudart
) -> None:
    engine = TensorRtEngine(model, ['score'], options, runtime)
    expected = ran(engine, np.full((1, *FRAME, 3), 90, np.uint8))['score']
    assert engine.stage_times(FRAME) == (1.5, 1.5, 1.5), 'the stand-in ticks at every event'
    assert not runtime.cuda.held['event']
    np.testing.assert_array_equal(engine.infer(1, FRAME)['score'], expected)


def test_graphs_are_launched_once_they_are_warm(model, runtime, options, cudart) -> None:
    engine = TensorRtEngine(model, ['score'], options, runtime)
    frames = np.zeros((1, *FRAME, 3), np.uint8)
    for _ in range(5):
        ran(engine, frames)
    assert cudart.calls.count('cudaGraphLaunch') == 3
    assert cudart.calls.count('cudaStreamBeginCapture') == 1
    plain = TensorRtEngine(
        model, ['score'], dataclasses.replace(options, use_graphs=False), runtime
    )
    before = cudart.calls.count('cudaGraphLaunch')
    for _ in range(5):
        ran(plain, frames)
    assert cudart.calls.count('cudaGraphLaunch') == before


def test_work_that_cannot_be_captured_runs_plainly(model, runtime, options, cudart) -> None:
    said: list[str] = []
    cudart.fail['cudaGraphInstantiateWithFlags'] = 901
    engine = TensorRtEngine(
        model, ['score'], dataclasses.replace(options, report=said.append), runtime
    )
    frames = np.stack([np.full((*FRAME, 3), value, np.uint8) for value in (3, 90)])
    expected = ran(engine, frames)
    for _ in range(4):
        np.testing.assert_array_equal(ran(engine, frames)['score'], expected['score'])
    assert any('CUDA graphs are not used' in line for line in said)


def test_a_thousand_openings_leave_nothing(model, runtime, options, library, cudart) -> None:
    frames = np.zeros((2, *FRAME, 3), np.uint8)
    for number in range(1000):
        engine = TensorRtEngine(model, ['score', 'labels'], options, runtime)
        if number % 50 == 0:
            for _ in range(3):
                ran(engine, frames)
        engine.close()
        engine.close()
        del engine
    gc.collect()
    assert not any(runtime.cuda.held.values())
    assert not cudart.memory and not cudart.streams and not cudart.graphs
    assert library.LIVE == []


@pytest.mark.parametrize('call', ['cudaMalloc', 'cudaHostAlloc', 'cudaStreamCreateWithFlags'])
def test_memory_that_is_not_there_is_named_and_nothing_stays(
    model, runtime, options, cudart, call: str
) -> None:
    engine = TensorRtEngine(model, ['score'], options, runtime)
    cudart.fail[call] = 2
    with pytest.raises(
        EngineError, match=rf'for 4 frames of 170x90 .*{call} failed: out of memory'
    ) as caught:
        engine.input_buffer(4, FRAME)
    assert str(model.path) in str(caught.value)
    assert not any(runtime.cuda.held.values())
    cudart.fail.clear()
    assert ran(engine, np.zeros((4, *FRAME, 3), np.uint8))['score'].shape[0] == 4


def test_device_memory_that_ends_half_way_is_given_back(model, runtime, options, cudart) -> None:
    engine = TensorRtEngine(model, ['score'], options, runtime)
    cudart.budget = 20_000  # enough for the score, not for the frame
    with pytest.raises(EngineError, match='out of memory'):
        engine.input_buffer(1, FRAME)
    assert not any(runtime.cuda.held.values())


def test_errors_of_a_frame_are_told_and_the_next_frame_may_work(
    model, runtime, options, cudart
) -> None:
    engine = TensorRtEngine(model, ['score'], options, runtime)
    frames = np.zeros((1, *FRAME, 3), np.uint8)
    cudart.fail['cudaStreamSynchronize'] = 700
    with pytest.raises(EngineError, match='illegal memory access'):
        ran(engine, frames)
    del cudart.fail['cudaStreamSynchronize']
    cudart.refuse_work = True
    with pytest.raises(EngineError, match='could not enqueue'):
        ran(engine, frames)
    cudart.refuse_work = False
    assert np.isfinite(ran(engine, frames)['score']).all()
    cudart.no_context = True
    other = TensorRtEngine(model, ['score'], options, runtime)
    with pytest.raises(EngineError, match='execution context: not enough GPU memory'):
        ran(other, frames)


def test_the_plan_is_built_once_and_loaded_then(
    model, runtime, options, tmp_path, monkeypatch
) -> None:
    log = tmp_path / 'log'
    monkeypatch.setenv('STAND_IN_LOG', str(log))
    said: list[str] = []
    options = dataclasses.replace(options, report=said.append)
    for _ in range(2):
        ran(TensorRtEngine(model, ['score'], options, runtime), np.zeros((1, *FRAME, 3), np.uint8))
    assert log.read_text() == 'built\n'
    assert 'building the plan: tactics 0 %' in said and 'the plan is built and kept' in said
    for changed in (
        dataclasses.replace(options, batch=2),
        dataclasses.replace(options, precision='fp16'),
        dataclasses.replace(options, workspace_mb=128),
    ):
        ran(TensorRtEngine(model, ['score'], changed, runtime), np.zeros((1, *FRAME, 3), np.uint8))
    ran(TensorRtEngine(model, ['score'], options, runtime), np.zeros((1, 40, 80, 3), np.uint8))
    assert log.read_text() == 'built\n' * 5


def test_a_plan_that_tensorrt_refuses_is_built_again(
    model, runtime, options, tmp_path, monkeypatch
) -> None:
    frames = np.zeros((1, *FRAME, 3), np.uint8)
    ran(TensorRtEngine(model, ['score'], options, runtime), frames)
    said: list[str] = []
    options = dataclasses.replace(options, report=said.append)
    (plan,) = options.folder.glob('*.*.plan')
    # As whole as it was written, but by another version than it says.
    import hashlib
    import json

    data = b'ptrt' + bytes(20) + bytes([10, 13, 0, 0]) + bytes(4) + plan.read_bytes()[32:]
    plan.write_bytes(data)
    (sidecar,) = options.folder.glob('*.json')
    described = json.loads(sidecar.read_text())
    described |= {'bytes': len(data), 'plan_sha256': hashlib.sha256(data).hexdigest()}
    sidecar.write_text(json.dumps(described))
    assert np.isfinite(
        ran(TensorRtEngine(model, ['score'], options, runtime), frames)['score']
    ).all()
    assert any('refuses the plan' in line for line in said)


def test_a_cache_that_cannot_be_used_stops_nothing(model, runtime, options, tmp_path) -> None:
    (tmp_path / 'plans').write_text('a file where the folder should be')
    said: list[str] = []
    options = dataclasses.replace(options, report=said.append)
    found = ran(
        TensorRtEngine(model, ['score'], options, runtime), np.zeros((1, *FRAME, 3), np.uint8)
    )
    assert np.isfinite(found['score']).all()
    assert any('plans are not kept' in line for line in said)


def test_int8_without_frames_says_how(model, runtime, options) -> None:
    engine = TensorRtEngine(
        model, ['score'], dataclasses.replace(options, precision='int8'), runtime
    )
    with pytest.raises(EngineError, match='build_engine --precision int8 --bag'):
        engine.input_buffer(1, FRAME)


def test_a_closed_engine_says_so(model, runtime, options) -> None:
    engine = TensorRtEngine(model, ['score'], options, runtime)
    engine.close()
    with pytest.raises(EngineError, match='closed'):
        engine.input_buffer(1, FRAME)


def test_outputs_of_the_camera_come_with_the_labels() -> None:
    assert camera_outputs(['score']) == ('score',)
    assert camera_outputs(['score', 'labels']) == ('score', 'labels', 'camera_labels')
    assert camera_outputs(['score', 'labels', 'class_scores', 'codes']) == (
        'score', 'labels', 'codes', 'camera_labels_smooth',
    )  # fmt: skip


def test_an_error_that_stays_is_told_and_left_behind(model, runtime, options, cudart) -> None:
    """After an illegal access every call fails: closing must end all the same."""
    engine = TensorRtEngine(model, ['score'], options, runtime)
    for _ in range(4):
        ran(engine, np.zeros((2, *FRAME, 3), np.uint8))
    cudart.broken = 700
    with pytest.raises(EngineError, match='illegal memory access'):
        ran(engine, np.zeros((2, *FRAME, 3), np.uint8))
    engine.close()
    with pytest.raises(EngineError, match='closed'):
        engine.infer(1, FRAME)


def test_a_runtime_that_does_not_start_is_an_engine_error(model, runtime, options, cudart) -> None:
    cudart.no_runtime = True
    with pytest.raises(EngineError, match='cannot start on Stand-in Orin'):
        TensorRtEngine(model, ['score'], options, runtime)


def test_want_of_memory_costs_no_kept_plan(model, runtime, options, cudart) -> None:
    frames = np.zeros((1, *FRAME, 3), np.uint8)
    ran(TensorRtEngine(model, ['score'], options, runtime), frames)
    cudart.no_engine = True
    with pytest.raises(EngineError, match=r'refuses the plan.*memory left'):
        ran(TensorRtEngine(model, ['score'], options, runtime), frames)
    cudart.no_engine = False
    assert len(list(options.folder.glob('*.*.plan'))) == 1
    assert np.isfinite(
        ran(TensorRtEngine(model, ['score'], options, runtime), frames)['score']
    ).all()


def test_waiting_for_another_process_can_be_cancelled(model, runtime, options) -> None:
    cancelled = threading.Event()
    options = dataclasses.replace(options, cancelled=cancelled, report=lambda line: cancelled.set())
    engine = TensorRtEngine(model, ['score'], options, runtime)
    graph_key = tensorrt.plan_of(
        model,
        FRAME,
        camera_outputs(['score']),
        dataclasses.replace(options, cancelled=None),
        runtime,
    )[1]
    cancelled.clear()
    with (
        PlanCache(options.folder).locked(graph_key, lambda seconds: None),
        pytest.raises(EngineError, match='waiting for the plan of another process was cancelled'),
    ):
        engine.input_buffer(1, FRAME)
    cancelled.clear()
    assert engine.input_buffer(1, FRAME).shape == (1, *FRAME, 3), 'and the next frame gets it'


def test_a_failed_build_holds_no_frames(model, runtime, options) -> None:
    """Raised again at every frame, one exception object would keep the frames of all of them."""
    engine = TensorRtEngine(model, ['score'], dataclasses.replace(options, workspace_mb=0), runtime)
    alive: list[weakref.ref[np.ndarray]] = []

    def try_one() -> None:
        frame = np.zeros((*FRAME, 3), np.uint8)
        alive.append(weakref.ref(frame))
        with contextlib.suppress(EngineError):
            engine.input_buffer(1, FRAME)[0] = frame

    for _ in range(4):
        try_one()
    gc.collect()
    assert not any(one() is not None for one in alive)


def test_a_build_that_failed_is_not_tried_at_every_frame(
    model, runtime, options, tmp_path, monkeypatch
) -> None:
    engine = TensorRtEngine(model, ['score'], dataclasses.replace(options, workspace_mb=0), runtime)
    for _ in range(2):
        with pytest.raises(EngineError, match='gave no plan'):
            engine.input_buffer(1, FRAME)
        monkeypatch.setenv('STAND_IN_CRASH', '1')  # a second build would say something else


class TestDetector:
    """Frames of several sizes and orders through the detector, on the stand-in GPU."""

    @pytest.fixture(params=['nearest', 'bilinear'])
    def upsampling(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def opened(self, model, runtime, options, monkeypatch):
        monkeypatch.setattr(tensorrt, 'find_runtime', lambda: runtime)

        def open_one(backend: str, **settings: Any) -> Detector:
            return Detector(DetectorConfig(model.path, backend, threads=1, gpu=options, **settings))

        return open_one

    def test_detections_are_those_of_the_cpu(self, opened, picture, upsampling) -> None:
        frames = [
            Frame(picture(1, *FRAME), 'bgr'),
            Frame(picture(2, 64, 128), 'rgb'),
            Frame(picture(3, *FRAME), 'rgb'),
            Frame(np.ascontiguousarray(picture(4, *FRAME)[..., 0]), 'mono'),
        ]
        settings = {'with_codes': True, 'label_upsampling': upsampling}
        on_gpu = opened('tensorrt', **settings)
        assert on_gpu.engine.name == 'tensorrt'
        found = on_gpu.detect(frames)
        for frame, one, other in zip(
            frames, found, opened('onnxruntime', **settings).detect(frames), strict=True
        ):
            assert one.score.shape == one.labels.shape == one.anomaly_mask.shape == frame.size
            # OpenCV's linear resize of uint8 is a grey level low at an eighth of the pixels.
            assert np.abs(one.raw_score - other.raw_score).max() < 0.03
            assert (one.labels == other.labels).mean() > 0.95
            assert (one.codes == other.codes).mean() > 0.9
            assert one.labels.base is None or one.labels.flags.owndata

    def test_at_network_size_too(self, opened, picture) -> None:
        detector = opened('tensorrt', output_size='network')
        (found,) = detector.detect([Frame(picture(1, *FRAME), 'bgr')])
        assert found.labels.shape == found.score.shape == detector.info.map_size
        detector.output_size = 'camera'
        (found,) = detector.detect([Frame(picture(1, *FRAME), 'bgr')])
        assert found.labels.shape == found.score.shape == FRAME

    def test_auto_goes_on_with_a_cpu_runtime_where_the_gpu_fails(
        self, opened, picture, cudart
    ) -> None:
        frames = [Frame(picture(1, *FRAME), 'bgr')]
        cudart.fail['cudaMalloc'] = 2
        with pytest.raises(EngineError, match='out of memory'):
            opened('tensorrt').detect(frames)
        detector = opened('auto')
        (found,) = detector.detect(frames)
        assert detector.engine.name in ('openvino', 'onnxruntime')
        (expected,) = opened(detector.engine.name).detect(frames)
        assert np.array_equal(found.score, expected.score)

    def test_auto_leaves_a_gpu_whose_error_stays(self, opened, picture, cudart) -> None:
        frames = [Frame(picture(1, *FRAME), 'bgr')]
        detector = opened('auto')
        for _ in range(4):
            detector.detect(frames)
        cudart.broken = 700
        for _ in range(2):
            assert len(detector.detect(frames)) == 1
        assert detector.engine.name in ('openvino', 'onnxruntime')
        detector.close()

    def test_auto_takes_the_gpu_where_there_is_one(self, opened) -> None:
        assert opened('auto').engine.name == 'tensorrt'


def test_without_tensorrt_or_a_driver_auto_takes_a_cpu_runtime_and_says_nothing(
    model: ModelFile,
) -> None:
    engine = open_engine(model, 'auto', ['score'], threads=1)
    assert engine.name in ('openvino', 'onnxruntime', 'tensorrt')


TWO = """
import sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
import stand_in_tensorrt, stand_in_cuda
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines.cuda import Cuda, find_device
from vq_anomaly_ros.detection.engines.tensorrt import *
stand_in_tensorrt.GPU = stand_in_cuda.Cudart()
device = find_device(stand_in_cuda.Driver())
runtime = Runtime(stand_in_tensorrt, Cuda(stand_in_tensorrt.GPU), device)
options = GpuOptions(precision='fp32', folder=Path(sys.argv[2]), report=print)
engine = TensorRtEngine(model_file.read(sys.argv[1]), ['score'], options, runtime)
engine.input_buffer(1, (90, 170))
print(engine.infer(1, (90, 170))['score'].sum())
"""


def test_of_two_processes_one_builds_and_the_other_loads(model, library, tmp_path) -> None:
    log = tmp_path / 'log'
    environment = {
        **os.environ, 'STAND_IN_LOG': str(log), 'STAND_IN_STEPS': '10', 'STAND_IN_STEP_S': '0.2',
    }  # fmt: skip
    paths = [str(ROOT), str(Path(library.__file__).parent)]
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', TWO, str(model.path), str(tmp_path / 'plans'), *paths],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text() == 'built\n'
    assert len({text.splitlines()[-1] for text in said}) == 1, 'the same scores'
    assert GpuOptions().folder != tmp_path  # the default is the user's cache, not used here
