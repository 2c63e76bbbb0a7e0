"""From a GPU graph to a plan: in a child process, with progress, cancellable.

The builder holds gigabytes of host memory, runs for minutes and takes the process down with it
when it crashes; a node that publishes meanwhile should not share its fate.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.engines.cuda import CudaError, find_device
from vq_anomaly_ros.detection.engines.tensorrt_api import TensorRt

if TYPE_CHECKING:
    import tensorrt as trt

# Import names; TensorRT-RTX has the interface of TensorRT and runs on RTX cards.
LIBRARIES = ('tensorrt', 'tensorrt_rtx_bindings')
INSTALL = (
    'install TensorRT (on a Jetson: apt install tensorrt python3-libnvinfer; elsewhere: '
    'pip install tensorrt) or use backend openvino'
)
Progress = Callable[[str, float], None]


class BuildCancelledError(EngineError):
    """The build was given up on request."""


def find_library(names: Sequence[str] | None = None) -> TensorRt:
    """The first of the libraries that is installed; EngineError says what to install."""
    causes = []
    for name in LIBRARIES if names is None else names:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken installation raises whatever its loader meets
            causes.append(f'{name}: {error}')
            continue
        if hasattr(module, 'Builder'):  # stubs for type checkers are importable, too
            return cast('TensorRt', module)
    raise EngineError(f'TensorRT is not installed ({"; ".join(causes) or "stubs only"}): {INSTALL}')


_loggers: dict[str, trt.ILogger] = {}


def logger(library: TensorRt) -> trt.ILogger:
    """TensorRT's logger, one for the process: the library keeps a pointer to the first it sees."""
    if library.__name__ not in _loggers:
        _loggers[library.__name__] = library.Logger(library.Logger.WARNING)
    return _loggers[library.__name__]


def settings(workspace_mb: int) -> str:
    """What `serialised` tells the builder, for the plan's key."""
    return f'strongly typed, no TF32, workspace {workspace_mb} MB'


def library_name(library: TensorRt) -> str:
    """Name and full version: a plan needs the very one that built it."""
    return f'{library.__name__} {library.__version__}'


def build_plan(
    graph: bytes,
    library: TensorRt,
    workspace_mb: int,
    progress: Progress,
    cancelled: threading.Event | None = None,
    alive: Callable[[], None] | None = None,
) -> bytes:
    """Build in a child process; `progress` is told the phase and its share done, 0..1.

    workspace_mb: memory that a layer may use on the GPU; alive: called every 0.1 s meanwhile.
    Raises EngineError with the parser's or builder's words, BuildCancelledError once `cancelled`
    is set.
    """
    with tempfile.TemporaryDirectory(prefix='vq_anomaly_build.') as folder:
        source, target = Path(folder) / 'graph.onnx', Path(folder) / 'out.plan'
        source.write_bytes(graph)
        command = [sys.executable, '-m', __name__, str(source), str(target), library.__name__]
        with subprocess.Popen(
            [*command, str(workspace_mb)],
            stdin=subprocess.PIPE,  # its end tells the child that its parent is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)},
        ) as child:
            try:
                said = _follow(child, progress, cancelled, alive)
            except BaseException:
                child.kill()  # before its pipes are closed, one of which is being read
                raise
        if child.returncode or not target.exists():
            raise EngineError(
                f'{library_name(library)} cannot build the graph '
                f'({said or f"its process ended with {child.returncode}"}); lower the workspace, '
                'use another precision, or backend openvino'
            )
        return target.read_bytes()


