"""Plans are built in a child process that can report, be cancelled and crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError, build, gpu_graph

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def graph(tiny_model: Path) -> bytes:
    model = model_file.read(tiny_model)
    return gpu_graph.derive(model, (90, 170), 1, ['score', 'camera_labels']).SerializeToString()


def quiet(phase: str, done: float) -> None:
    pass


def test_a_plan_comes_back_with_its_progress(graph: bytes, library: Any) -> None:
    said: list[tuple[str, float]] = []
    plan = build.build_plan(graph, library, 64, lambda *report: said.append(report))
    assert plan == library.header() + graph
    assert [done for phase, done in said if phase == 'tactics'] == [0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_what_the_parser_refuses_is_said(library: Any) -> None:
    with pytest.raises(EngineError, match=r'stand_in_tensorrt 10.3.0.30 cannot build.*second err'):
        build.build_plan(b'no graph', library, 64, quiet)


def test_a_builder_without_a_plan(graph: bytes, library: Any) -> None:
    with pytest.raises(EngineError, match='gave no plan'):
        build.build_plan(graph, library, 0, quiet)


def test_a_builder_that_crashes_takes_nothing_with_it(graph, library, monkeypatch) -> None:
    monkeypatch.setenv('STAND_IN_CRASH', '1')
    with pytest.raises(EngineError, match=f'ended with {-signal.SIGABRT}|Abort'):
        build.build_plan(graph, library, 64, quiet)


def test_a_build_can_be_cancelled(graph, library, monkeypatch) -> None:
    monkeypatch.setenv('STAND_IN_STEPS', '1000')
    monkeypatch.setenv('STAND_IN_STEP_S', '0.05')
    cancelled = threading.Event()
    start = time.monotonic()
    with pytest.raises(build.BuildCancelledError, match='cancelled'):
        build.build_plan(graph, library, 64, lambda phase, done: cancelled.set(), cancelled)
    assert time.monotonic() - start < 25


ORPHAN = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import stand_in_tensorrt
from vq_anomaly_ros.detection.engines import build
graph = Path(sys.argv[1]).read_bytes()
build.build_plan(graph, stand_in_tensorrt, 64, lambda *report: print(*report, flush=True))
"""


def test_an_interrupt_ends_the_build_at_once(graph, library, monkeypatch) -> None:
    monkeypatch.setenv('STAND_IN_STEPS', '1000')
    monkeypatch.setenv('STAND_IN_STEP_S', '0.05')

    def interrupt(phase: str, done: float) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build.build_plan(graph, library, 64, interrupt)
    assert time.monotonic() - start < 25


def test_the_builder_ends_with_its_parent(graph, library, tmp_path: Path) -> None:
    """However the parent dies: the end of a pipe tells the child."""
    (tmp_path / 'graph.onnx').write_bytes(graph)
    paths = [str(ROOT), str(Path(library.__file__).parent)]
    environment = {**os.environ, 'STAND_IN_STEPS': '1000', 'STAND_IN_STEP_S': '0.05'}
    with subprocess.Popen(
        [sys.executable, '-c', ORPHAN, str(tmp_path / 'graph.onnx'), *paths],
        stdout=subprocess.PIPE,
        env=environment,
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline()
        children = Path(f'/proc/{parent.pid}/task/{parent.pid}/children')
        (child,) = [int(pid) for pid in children.read_text().split()]
        parent.kill()
    for _ in range(200):
        state = Path(f'/proc/{child}/stat')
        if not state.exists() or state.read_text().rpartition(')')[2].split()[0] == 'Z':
            return
        time.sleep(0.05)
    raise AssertionError('the child lives on')


def test_a_library_that_is_not_there_is_named_with_what_to_install(tmp_path, monkeypatch) -> None:
    with pytest.raises(EngineError, match=r'TensorRT is not installed.*apt install tensorrt'):
        build.find_library(('no_such_tensorrt',))
    (tmp_path / 'broken_tensorrt.py').write_text('raise OSError("libnvinfer.so.10 not found")')
    (tmp_path / 'stubs_of_tensorrt').mkdir()  # what a type checker reads is importable, too
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ('broken_tensorrt', 'stubs_of_tensorrt')
    with pytest.raises(EngineError, match=r'libnvinfer.so.10 not found.*openvino'):
        build.find_library(names)


def test_nvidias_library_builds_in_the_child(graph: bytes) -> None:
    """The whole path with TensorRT-RTX, which needs no driver to build."""
    library = pytest.importorskip('tensorrt_rtx_bindings')
    phases: set[str] = set()
    plan = build.build_plan(graph, library, 256, lambda phase, done: phases.add(phase))
    assert len(plan) > 10_000 and phases
