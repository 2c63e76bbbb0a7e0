"""The way of a frame: from the slot of its camera through the detector onto its topics.

What lives between configure and cleanup is made here, in order, and released in the reverse order.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from contextlib import ExitStack
from typing import Any, Literal, cast

import numpy as np
from rclpy.lifecycle import LifecycleNode

from vq_anomaly_ros import outputs
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.model_file import ModelInfo, find_model
from vq_anomaly_ros.images import Frame, ImageError, as_frame
from vq_anomaly_ros.node.camera_outputs import CameraOutputs
from vq_anomaly_ros.node.health import LatencyWindow, Throttle
from vq_anomaly_ros.node.latest_frames import FrameWorker, LatestFrames, Outcome, Taken
from vq_anomaly_ros.node.palettes import read_palette
from vq_anomaly_ros.node.parameters import Settings


class Pipeline:
    """Detector, slots, worker and topics of all cameras."""

    def __init__(self, node: LifecycleNode, settings: Settings) -> None:
        """Load the model, open the engine and offer the topics; nothing runs yet.

        Raises:
            ValueError, OSError, EngineError: the model, the palette or the engine cannot be used.
        """
        self._node = node
        self._settings = settings
        self._throttle = Throttle()
        with ExitStack() as stack:
            self.detector = stack.enter_context(Detector(_config(settings)))
            self.info = _with_palette(self.detector.info, settings.palette)
            _warm_up(self.detector)
            self.frames: LatestFrames[Any] = LatestFrames(settings.cameras)
            self.latency = {camera: LatencyWindow() for camera in settings.cameras}
            self._worker = FrameWorker(self.frames, self._process, self._on_bad_frame, ImageError)
            self._outputs: dict[str, CameraOutputs] = {}
            for camera in settings.cameras:
                self._outputs[camera] = CameraOutputs(node, camera, bool(self.info.classes))
                stack.callback(self._outputs[camera].destroy)
            stack.callback(self._worker.stop)
            self._publish_label_info()
            self._release = stack.pop_all()

    def start(self) -> None:
        """Take frames from the slots from now on."""
        self._worker.start()

    def stop(self) -> None:
        """Take no more frames; returns when the one in work is through."""
        self._worker.stop()

    def close(self) -> None:
        """Stop, take the topics back, close the engine."""
        self._release.close()

    def change(self, settings: Settings) -> None:
        """Use parameters that were changed at run time from the next frame on."""
        self._settings = settings
        if settings.target_fpr != self.detector.target_fpr:
            self.detector.target_fpr = settings.target_fpr
            self._publish_label_info()

    def _process(self, taken: Taken[Any]) -> None:
        """The whole way of one frame; on the worker thread."""
        frame = as_frame(taken.item)
        (detection,) = self.detector.detect([frame])
        self._outputs[taken.camera].publish(
            taken.item.header, frame, detection, self.info, self._settings.overlay_opacity
        )
        now = time.monotonic()
        self.latency[taken.camera].add(now, now - taken.arrived)

    def _on_bad_frame(self, camera: str, outcome: Outcome, error: Exception) -> None:
        """Say what is wrong, at most once a second a camera; on the worker thread."""
        held_back = self._throttle.go(f'{camera} {outcome.value}', time.monotonic())
        if held_back is None:
            return
        topic = self._settings.input_topic(camera)
        more = f' ({held_back} more since the last message)' if held_back else ''
        logger = self._node.get_logger()
        if outcome is Outcome.REJECTED:
            logger.warning(f'{topic}: frame rejected: {error}{more}')
            return
        logger.error(f'{topic}: frame failed: {type(error).__name__}: {error}{more}')
        logger.debug(''.join(traceback.format_exception(error)))

    def _publish_label_info(self) -> None:
        text = outputs.label_info(self.info, self.detector.calibration, self.detector.target_fpr)
        for camera_outputs in self._outputs.values():
            camera_outputs.publish_label_info(text)


def _config(settings: Settings) -> DetectorConfig:
    return DetectorConfig(
        model=find_model(settings.model),
        backend=settings.backend,
        output_size=cast(Literal['network', 'camera'], settings.output_size),
        target_fpr=settings.target_fpr,
        threads=settings.threads,
    )


def _with_palette(info: ModelInfo, palette: str) -> ModelInfo:
    if not palette:
        return info
    return dataclasses.replace(info, palette=read_palette(palette, info.classes))


def _warm_up(detector: Detector) -> None:
    """Run one black frame: an engine that cannot run is found now, and the first frame is fast."""
    black = np.zeros((*detector.info.input_size, 3), np.uint8)
    detector.detect([Frame(black, 'rgb')])