def _follow(
    child: subprocess.Popen[bytes],
    progress: Progress,
    cancelled: threading.Event | None,
    alive: Callable[[], None] | None,
) -> str:
    """Pass on the child's progress until it ends; returns what it said of an error."""
    tail: list[bytes] = []
    # Its own messages may be many: without a reader the child would stop at a full pipe.
    reader = threading.Thread(target=_keep_tail, args=(child.stderr or (), tail), daemon=True)
    reader.start()
    watcher = threading.Thread(target=_watch, args=(child, cancelled, alive), daemon=True)
    watcher.start()
    said = ''
    for line in child.stdout or ():
        try:
            report = json.loads(line)
        except ValueError:
            continue  # what a library prints itself
        if 'error' in report:
            said = str(report['error'])
        else:
            progress(str(report.get('phase', '')), float(report.get('done', 0.0)))
    child.wait()
    reader.join(timeout=5)
    if cancelled is not None and cancelled.is_set():
        raise BuildCancelledError('the build of the plan was cancelled')
    words = b' '.join(tail).decode(errors='replace').strip()[-300:]
    return '; '.join(text for text in (said, words) if text)


def _keep_tail(stream: Iterable[bytes], tail: list[bytes]) -> None:
    for line in stream:
        tail.append(line.strip())
        del tail[:-5]


def _watch(
    child: subprocess.Popen[bytes],
    cancelled: threading.Event | None,
    alive: Callable[[], None] | None,
) -> None:
    """Say that the child lives while it does, and kill it on request."""
    never = threading.Event()
    while child.poll() is None:
        if alive is not None:
            alive()
        if (cancelled or never).wait(0.1):
            child.kill()
            return


# In the child ---------------------------------------------------------------------------------


def parsed(
    library: TensorRt, graph: bytes, log: trt.ILogger
) -> tuple[trt.Builder, trt.INetworkDefinition]:
    """Builder and network of a graph; EngineError with every error of the parser."""
    builder = library.Builder(log)
    flag = getattr(library.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = library.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError('; '.join(errors) or 'the parser refuses the graph')
    return builder, network


def serialised(
    library: TensorRt,
    graph: bytes,
    workspace_mb: int,
    monitor: trt.IProgressMonitor | None,
    log: trt.ILogger,
) -> bytes:
    """Parse and build in this process; EngineError where the builder gives nothing."""
    builder, network = parsed(library, graph, log)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    # fp32 is meant: distances in TF32, with ten bits, are not those of the trained network.
    config.clear_flag(library.BuilderFlag.TF32)
    _for_this_gpu(library, config)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError('the builder gave no plan')
    return bytes(plan)


def _for_this_gpu(library: TensorRt, config: trt.IBuilderConfig) -> None:
    """TensorRT-RTX builds for all its newer GPUs unless it is told, TensorRT for this one."""
    kinds = getattr(library, 'ComputeCapability', None)
    if kinds is not None and driver_is_there():
        chosen: Any = config
        chosen.num_compute_capabilities = 1
        chosen.set_compute_capability(kinds.CURRENT, 0)


def driver_is_there() -> bool:
    """Whether there is a driver with a GPU."""
    try:
        find_device()
    except CudaError:
        return False
    return True


def progress_monitor(library: TensorRt, report: Progress) -> trt.IProgressMonitor:
    """A monitor of TensorRT's that reports phase and share; its methods run in builder threads."""

    class Monitor(library.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            report(phase, 0.0)

        def step_complete(self, phase: str, step: int) -> bool:
            report(phase, (step + 1) / max(self.steps.get(phase, 1), 1))
            return True

        def phase_finish(self, phase: str) -> None:
            report(phase, 1.0)

    return Monitor()


def _leave_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):  # unbuffered: no lock to be held at the end
        continue
    os._exit(1)


def child_main(source: Path, target: Path, name: str, workspace_mb: int) -> int:
    """What the child process does; returns its exit code."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    lock = threading.Lock()

    def tell(**fields: Any) -> None:
        with lock:
            print(json.dumps(fields), flush=True)

    try:
        library = find_library((name,))
        monitor = progress_monitor(library, lambda phase, done: tell(phase=phase, done=done))
        plan = serialised(library, source.read_bytes(), workspace_mb, monitor, logger(library))
        part = target.with_suffix('.part')
        part.write_bytes(plan)
        part.replace(target)
    except (EngineError, OSError) as error:
        tell(error=str(error))
        return 1
    return 0


if __name__ == '__main__':
    arguments = sys.argv[1:]
    sys.exit(child_main(Path(arguments[0]), Path(arguments[1]), arguments[2], int(arguments[3])))
