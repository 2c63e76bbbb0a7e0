"""What is asked of a GPU; light to import, because every node does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vq_anomaly_ros.detection.engines.plan_cache import default_folder

if TYPE_CHECKING:
    import onnx

Precision = Literal['fp32', 'fp16', 'int8']


def _silent(message: str) -> None:
    pass


def _unwatched() -> None:
    pass


def _unseen(phase: str, done: float) -> None:
    pass


@dataclass(frozen=True)
class GpuOptions:
    """How plans are made and run.

    precision: 'fp32', 'fp16' or 'int8'; batch: frames that run together; workspace_mb: memory that
    a layer may use while building, MB; folder: of the plans; report: told in a line what happens
    (building, why a plan was dropped); progress: told at every step of a build its phase and how
    far that is, 0..1; alive: called several times a second while a plan is built or waited for,
    which takes minutes and is no hang; cancelled: gives up a build once it is set; use_graphs:
    whether work is captured as CUDA graphs; quantise: makes the int8 graph of an fp32 one.
    """

    precision: Precision = 'fp16'
    batch: int = 1
    workspace_mb: int = 512
    folder: Path = field(default_factory=default_folder)
    report: Callable[[str], None] = _silent
    progress: Callable[[str, float], None] = _unseen
    alive: Callable[[], None] = _unwatched
    cancelled: threading.Event | None = None
    use_graphs: bool = True
    quantise: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
