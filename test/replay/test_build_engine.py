"""build_engine: a plan ahead of time, proven on frames; one sentence where it cannot be made."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError, build, gpu_graph
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.engines.quantised import quantised
from vq_anomaly_ros.detection.engines.tensorrt import Runtime, TensorRtEngine
from vq_anomaly_ros.detection.engines.verify import verified
from vq_anomaly_ros.replay import bags, build_engine

SIZE = (90, 170)


@pytest.fixture
def bag(tmp_path: Path, picture: Any) -> Path:
    path = tmp_path / 'drive'
    with bags.BagWriter(path) as writer:
        for number in range(12):
            pixels = np.ascontiguousarray(picture(number, *SIZE)[..., ::-1])
            writer.write_image('/front/image_raw', number * 100_000_000, pixels, 'bgr8')
    return path


@pytest.fixture
def gpu(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runtime:
    """Stand-ins for TensorRT and a GPU, found by the command."""
    monkeypatch.setattr(build_engine, 'find_runtime', lambda: runtime)
    monkeypatch.setenv('VQ_ANOMALY_PLANS', str(tmp_path / 'plans'))
    return runtime


def run(*arguments: object) -> int:
    return build_engine.main([str(argument) for argument in arguments])


def described(folder: Path) -> dict[str, Any]:
    (sidecar,) = folder.glob('*.json')
    return dict(json.loads(sidecar.read_text()))


def test_without_tensorrt_one_sentence_says_what_to_install(
    tiny_model, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(build, 'LIBRARIES', ('no_such_tensorrt',))
    assert run('--model', tiny_model, '--size', '720x1280', '--batch', 1) == 2
    said = capsys.readouterr().err
    assert said.startswith('build_engine: TensorRT is not installed') and said.count('\n') == 1
    assert 'apt install tensorrt' in said and 'pip install tensorrt' in said


def test_without_a_gpu_it_is_said(tiny_model, monkeypatch, capsys) -> None:
    pytest.importorskip('tensorrt_rtx_bindings')
    monkeypatch.setattr(build, 'LIBRARIES', ('tensorrt_rtx_bindings',))
    code = run('--model', tiny_model, '--size', '720x1280')
    said = capsys.readouterr().err
    if 'no GPU to run on' not in said:
        pytest.skip('there is a GPU here')
    assert code == 2 and said.count('\n') == 1 and 'openvino' in said


def test_a_plan_is_built_kept_and_used(tiny_model, gpu, tmp_path, monkeypatch, capsys) -> None:
    log = tmp_path / 'log'
    monkeypatch.setenv('STAND_IN_LOG', str(log))
    for _ in range(2):
        assert run('--model', tiny_model, '--size', '90x170', '--precision', 'fp32') == 0
    assert 'for Stand-in Orin, stand_in_tensorrt 10.3.0.30' in capsys.readouterr().out
    assert log.read_text() == 'built\n', 'the second time it is there'
    assert described(tmp_path / 'plans')['size'] == list(SIZE)
    # The node's engine finds the same plan.
    model = model_file.read(tiny_model)
    engine = TensorRtEngine(model, ['score', 'labels'], GpuOptions(precision='fp32'), gpu)
    engine.input_buffer(1, SIZE)
    assert log.read_text() == 'built\n'


def test_a_terminal_sees_how_far_the_build_is(tiny_model, gpu, monkeypatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(
        build_engine, 'Console', lambda **_: Console(file=terminal, force_terminal=True, width=90)
    )
    monkeypatch.setenv('STAND_IN_STEPS', '5')
    monkeypatch.setenv('STAND_IN_STEP_S', '0.15')
    assert run('--model', tiny_model, '--size', '90x170') == 0
    shown = terminal.getvalue()
    assert 'tactics' in shown and '/100' in shown
    assert 'building the plan' not in shown and 'the plan is built and kept' in shown


def test_verification_is_printed_and_kept(tiny_model, gpu, bag, tmp_path, capsys) -> None:
    arguments = ('--model', tiny_model, '--size', '90x170', '--bag', bag, '--verify')
    assert run(*arguments, '--precision', 'fp32', '--frames', 5) == 0
    report = json.loads(capsys.readouterr().out.partition('\n')[2])
    assert report['frames'] == 5 and report['passed']
    assert report['score'] < 1e-4 and report['labels'] > 0.99
    assert described(tmp_path / 'plans')['notes']['verified'] == report


def test_a_plan_that_says_something_else_fails_the_verification(
    tiny_model, gpu, bag, tmp_path, monkeypatch
) -> None:
    compute = sys.modules['stand_in_tensorrt'].Context.compute

    def wrong(self: Any, addresses: dict[str, int]) -> None:
        compute(self, addresses)
        for value in self.engine.session.get_outputs():
            if value.name == 'score':
                sys.modules['stand_in_tensorrt'].GPU.array(addresses, value)[:] += 0.1

    monkeypatch.setattr(sys.modules['stand_in_tensorrt'].Context, 'compute', wrong)
    arguments = ('--model', tiny_model, '--size', '90x170', '--bag', bag, '--verify')
    assert run(*arguments, '--precision', 'fp32') == 1
    report = described(tmp_path / 'plans')['notes']['verified']
    assert not report['passed'] and report['score_99'] == pytest.approx(0.05, abs=1e-3)


@pytest.fixture
def all_tolerable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model says something else with any of its convolutions in int8; keep them."""
    where = 'vq_anomaly_ros.detection.engines.quantised.tolerable'
    monkeypatch.setattr(where, lambda graph, every, *_: every)


