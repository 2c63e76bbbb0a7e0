"""The graph for a GPU says what the CPU path says; NVIDIA's parser and builder take it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError, build, gpu_graph, open_engine, quantised
from vq_anomaly_ros.detection.model_file import ModelFile

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / 'models').glob('*.onnx'))
ALL = ('score', 'labels', 'codes', 'camera_score', 'camera_labels', 'camera_labels_smooth')
FRAME = (90, 170)


@pytest.fixture
def model(tiny_model: Path) -> ModelFile:
    return model_file.read(tiny_model)


def computed(graph: onnx.ModelProto, frames: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {'frames': frames}), strict=True))


def by_cpu(model: ModelFile, frame: np.ndarray) -> dict[str, np.ndarray]:
    """All of the model file's outputs for a frame that is stretched exactly."""
    engine = open_engine(model, 'onnxruntime', list(model.info.output_layouts()), threads=1)
    height, width = model.info.input_size
    engine.input_buffer(1)[0] = cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_LINEAR_EXACT
    )
    return {name: values[0].copy() for name, values in engine.infer(1).items()}


@pytest.mark.parametrize('size', [FRAME, (64, 128)])
def test_every_output_is_that_of_the_cpu_path(model: ModelFile, picture, size) -> None:
    frames = np.stack([picture(seed, *size) for seed in (0, 1)])
    found = computed(gpu_graph.derive(model, size, 2, ALL), frames)
    assert list(found) == list(ALL)
    for place, frame in enumerate(frames):
        expected = by_cpu(model, frame)
        for name in ('labels', 'codes'):
            assert (found[name][place] == expected[name]).mean() >= 0.99
        np.testing.assert_allclose(found['score'][place], expected['score'], atol=1e-5)
        large = (size[1], size[0])
        upsampled = cv2.resize(expected['score'], large, interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found['camera_score'][place], upsampled, atol=1e-5)
        nearest = cv2.resize(found['labels'][place], large, interpolation=cv2.INTER_NEAREST_EXACT)
        # Where a pixel lies in the middle between two positions, rounding chooses.
        assert (found['camera_labels'][place] == nearest).mean() > 0.97
        scores = np.stack([cv2.resize(one, large) for one in expected['class_scores']])
        smooth = found['camera_labels_smooth'][place] == scores.argmax(axis=0)
        assert smooth.mean() >= 0.99


def test_frames_are_resized_as_opencv_does_exactly(model: ModelFile, picture) -> None:
    for size in (FRAME, (33, 47), (128, 256), (200, 129)):
        frame = picture(3, *size)
        front = gpu_graph._front((64, 128), size, 1, onnx.load(model.path))
        (found,) = computed(front, frame[None]).values()
        exact = cv2.resize(frame, (128, 64), interpolation=cv2.INTER_LINEAR_EXACT)
        assert (found[0] == exact).mean() > 0.999
        assert np.abs(found[0] - exact).max() <= 1


def test_uint8_stands_at_the_edge_only_and_sizes_are_fixed(model: ModelFile) -> None:
    graph = gpu_graph.derive(model, FRAME, 2, ALL).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.output]
    }
    assert shapes['frames'] == (2, *FRAME, 3) and shapes['camera_score'] == (2, *FRAME)
    inner = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph.value_info
    edge = {value.name for value in [*graph.input, *graph.output]}
    for value in inner:
        if value.name not in edge:
            assert value.type.tensor_type.elem_type != TensorProto.UINT8, value.name
    first = next(node for node in graph.node if 'frames' in node.input)
    assert first.op_type == 'Cast'


def test_halves_are_the_encoders_alone(model: ModelFile, picture) -> None:
    half = gpu_graph.derive(model, FRAME, 1, ALL, 'fp16')
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    convs = [node for node in half.graph.node if node.op_type == 'Conv']
    assert [kinds[node.output[0]] for node in convs] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    norm = next(node for node in half.graph.node if node.op_type == 'ReduceL2')
    assert kinds[norm.input[0]] == TensorProto.FLOAT
    frames = picture(0, *FRAME)[None]
    full = computed(gpu_graph.derive(model, FRAME, 1, ALL), frames)
    found = computed(half, frames)
    assert 0 < np.abs(found['score'] - full['score']).max() < 0.02
    assert (found['labels'] == full['labels']).mean() > 0.98


def test_outputs_that_there_are_none_of(model: ModelFile) -> None:
    with pytest.raises(EngineError, match='no output depth; ask for some of score'):
        gpu_graph.derive(model, FRAME, 1, ['score', 'depth'])


def test_weights_beyond_fp16_are_named(tiny_graph, tiny_info, tmp_path: Path) -> None:
    graph = tiny_graph()
    for tensor in graph.graph.initializer:
        if tensor.name == 'filters':
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1e6)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, 'filters'))
    model = model_file.write(graph, tiny_info, tmp_path / 'large.onnx')
    with pytest.raises(EngineError, match=r'filters has values up to .* beyond fp16'):
        gpu_graph.derive(model, FRAME, 1, ['score'], 'fp16')


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_nvidias_parser_and_builder_take_the_shipped_models(
    path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip('tensorrt_rtx_bindings')
    model = model_file.read(path)
    outputs = ['score', 'labels', 'codes', 'camera_score', 'camera_labels']
    size = (720, 1280) if precision != 'int8' else (90, 160)  # it runs on frames
    graph = gpu_graph.derive(model, size, 1, outputs, precision)
    if precision == 'int8':
        # What is tolerable on pictures that are none of streets says nothing: all of them.
        monkeypatch.setattr(quantised, 'tolerable', lambda graph, small, *_: small)
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(quantised.LEAST_FRAMES)]
        graph = quantised.quantised(graph, frames)
        convolutions = {n.input[0] for n in graph.graph.node if n.op_type == 'Conv'}
        pairs = [n for n in graph.graph.node if n.op_type == 'DequantizeLinear']
        assert sum(node.output[0] in convolutions for node in pairs) > 10
    logger = library.Logger(library.Logger.ERROR)
    plan = build.serialised(library, graph.SerializeToString(), 512, None, logger)
    assert len(plan) > 1_000_000 and plan[:4] != b'\0\0\0\0'


def a_graph() -> onnx.ModelProto:
    """A grouped convolution and a matrix product."""
    filters = numpy_helper.from_array(np.zeros((6, 2, 3, 3), np.float32), 'filters')
    factors = numpy_helper.from_array(np.zeros((5, 7), np.float32), 'factors')
    nodes = [
        helper.make_node('Conv', ['x', 'filters'], ['y'], group=2),
        helper.make_node('MatMul', ['y', 'factors'], ['z']),
    ]
    given = helper.make_tensor_value_info('x', TensorProto.UINT8, (1, 4, 10, 7))
    given.type.tensor_type.elem_type = TensorProto.FLOAT
    result = helper.make_tensor_value_info('z', TensorProto.FLOAT, (1, 6, 8, 7))
    graph = helper.make_graph(nodes, 'g', [given], [result], [filters, factors])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)])


def test_operations_are_those_of_convolutions_and_products() -> None:
    convolution = 2 * (6 * 8 * 5) * (2 * 3 * 3)
    product = 2 * (6 * 8 * 7) * 5
    assert gpu_graph.operations(a_graph()) == [convolution, product]
