"""OpenVINO's engine: graphs of an engine that was closed serve the next one of the same kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('openvino')

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines import openvino as engine_module
from vq_anomaly_ros.detection.engines.openvino import OpenVinoEngine
from vq_anomaly_ros.detection.model_file import ModelFile


class Counting:
    """A core that counts what it compiles."""

    def __init__(self, core: object) -> None:
        self.core = core
        self.compiled = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.core, name)

    def compile_model(self, *arguments: object) -> object:
        self.compiled += 1
        return self.core.compile_model(*arguments)  # type: ignore[attr-defined]


@pytest.fixture
def model(tiny_model: Path) -> ModelFile:
    return model_file.read(tiny_model)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """A core that counts, and a shelf that holds nothing yet."""
    counting = Counting(engine_module.shared_core())
    monkeypatch.setattr(engine_module, 'shared_core', lambda: counting)
    monkeypatch.setattr(engine_module, '_SHELF', engine_module._Shelf())
    return counting


def opened(model: ModelFile, **changes: object) -> OpenVinoEngine:
    arguments = {'outputs': ('score', 'labels'), 'threads': 1, 'streams': 1, **changes}
    return OpenVinoEngine(model, **arguments)  # type: ignore[arg-type]


def answer(engine: OpenVinoEngine, picture: np.ndarray) -> np.ndarray:
    engine.input_buffer(1)[0] = picture
    return engine.infer(1)['score'].copy()


def test_the_next_engine_of_the_same_kind_compiles_nothing(
    core: Counting, model: ModelFile, picture: Callable[..., np.ndarray]
) -> None:
    image = picture(0, *model.info.input_size)
    first = opened(model)
    expected = answer(first, image)
    first.close()
    first.close()  # must not count twice
    for _ in range(3):
        engine = opened(model)
        np.testing.assert_array_equal(answer(engine, image), expected)
        engine.close()
    assert core.compiled == 1


def test_graphs_in_use_are_for_nobody_else(core: Counting, model: ModelFile) -> None:
    """An engine that hangs is never closed: what comes after it must not run on its graph."""
    hanging = opened(model)
    opened(model)
    assert core.compiled == 2
    hanging.close()
    opened(model)
    assert core.compiled == 2


@pytest.mark.parametrize(
    'change', [{'outputs': ('score',)}, {'threads': 2}, {'threads': 2, 'streams': 2}]
)
def test_another_kind_is_compiled_and_the_kept_graphs_are_let_go(
    core: Counting, model: ModelFile, change: dict[str, object]
) -> None:
    opened(model).close()
    opened(model, **change).close()
    assert core.compiled == 2
    opened(model).close()
    assert core.compiled == 3  # one model at a time stays in memory


def test_another_model_is_compiled(
    core: Counting, model: ModelFile, make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    opened(model).close()
    opened(model_file.read(make_tiny_model(tmp_path / 'half.onnx', half=True))).close()
    assert core.compiled == 2


def test_twins_hold_their_graph_until_the_last_is_closed(core: Counting, model: ModelFile) -> None:
    engine = opened(model, threads=2, streams=2)
    twin = engine.twin()
    engine.close()
    opened(model, threads=2, streams=2)
    assert core.compiled == 2
    twin.close()
    opened(model, threads=2, streams=2)
    assert core.compiled == 2


def test_graphs_that_failed_on_a_frame_are_not_kept(
    core: Counting, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(model)

    def fails() -> None:
        raise RuntimeError('no')

    prepared = engine._batches[1]
    monkeypatch.setitem(engine._batches, 1, dataclasses.replace(prepared, run=fails))
    with pytest.raises(EngineError, match='failed on a frame'):
        engine.infer(1)
    engine.close()
    opened(model)
    assert core.compiled == 2
