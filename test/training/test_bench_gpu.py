"""The benchmark of a GPU on stand-ins; what it counts; the network that torch runs in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import bench_gpu
from training.torch_plan import CameraNet, network_of
from training.train import read_config
from training.warm_start import StartError
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import gpu_graph, tensorrt
from vq_anomaly_ros.detection.engines.cuda import Cuda
from vq_anomaly_ros.detection.engines.tensorrt import Runtime

SIZE = (90, 170)
PICTURE_BYTES = 90 * 170 * 3


def test_bytes_are_those_of_inputs_and_outputs(tiny_model: Path) -> None:
    model = model_file.read(tiny_model)
    graph = gpu_graph.derive(model, SIZE, 3, ['score', 'camera_labels'])
    assert bench_gpu.moved_bytes(graph) == (3 * PICTURE_BYTES, 3 * (16 * 32 * 4 + 90 * 170))


def test_rates_come_from_events(cudart: Any) -> None:
    cuda = Cuda(cudart)
    moved = bench_gpu._COPIES * bench_gpu._COPIED
    assert bench_gpu.copy_rates(cuda) == (moved / 1.5, moved / 1.5)
    assert not any(cuda.held.values())


def test_percentiles_of_known_times() -> None:
    found = bench_gpu.percentiles(np.arange(1.0, 102.0), frames=4)
    assert found == {'p50': 51.0, 'p99': 100.0, 'max': 101.0, 'fps': pytest.approx(4e3 / 51.0)}


@pytest.fixture
def gpu(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runtime:
    """Stand-ins where the benchmark and the detector look for a GPU; TensorRT alone."""
    monkeypatch.setenv('VQ_ANOMALY_PLANS', str(tmp_path / 'plans'))
    monkeypatch.setattr(tensorrt, 'find_runtime', lambda: runtime)
    found = bench_gpu.Gpu(runtime.cuda, runtime.device, runtime, None)
    monkeypatch.setattr(bench_gpu, 'find_gpu', lambda: found)
    monkeypatch.setattr(bench_gpu, '_COPIED', 1 << 12)
    return runtime


def run(*arguments: object) -> int:
    return bench_gpu.main([str(argument) for argument in arguments])


def test_all_combinations_are_measured_and_what_fails_is_told(
    tiny_model: Path, gpu: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'gpu.json'
    asked = ('--precision', 'fp32', 'int8', '--cameras', 1, 3, '--seconds', 0.02)
    assert run('--model', tiny_model, '--size', '90x170', *asked, '--json', out) == 0
    said = capsys.readouterr()
    kept = json.loads(out.read_text())
    assert kept['device'] == 'Stand-in Orin' and kept['size'] == [90, 170]
    combinations = [(row['precision'], row['cameras'], row['cuda_graph']) for row in kept['rows']]
    assert combinations == [('fp32', n, graph) for n in (1, 3) for graph in (True, False)]
    for row in kept['rows']:
        assert row['engine'].startswith('stand_in_tensorrt')
        assert row['p50'] <= row['p99'] <= row['max'] and row['fps'] > 0
        assert row['copies'] == pytest.approx(2 / 3), 'the stand-in ticks at every event'
        assert row['detector']['p50'] > 0
        assert row['floor_ms']['copies'] > 0 and row['floor_ms']['operations'] is None
    assert 'int8 needs frames to calibrate on' in said.err
    assert said.out.count('\n| stand_in_tensorrt') == 4
    assert not any(gpu.cuda.held.values())


def test_nothing_that_could_be_measured(tiny_model: Path, gpu: Runtime, capsys: Any) -> None:
    asked = ('--precision', 'int8', '--cameras', 1, '--seconds', 0.01)
    assert run('--model', tiny_model, '--size', '90x170', *asked) == 2
    assert 'nothing could be measured' in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_one_sentence_says_so(tiny_model: Path, capsys: Any) -> None:
    assert run('--model', tiny_model) == 2
    said = capsys.readouterr().err
    assert 'there is no GPU to measure' in said and 'Traceback' not in said


@pytest.mark.parametrize('name', ['street-small', 'street-general'])
def test_torch_says_what_the_gpu_graph_says(picture: Any, name: str) -> None:
    ort = pytest.importorskip('onnxruntime')
    path = Path(__file__).resolve().parents[2] / 'models' / f'{name}.onnx'
    model = model_file.read(path)
    outputs = ['score', 'labels', 'camera_labels']
    net = CameraNet(network_of(path, read_config(name, [])), model.info.input_size, SIZE, outputs)
    frames = np.stack([picture(0, *SIZE)])
    graph = gpu_graph.derive(model, SIZE, 1, outputs)
    expected = ort.InferenceSession(graph.SerializeToString()).run(outputs, {'frames': frames})
    with torch.inference_mode():
        found = net(torch.from_numpy(frames))
    for output, one, other in zip(outputs, found, expected, strict=True):
        assert tuple(one.shape) == other.shape
        if output == 'score':
            assert np.abs(one.numpy() - other).max() < 5e-3
        else:
            assert np.mean(one.numpy() == other) > 0.998, output
    with pytest.raises(ValueError, match='gives no output camera_score'):
        CameraNet(net.net, model.info.input_size, SIZE, ['camera_score'])


def test_models_that_do_not_go_into_torch(tiny_model: Path) -> None:
    with pytest.raises(StartError, match='its classes are not those of the configuration street'):
        network_of(tiny_model, read_config('street', []))
