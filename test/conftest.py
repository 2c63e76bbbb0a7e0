"""Fixtures that all tests share: a tiny model, the shipped one, the research data."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.atlas import Atlas
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.engines.cuda import Cuda, find_device
from vq_anomaly_ros.detection.engines.tensorrt import Runtime

# Hypothesis times no example, tries the same ones everywhere, and leaves no folder behind.
settings.register_profile('house', deadline=None, derandomize=True, database=None)
settings.load_profile('house')

# A shell's background job inherits an ignored SIGINT, and so would the processes that tests end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before the nodes of the tests are named by their groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where the tests are shared out (`pytest -n 2 --dist loadgroup`): a file stays together.

    So do all that meet over DDS, one after the other: what one leaves in shared memory, or the
    load that it makes, is not another's.
    """
    for item in items:
        meets = MEET_OVER_DDS & {item.path, *item.path.parents}
        group = 'dds' if meets else str(item.path.relative_to(ROOT))
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no collection of garbage needs to look through it."""
    gc.collect()
    gc.freeze()


ROOT = Path(__file__).resolve().parents[1]
STAND_INS = ROOT / 'test' / 'detection' / 'engines' / 'stand_ins'  # for TensorRT and CUDA
MEET_OVER_DDS = frozenset(
    ROOT / 'test' / name
    for name in (
        'launch',
        'node',
        'replay/test_demo.py',
        'training/test_cpc_export.py',
        'trials/test_bench.py',
        'trials/test_faults.py',
        'trials/test_soak.py',
    )
)
SIZE = (64, 128)
STRIDE = 4
CLASSES = ('road', 'tree', 'car', 'person')
CODEVECTORS = 3
DIMENSIONS = 8


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of the research data beside the checkout."""
    folder = ROOT.parent / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip('the research data (../shared/data) are not here')
    return folder


@pytest.fixture(scope='session')
def street_model() -> Path:
    """The shipped model of streets."""
    path = ROOT / 'models' / 'street.onnx'
    if not path.is_file():
        pytest.skip('models/street.onnx is not here')
    return path


@pytest.fixture(scope='session')
def picture() -> Callable[..., np.ndarray]:
    """picture(seed, height, width): smooth coloured noise, uint8 [height, width, 3]."""
    return _picture


@pytest.fixture(scope='session')
def road() -> np.ndarray:
    """A long picture with structure of all sizes, along which drives go."""
    rng = np.random.default_rng(0)
    shape = (180, 16 * 320)
    road = 0.3 * rng.normal(size=(*shape, 3)).astype(np.float32)
    for size in (1, 3, 9, 27, 60):
        noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), size)
        road += (noise / noise.std())[..., None]
    return np.clip(115 + 18 * road, 0, 255).astype(np.uint8)


@pytest.fixture(scope='session')
def road_drive(road: np.ndarray) -> Callable[..., list[np.ndarray]]:
    """road_drive(first, count): pictures along the road, 23 pixels further each."""

    def make(first: int, count: int) -> list[np.ndarray]:
        places = [23 * place for place in range(first, first + count)]
        return [np.ascontiguousarray(road[:, x : x + 320]) for x in places]

    return make


@pytest.fixture(scope='session')
def tiny_graph() -> Callable[..., onnx.ModelProto]:
    """tiny_graph(half=False): the ONNX graph of the tiny model, without metadata."""
    return _tiny_graph


@pytest.fixture(scope='session')
def tiny_info() -> model_file.ModelInfo:
    """The metadata of the tiny model, with a calibration on smooth noise."""
    return _tiny_info()


@pytest.fixture(scope='session')
def make_tiny_model(
    tiny_info: model_file.ModelInfo,
) -> Callable[..., Path]:
    """make_tiny_model(path, half=False, **changes of the metadata): writes a tiny model there."""

    def make(path: Path, half: bool = False, **changes: object) -> Path:
        info = dataclasses.replace(tiny_info, **changes)  # type: ignore[arg-type]
        return model_file.write(_tiny_graph(half), info, path).path

    return make


@pytest.fixture(scope='session')
def tiny_model(
    tmp_path_factory: pytest.TempPathFactory, make_tiny_model: Callable[..., Path]
) -> Path:
    """A valid model file with random weights: input 64x128, stride 4, four classes, three codes."""
    return make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.onnx')


