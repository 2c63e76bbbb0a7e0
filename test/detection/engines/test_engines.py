"""Both runtimes keep one contract and agree with the reference implementation of ONNX."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import Engine, EngineError, build, open_engine
from vq_anomaly_ros.detection.model_file import ModelFile, ModelInfo

ROOT = Path(__file__).resolve().parents[3]
ALL = ('score', 'labels', 'class_scores', 'codes')


@pytest.fixture(params=['openvino', 'onnxruntime'])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def model(tiny_model: Path) -> ModelFile:
    return model_file.read(tiny_model)


@pytest.fixture
def engine(model: ModelFile, backend: str) -> Iterator[Engine]:
    opened = open_engine(model, backend, ALL, threads=1)
    yield opened
    opened.close()


def inferred(engine: Engine, pictures: np.ndarray) -> dict[str, np.ndarray]:
    engine.input_buffer(len(pictures))[:] = pictures
    return {name: array.copy() for name, array in engine.infer(len(pictures)).items()}


def assert_agrees(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in ('score', 'class_scores'):
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - expected[name]).max() < 1e-5
    for name, dtype in (('labels', np.uint8), ('codes', np.int32)):
        assert found[name].dtype == dtype
        assert (found[name] == expected[name]).mean() >= 0.999


@pytest.mark.parametrize('batch', [1, 3])
def test_results_are_those_of_the_reference(engine: Engine, model, picture, batch: int) -> None:
    pictures = np.stack([picture(i) for i in range(batch)])
    values = ReferenceEvaluator(onnx.load(model.path)).run(ALL, {'image': pictures})
    found = inferred(engine, pictures)
    assert_agrees(found, dict(zip(ALL, values, strict=True)))
    assert {name: array.shape[1:] for name, array in found.items()} == {
        name: shape for name, (_, shape) in model.info.output_layouts().items()
    }


def test_half_weights_are_cast_in_the_graph(make_tiny_model, backend, picture, tmp_path) -> None:
    half = model_file.read(make_tiny_model(tmp_path / 'half.onnx', half=True))
    images = {'image': picture(0)[None]}
    values = ReferenceEvaluator(onnx.load(half.path)).run(ALL, images)
    opened = open_engine(half, backend, ALL, threads=1)
    assert_agrees(inferred(opened, images['image']), dict(zip(ALL, values, strict=True)))


def test_the_same_picture_gives_the_same_bits_at_any_place_of_a_batch(engine, picture) -> None:
    same = picture(0)
    first = inferred(engine, np.stack([same, picture(1), picture(2)]))
    for place in range(3):
        pictures = np.stack([picture(7), picture(8), picture(9)])
        pictures[place] = same
        again = inferred(engine, pictures)
        for name in ALL:
            assert again[name][place].tobytes() == first[name][0].tobytes()


def test_batch_sizes_may_alternate(engine: Engine, picture) -> None:
    pictures = np.stack([picture(i) for i in range(3)])
    alone = inferred(engine, pictures[:1])
    together = inferred(engine, pictures)
    again = inferred(engine, pictures[:1])
    assert again['score'].tobytes() == alone['score'].tobytes()
    assert np.abs(together['score'][0] - alone['score'][0]).max() < 1e-6


def test_memory_is_preallocated_and_kept_alive(engine: Engine, picture) -> None:
    """The runtimes write into our arrays: same address each time, also after garbage collection."""
    pictures = picture(0)[None]
    expected = inferred(engine, pictures)
    before = engine.infer(1)['score'].ctypes.data
    for seed in range(20):
        gc.collect()
        garbage = np.full(64 * 128 * 3, seed, np.uint8)
        result = engine.infer(1)
        assert result['score'].ctypes.data == before
        assert result['score'].tobytes() == expected['score'].tobytes()
        del garbage
    assert engine.input_buffer(1).ctypes.data == engine.input_buffer(1).ctypes.data


def test_only_the_named_outputs_come_back(model: ModelFile, backend: str) -> None:
    opened = open_engine(model, backend, ['codes', 'score'], threads=1)
    assert list(opened.infer(1)) == ['codes', 'score']


def test_the_description_names_runtime_precision_and_threads(model, backend) -> None:
    opened = open_engine(model, backend, ['score'], threads=1)
    assert opened.name == backend
    version = importlib.import_module(backend).__version__.split('-')[0]
    for word in (version, 'CPU', 'f32', '1 threads'):
        assert word in opened.description


def test_a_closed_engine_says_so_and_closes_twice(model: ModelFile, backend: str) -> None:
    opened = open_engine(model, backend, ['score'], threads=1)
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match='closed'):
        opened.infer(1)


def broken(graph: onnx.ModelProto, info: ModelInfo, path: Path, how: str) -> ModelFile:
    """A model file that is sound in itself, with a graph that is not what it says."""
    if how == 'channels':
        graph.graph.node[4].input[1] = 'codebook'
    if how == 'size':  # a map of half the size that the metadata promises
        graph.graph.node[4].attribute[0].ints[:] = [8, 8]
        for tensor in graph.graph.initializer:
            if tensor.name == 'by_class':
                tensor.CopyFrom(numpy_helper.from_array(np.array([0, 4, 3, 8, 16]), 'by_class'))
        for value in graph.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.dim_param = 'unknown'
    if how == 'operator':
        del graph.opset_import[:]
        graph.opset_import.append(helper.make_opsetid('', 18))
        graph.opset_import.append(helper.make_opsetid('unheard.of', 1))
        next(n for n in graph.graph.node if n.op_type == 'Neg').domain = 'unheard.of'
    return model_file.write(graph, info, path)


@pytest.mark.parametrize('how', ['operator', 'channels', 'size'])
def test_a_broken_graph_is_an_engine_error(
    tiny_graph, tiny_info, tmp_path, backend, how: str
) -> None:
    model = broken(tiny_graph(), tiny_info, tmp_path / 'broken.onnx', how)
    with pytest.raises(EngineError) as caught:
        open_engine(model, backend, ['score'], threads=1).infer(1)
    assert str(model.path) in str(caught.value)
    assert 'training.export' in str(caught.value)
    assert '\n' not in str(caught.value)


class TestOpenEngine:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        """The runtimes that seem to be installed: a set to take some from."""
        names = {'openvino', 'onnxruntime'}
        find_spec = importlib.util.find_spec

        def find(name: str, package: str | None = None) -> object:
            if name in ('openvino', 'onnxruntime') and name not in names:
                return None
            return find_spec(name, package)

        monkeypatch.setattr(importlib.util, 'find_spec', find)
        return names

    def test_auto_takes_openvino(self, model: ModelFile) -> None:
        pytest.importorskip('openvino')
        assert open_engine(model, 'auto', ['score'], threads=1).name == 'openvino'

    def test_auto_falls_back(self, model: ModelFile, installed: set[str]) -> None:
        pytest.importorskip('onnxruntime')
        installed.remove('openvino')
        assert open_engine(model, 'auto', ['score'], threads=1).name == 'onnxruntime'

    def test_auto_says_why_each_one_failed(self, model: ModelFile, installed: set[str]) -> None:
        installed.clear()
        with pytest.raises(EngineError, match=r'pip install openvino.*pip install onnxruntime'):
            open_engine(model, 'auto', ['score'])

    def test_a_runtime_that_is_not_installed(self, model, installed: set[str]) -> None:
        installed.remove('openvino')
        with pytest.raises(EngineError, match='openvino is not installed'):
            open_engine(model, 'openvino', ['score'])

    def test_an_unknown_backend(self, model: ModelFile) -> None:
        with pytest.raises(
            EngineError, match=r"'cuda' is unknown.*auto, tensorrt or openvino or onnx"
        ):
            open_engine(model, 'cuda', ['score'])

    def test_tensorrt_that_is_not_there(self, model, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build, 'LIBRARIES', ('no_such_tensorrt',))
        with pytest.raises(EngineError, match='TensorRT is not installed'):
            open_engine(model, 'tensorrt', ['score'])

    def test_an_unknown_output(self, model: ModelFile) -> None:
        with pytest.raises(EngineError, match=r'no output depth.*score, labels'):
            open_engine(model, 'auto', ['score', 'depth'])


def test_signals_survive_engines_closed_in_the_order_of_opening(tiny_model: Path) -> None:
    """In a process of its own: with a core for each engine, this was a segmentation fault."""
    script = f"""
import os, signal
from pathlib import Path
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import open_engine
model = model_file.read(Path({str(tiny_model)!r}))
engines = [open_engine(model, 'openvino', ['score'], 1) for _ in range(2)]
while engines:
    engines.pop(0).close()
signal.signal(signal.SIGINT, lambda *_: print('survived'))
os.kill(os.getpid(), signal.SIGINT)
"""
    pytest.importorskip('openvino')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, 'survived\n'), done.stderr