def test_int8_is_calibrated_on_the_bag_and_found_by_the_node(
    tiny_graph, tiny_info, gpu, bag, tmp_path, all_tolerable
) -> None:
    model = model_file.write(deeper(tiny_graph()), tiny_info, tmp_path / 'deeper.onnx')
    arguments = ('--model', model.path, '--size', '90x170', '--precision', 'int8')
    assert run(*arguments, '--bag', bag) == 0
    engine = TensorRtEngine(model, ['score', 'labels'], GpuOptions(precision='int8'), gpu)
    engine.input_buffer(1, SIZE)[0] = 100
    assert np.isfinite(engine.infer(1, SIZE)['score']).all()


def deeper(model: onnx.ModelProto) -> onnx.ModelProto:
    """The tiny model with two convolutions more before its only one of the encoder."""
    graph = model.graph
    rng = np.random.default_rng(0)
    nodes = list(graph.node)
    first = next(node for node in nodes if node.op_type == 'Conv')
    made = []
    for number in range(2):
        weights = (np.eye(3) + rng.normal(0, 0.02, (3, 3))).astype(np.float32)[..., None, None]
        graph.initializer.append(onnx.numpy_helper.from_array(weights, f'mix{number}'))
        given = 'normal' if number == 0 else 'mixed0'
        made.append(onnx.helper.make_node('Conv', [given, f'mix{number}'], [f'mixed{number}']))
    first.input[0] = 'mixed1'
    place = nodes.index(first)
    del graph.node[:]
    graph.node.extend([*nodes[:place], *made, *nodes[place:]])
    return model


def test_quantising_keeps_the_scores_and_stays_inside_the_encoder(
    tiny_graph, tiny_info, tmp_path, picture, all_tolerable
) -> None:
    ort = pytest.importorskip('onnxruntime')
    model = model_file.write(deeper(tiny_graph()), tiny_info, tmp_path / 'deeper.onnx')
    graph = gpu_graph.derive(model, SIZE, 1, ['score'])
    frames = [picture(seed, *SIZE) for seed in range(8)]
    small = quantised(graph, frames)
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count('QuantizeLinear') == 1, 'the input of the one in the middle'
    for node in small.graph.node:
        if node.op_type == 'QuantizeLinear':
            zero = next(t for t in small.graph.initializer if t.name == node.input[2])
            assert zero.data_type == onnx.TensorProto.INT8
            assert not onnx.numpy_helper.to_array(zero).any(), 'symmetric'
    results = [
        ort.InferenceSession(one.SerializeToString()).run(None, {'frames': frames[0][None]})[0]
        for one in (graph, small)
    ]
    assert 0 < np.abs(results[0] - results[1]).mean() < 0.02


def test_frames_to_calibrate_on(tiny_model, gpu, tmp_path, picture, capsys) -> None:
    arguments = ('--model', tiny_model, '--size', '90x170', '--precision', 'int8')
    assert run(*arguments) == 2
    assert 'int8 needs frames' in capsys.readouterr().err
    model = model_file.read(tiny_model)
    graph = gpu_graph.derive(model, SIZE, 1, ['score'])
    with pytest.raises(EngineError, match='too few to calibrate'):
        quantised(graph, [picture(0, *SIZE)] * 3)
    with pytest.raises(EngineError, match='must be of 170x90'):
        quantised(graph, [picture(0, 64, 128)] * 8)
    with pytest.raises(EngineError, match='no convolutions to quantise'):
        quantised(graph, [picture(0, *SIZE)] * 8)
    with pytest.raises(EngineError, match='no frames to verify on'):
        verified(TensorRtEngine(model, ['score'], None, gpu), model, [])


def test_the_graph_can_be_written_for_other_tools(tiny_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build, 'LIBRARIES', ('no_such_tensorrt',))
    out = tmp_path / 'gpu' / 'graph.onnx'
    out.parent.mkdir()
    assert run('--model', tiny_model, '--size', '90x170', '--batch', 2, '--onnx', out) == 0
    graph = onnx.load(out).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 90, 170, 3]


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('--size', '720'), 'write HEIGHTxWIDTH'),
        (('--size', '720x1280', '--batch', '0'), 'no number of 1 or more'),
        (('--size', '720x1280', '--precision', 'fp8'), 'invalid choice'),
    ],
)
def test_options_that_are_wrong(arguments, said, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_model_or_bag_that_is_not_there(tiny_model, gpu, tmp_path, capsys) -> None:
    assert run('--model', 'no_such', '--size', '90x170') == 2
    assert 'no_such: no such model' in capsys.readouterr().err
    assert run('--model', tiny_model, '--size', '90x170', '--verify') == 2
    assert '--verify needs frames' in capsys.readouterr().err
    assert run('--model', tiny_model, '--size', '90x170', '--bag', tmp_path / 'none') == 2
    assert str(tmp_path / 'none') in capsys.readouterr().err