@pytest.fixture(scope='session')
def tiny_atlas(tiny_model: Path) -> Atlas:
    """An atlas of the tiny model: two patches of noise a codevector."""
    info = model_file.read(tiny_model).info
    codevectors = len(CLASSES) * CODEVECTORS
    shape = (codevectors, 2)
    return Atlas(
        model=info.name,
        weights_sha256=info.weights_sha256,
        classes=info.classes,
        codevectors_per_class=CODEVECTORS,
        source='noise',
        date='2026-01-01',
        frames=4,
        frame_size=SIZE,
        patches=np.random.default_rng(0).integers(0, 256, (*shape, 16, 16, 3), np.uint8),
        count=np.arange(codevectors) + 3,
        closeness=np.tile(np.array([0.9, 0.8], np.float32), (codevectors, 1)),
        class_index=np.arange(codevectors) // CODEVECTORS,
        frame_names=np.full(shape, 'f'),
        places=np.full((*shape, 2), 20, np.int32),
    )


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in for TensorRT, importable by name in this process and its children."""
    pytest.importorskip('onnxruntime')
    monkeypatch.syspath_prepend(str(STAND_INS))
    module = importlib.import_module('stand_in_tensorrt')
    module.LIVE.clear()
    yield module
    sys.modules.pop('stand_in_tensorrt', None)


@pytest.fixture
def cudart(library: Any) -> Any:
    """The stand-in for libcudart."""
    library.GPU = importlib.import_module('stand_in_cuda').Cudart()
    return library.GPU


@pytest.fixture
def driver(library: Any) -> Any:
    """The class that stands in for libcuda."""
    return importlib.import_module('stand_in_cuda').Driver


@pytest.fixture
def runtime(library: Any, cudart: Any, driver: Any) -> Runtime:
    return Runtime(library, Cuda(cudart), find_device(driver()))


def _picture(seed: int, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(1.0, height / 20))
    smooth = 128 + 60 * smooth / (smooth.std() + 1e-6)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(len(CLASSES) * CODEVECTORS, DIMENSIONS))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    return {
        'filters': rng.normal(size=(DIMENSIONS, 3, STRIDE, STRIDE)).astype(np.float32),
        'codebook': codes.astype(np.float32)[:, :, None, None],
        'mean': np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1),
        'std': np.array([58.4, 57.1, 57.4], np.float32).reshape(1, 3, 1, 1),
    }


def _tiny_graph(half: bool = False) -> onnx.ModelProto:
    """uint8 picture -> unit vectors of stride 4 -> cosine to the codevectors of each class.

    half: the weights are stored as fp16 and cast in the graph.
    """
    height, width = SIZE[0] // STRIDE, SIZE[1] // STRIDE
    constants = _weights()
    casts = []
    if half:
        casts = [
            helper.make_node('Cast', [f'{name}_half'], [name], to=TensorProto.FLOAT)
            for name in constants
        ]
        constants = {f'{name}_half': v.astype(np.float16) for name, v in constants.items()}
    constants['channel_axis'] = np.array([1])
    constants['code_axis'] = np.array([2])
    constants['by_class'] = np.array([0, len(CLASSES), CODEVECTORS, height, width])
    outputs = [
        helper.make_tensor_value_info('score', TensorProto.FLOAT, ['N', height, width]),
        helper.make_tensor_value_info('labels', TensorProto.UINT8, ['N', height, width]),
        helper.make_tensor_value_info(
            'class_scores', TensorProto.FLOAT, ['N', len(CLASSES), height, width]
        ),
        helper.make_tensor_value_info('codes', TensorProto.INT32, ['N', height, width]),
    ]
    graph = helper.make_graph(
        [*casts, *_tiny_nodes()],
        'tiny',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, ['N', *SIZE, 3])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)


def _tiny_nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node('Cast', ['image'], ['pixels'], to=TensorProto.FLOAT),
        node('Transpose', ['pixels'], ['planes'], perm=[0, 3, 1, 2]),
        node('Sub', ['planes', 'mean'], ['centred']),
        node('Div', ['centred', 'std'], ['normal']),
        node('Conv', ['normal', 'filters'], ['features'], strides=[STRIDE, STRIDE]),
        node('ReduceL2', ['features', 'channel_axis'], ['length'], keepdims=1),
        node('Div', ['features', 'length'], ['unit']),
        node('Conv', ['unit', 'codebook'], ['cosine']),
        node('Reshape', ['cosine', 'by_class'], ['cosine_by_class']),
        node('ReduceMax', ['cosine_by_class', 'code_axis'], ['class_scores'], keepdims=0),
        node('ReduceMax', ['class_scores', 'channel_axis'], ['best'], keepdims=0),
        node('Neg', ['best'], ['score']),
        node('ArgMax', ['class_scores'], ['class_id'], axis=1, keepdims=0),
        node('Cast', ['class_id'], ['labels'], to=TensorProto.UINT8),
        node('ArgMax', ['cosine'], ['code_id'], axis=1, keepdims=0),
        node('Cast', ['code_id'], ['codes'], to=TensorProto.INT32),
    ]


def _tiny_info() -> model_file.ModelInfo:
    frames = np.stack([_picture(1000 + i) for i in range(40)])
    (scores,) = ReferenceEvaluator(_tiny_graph()).run(['score'], {'image': frames})
    table = Calibration.from_scores([scores], 'training set', date='2026-01-01')
    return model_file.ModelInfo(
        name='tiny',
        method='codebook',
        classes=CLASSES,
        palette=((128, 64, 128), (107, 142, 35), (0, 0, 142), (220, 20, 60)),
        input_size=SIZE,
        stride=STRIDE,
        score_kind='nearest codevector, cosine',
        score_range=(-1.0, 1.0),
        codevectors_per_class=CODEVECTORS,
        calibration=table.to_dict(),
        training_data=('noise',),
        outlier_data=(),
        terms='no terms: random weights',
        commit='',
        weights_sha256='0' * 64,
        parity={},
        created='2026-01-01',
    )
