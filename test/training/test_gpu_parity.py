"""Parity of the GPU graphs: rounding to fp16, the comparison, and the table that the page shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training import gpu_parity
from training.gpu_parity import Frames, GraphOnCpu, average_precisions, markdown, rounded, row
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / 'docs' / 'benchmarks' / 'gpu_parity.json'
SIZE = (90, 170)

pytest.importorskip('onnxruntime')


def half_graph() -> onnx.ModelProto:
    """x (fp32) -> fp16, times 300, times 1/300, -> fp32."""
    factors = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float16), name)
        for name, value in (('up', 300.0), ('down', 1 / 300.0))
    ]
    nodes = [
        helper.make_node('Cast', ['x'], ['half'], to=TensorProto.FLOAT16),
        helper.make_node('Conv', ['half', 'up'], ['large']),
        helper.make_node('Conv', ['large', 'down'], ['small']),
        helper.make_node('Cast', ['small'], ['y'], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, 1, 3)) for n in 'xy']
    graph = helper.make_graph(nodes, 'g', ends[:1], ends[1:], factors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)


def test_every_result_is_rounded_to_fp16() -> None:
    import onnxruntime

    values = np.array([1.2345678, 0.1, 250.0], np.float32).reshape(1, 1, 1, 3)
    session = onnxruntime.InferenceSession(rounded(half_graph()).SerializeToString())
    (found,) = session.run(None, {'x': values})
    half = values.astype(np.float16).astype(np.float32)
    with np.errstate(over='ignore'):
        large = (half * np.float32(300)).astype(np.float16).astype(np.float32)
    down = np.float32(np.float16(1 / 300.0))
    expected = (large * down).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert np.isinf(found[0, 0, 0, 2]), '250 x 300 is beyond fp16, and the graph must tell'


@pytest.fixture
def frames(picture: Any) -> Frames:
    """Two labelled pictures whose labels are of another size, one without, eight for int8."""
    labels = np.zeros((45, 80), np.uint8)
    labels[10:20, 10:40] = 1
    pairs = [(picture(seed, *SIZE), labels) for seed in range(2)]
    return Frames({'two': pairs}, [picture(2, *SIZE)], [picture(9 + n, *SIZE) for n in range(8)])


def test_a_precision_is_judged_against_the_cpu(tiny_model: Path, frames: Frames) -> None:
    model = model_file.read(tiny_model)
    exact = row(model, 'fp32', frames, None)
    assert exact['passed'] and exact['frames'] == 3 and exact['labels'] > 0.999
    assert exact['score'] < 1e-4 and abs(exact['ap_change']['two']) < 1e-3
    half = row(model, 'fp16', frames, None)
    assert exact['score'] < half['score'] < 0.02, 'rounded, and not by much'
    assert 'rounded to fp16 after each operation' in half['engine']
    table = markdown([exact, half])
    assert table.count('\n| tiny') == 2 and 'AP two' in table


def test_a_change_of_ap_beyond_the_limit_fails(
    tiny_model: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_parity.AP_LIMITS, 'fp16', -1.0)
    found = row(model_file.read(tiny_model), 'fp16', frames, None)
    assert not found['passed']
    assert '**no**' in markdown([found])


def test_average_precision_of_known_scores(frames: Frames) -> None:
    (_, labels), _ = frames.labelled['two']
    assert average_precisions(lambda frame: labels.astype(np.float32), frames) == {'two': 1.0}
    constant = average_precisions(lambda frame: np.zeros((3, 4), np.float32), frames)
    assert constant['two'] == pytest.approx(labels.mean())


def test_int8_needs_frames(tiny_model: Path) -> None:
    with pytest.raises(EngineError, match='too few to calibrate'):
        GraphOnCpu(model_file.read(tiny_model), SIZE, 'int8')


def test_data_and_models_that_are_not_there(tmp_path: Path, capsys: Any) -> None:
    assert gpu_parity.main(['--model', 'street-small', '--data', str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert gpu_parity.main(['--model', 'no_such', '--data', str(tmp_path)]) == 2


def test_frames_are_read_at_the_size_of_the_camera(shared_data: Path) -> None:
    found = gpu_parity.read_frames(shared_data, (72, 128))
    assert len(found.every) == gpu_parity.FRAMES
    assert len(found.calibration) == gpu_parity.CALIBRATION_FRAMES
    assert {frame.shape for frame in found.every + found.calibration} == {(72, 128, 3)}


def test_the_page_shows_what_was_measured() -> None:
    rows = json.loads(KEPT.read_text())
    assert markdown(rows) in (ROOT / 'docs' / 'tensorrt.md').read_text()
    shipped = {model_file.read(path).sha256 for path in (ROOT / 'models').glob('*.onnx')}
    assert {one['sha256'] for one in rows} == shipped
    assert len(rows) == 3 * len(shipped)
