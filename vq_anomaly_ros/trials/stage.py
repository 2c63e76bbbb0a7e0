"""Where the processes of a trial meet."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.context import Context

from vq_anomaly_ros.replay.processes import Child, start_child
from vq_anomaly_ros.trials.detector_process import DetectorProcess
from vq_anomaly_ros.trials.peer import Peer

SENDER = 'vq_anomaly_ros.node.transport'


@dataclass(frozen=True)
class Load:
    """Cameras, their pictures' size (h, w), their rate in Hz, and what the node answers with.

    streams: as the node's parameter.
    """

    cameras: int
    size: tuple[int, int]
    rate: float
    output_size: str = 'network'
    streams: int = 0


@dataclass(frozen=True)
class Stage:
    """Where the processes meet: a context of rclpy, their environment, a folder for their logs.

    picture: file of what a sender's cameras send; None: black.
    """

    context: Context
    environment: Mapping[str, str]
    folder: Path
    picture: Path | None = None

    def peer(self, stack: ExitStack) -> Peer:
        """A peer that goes with the stack."""
        peer = Peer(self.context)
        stack.callback(peer.close)
        return peer

    def node(self, stack: ExitStack, peer: Peer, **parameters: Any) -> DetectorProcess:
        """Start the node; it ends with the stack."""
        return DetectorProcess(stack, peer, self.environment, self.folder, **parameters)

    def send(self, stack: ExitStack, load: Load, seconds: float) -> Child:
        """Start the sender; it ends with the stack."""
        height, width = load.size
        values: dict[str, Any] = {
            'cameras': load.cameras, 'rate': load.rate, 'seconds': seconds, 'width': width,
            'height': height,
        }  # fmt: skip
        if self.picture is not None:
            values['picture'] = self.picture
        arguments = [word for name, value in values.items() for word in (f'--{name}', str(value))]
        log = self.folder / f'sender_{len(list(self.folder.iterdir()))}.txt'
        return start_child(stack, SENDER, ['send', *arguments], self.environment, log)
