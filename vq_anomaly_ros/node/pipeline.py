"""The way of a frame: from the slot of its camera through the detector onto its topics.

What lives between configure and cleanup is made here, in order, and released in the reverse order.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from vq_anomaly_ros import outputs
from vq_anomaly_ros.detection.atlas import atlas_for
from vq_anomaly_ros.detection.detector import (
    Detection,
    Detector,
    DetectorConfig,
    LabelUpsampling,
    OutputSize,
)
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions, Precision
from vq_anomaly_ros.detection.events import CameraWatch, camera_watch
from vq_anomaly_ros.detection.explanation import Explainer, Explanation
from vq_anomaly_ros.detection.model_file import ModelInfo, find_model
from vq_anomaly_ros.detection.regions import regions_of
from vq_anomaly_ros.detection.scene import Scene, SceneConfig, scene_of
from vq_anomaly_ros.images import Frame, ImageError, as_frame
from vq_anomaly_ros.machine import usable_cores
from vq_anomaly_ros.node.camera_outputs import CameraOutputs
from vq_anomaly_ros.node.continuity import Continuity, FrameKind
from vq_anomaly_ros.node.explanations import Explanations
from vq_anomaly_ros.node.frame_worker import FrameWorker
from vq_anomaly_ros.node.health import LatencyWindow, Throttle
from vq_anomaly_ros.node.latest_frames import LatestFrames, Outcome, Taken
from vq_anomaly_ros.node.messages import stamp_ns
from vq_anomaly_ros.node.palettes import read_palette
from vq_anomaly_ros.node.parameters import Settings
from vq_anomaly_ros.node.watchdog import Watchdog, Work

# Without being asked: each takes memory for a frame, and its frame longer.
_MOST_STREAMS = 4


class Found(NamedTuple):
    """What the detector's thread hands to the publisher's: the arguments of CameraOutputs.publish.

    settings: those that the frame was looked at with.
    """

    frame: Frame
    detection: Detection
    camera_info: CameraInfo | None
    settings: Settings


class Pipeline:
    """Detector, slots, worker and topics of all cameras."""

    def __init__(
        self, node: LifecycleNode, settings: Settings, watchdog: Watchdog | None = None
    ) -> None:
        """Load the model, open the engine and offer the topics; nothing runs yet.

        watchdog: watches every frame in work.

        Raises:
            ValueError, OSError, EngineError: the model, its calibration, the palette or the engine
                cannot be used, or two cameras are one.
        """
        self._node = node
        self._settings = settings
        self._watchdog = watchdog or Watchdog(0.0, lambda work: None)
        self._works: dict[str, Work] = {}
        self.abandoned: list[FrameWorker[Any, Found]] = []
        self._throttle = Throttle()
        _check_cameras(node, settings)
        self.engine_report = ''
        self._cancelled = threading.Event()
        self._gpu = GpuOptions(
            precision=cast(Precision, settings.gpu_precision),
            workspace_mb=settings.gpu_workspace_mb,
            report=self._report,
            alive=self._watchdog.alive,
            cancelled=self._cancelled,
        )
        with ExitStack() as stack:
            self.detector = self._opened()
            self.frames: LatestFrames[Any] = LatestFrames(settings.cameras)
            self._worker = self._new_worker()
            stack.callback(self._close_detector)
            self.info = _with_palette(self.detector.info, settings.palette)
            self.latency = {camera: LatencyWindow() for camera in settings.cameras}
            self.waits = {camera: LatencyWindow() for camera in settings.cameras}
            self.continuity = {camera: Continuity() for camera in settings.cameras}
            self.watches = {camera: self._watch_of(camera) for camera in settings.cameras}
            self.scenes = self._new_scenes()
            self.camera_infos: dict[str, CameraInfo] = {}
            self.outputs: dict[str, CameraOutputs] = {}
            for camera in settings.cameras:
                self.outputs[camera] = CameraOutputs(node, camera, self.info, settings)
                stack.callback(self.outputs[camera].destroy)
            self._explainer = self._new_explainer()
            self.explanations = Explanations(
                self._explainer,
                settings.cameras,
                settings.explain_frames,
                self._on_explained,
                self._on_refused,
            )
            stack.callback(self.stop)
            self._publish_label_info()
            self._release = stack.pop_all()

    def start(self) -> None:
        """Take frames from the slots from now on."""
        self._cancelled.clear()
        if self._worker.abandoned:
            self._renew()
        self._worker.start()
        self.explanations.start()

    def stop(self) -> None:
        """Take no more frames; returns when the one in work is through, or its build given up.

        One that takes longer than `engine_timeout` is left to itself.
        """
        self._cancelled.set()
        self.explanations.stop()
        if not self._worker.stop(self._settings.engine_timeout or None):
            self.abandon()

    def hangs_on(self, work: Work) -> bool:
        """Return whether this is what the worker, not abandoned yet, is still at."""
        at_it = work in self._works.values() and self._watchdog.watches(work)
        return at_it and not self._worker.abandoned

    def abandon(self) -> None:
        """Leave the worker, which hangs, to itself, and the engine to it; idempotent."""
        if not self._worker.abandoned:
            self._worker.abandon(self.detector.close)
            self.abandoned.append(self._worker)

    def reopen(self) -> None:
        """Abandon engine and worker and go on with fresh ones; raises as the constructor does."""
        self.abandon()
        self._renew()
        self._worker.start()

    def close(self) -> None:
        """Stop, take the topics back, close the engine."""
        self._release.close()

    def _opened(self) -> Detector:
        """Open the engine and let it run once."""
        detector = Detector(_config(self._settings, self._gpu))
        try:
            _warm_up(detector)
        except BaseException:
            detector.close()
            raise
        return detector

    def _new_worker(self) -> FrameWorker[Any, Found]:
        return FrameWorker(
            self.frames,
            self._detect,
            self._publish,
            self._on_bad_frame,
            ImageError,
            self.detector.streams,
        )

    def _renew(self) -> None:
        self.detector = self._opened()
        self._worker = self._new_worker()

    def _close_detector(self) -> None:
        # An abandoned worker closes its own, should it ever come back: not under its feet.
        if not self._worker.abandoned:
            self.detector.close()

    def _report(self, line: str) -> None:
        """What the engine says of its plan, for the log and diagnostics."""
        self.engine_report = line
        self._node.get_logger().info(line)

    def change(self, settings: Settings) -> None:
        """Use parameters that were changed at run time from the next frame on."""
        before, self._settings = self._settings, settings
        self.detector.target_fpr = settings.target_fpr
        self.detector.output_size = cast(OutputSize, settings.output_size)
        self.detector.min_obstacle_area = settings.min_obstacle_area
        for scene in self.scenes.values():
            scene.config = _scene_config(settings, scene.config)
        if _label_info_of(settings) != _label_info_of(before):
            self._publish_label_info()

    def _detect(self, taken: Taken[Any]) -> Found:
        """What is found in a frame; on a detector's thread."""
        with self._watching(f'a frame of {taken.camera}'):
            settings, message = self._settings, taken.item
            self.waits[taken.camera].add(now := time.monotonic(), now - taken.arrived)
            frame = as_frame(message, settings.input_bits)
            self._watch(taken.camera, message, frame)
            (detection,) = self.detector.detect([frame], [self.scenes[taken.camera]])
            return Found(frame, detection, self.camera_infos.get(taken.camera), settings)

    def _publish(self, taken: Taken[Any], found: Found) -> None:
        """Results to messages; on the publisher's thread, while the next frame is looked at."""
        with self._watching(f'to publish a frame of {taken.camera}'):
            self.outputs[taken.camera].publish(taken.item.header, *found)
            self._tell_events(taken, found)
            header = taken.item.header
            self.explanations.remember(taken.camera, header, found.frame, found.detection)
        now = time.monotonic()
        self.latency[taken.camera].add(now, now - taken.arrived)

    @contextmanager
    def _watching(self, what: str) -> Iterator[None]:
        """Watch what this thread of the worker is at."""
        with self._watchdog.watching(what) as work:
            self._works[threading.current_thread().name] = work
            yield

    def _tell_events(self, taken: Taken[Any], found: Found) -> None:
        """What begins with this frame: on its topics and in the log."""
        camera, header = taken.camera, taken.item.header
        for event in self.watches[camera].see(stamp_ns(header), found.frame, found.detection):
            self.outputs[camera].publish_event(header, event, found.frame, found.detection)
            self._say(camera, event.kind, 'warning', f'{event.level.name}: {event.message}')

    def _new_explainer(self) -> Explainer:
        """What explains pixels; raises AtlasError for an atlas that is none of the model."""
        model = self.detector.model
        return Explainer(
            model,
            self.detector.calibration,
            self.detector.calibration_file,
            atlas_for(model, self._settings.atlas),
        )

    def _on_explained(self, camera: str, header: Header, frame: Frame, told: Explanation) -> None:
        outputs_of = self.outputs[camera]
        outputs_of.publish_explanation(header, frame, told, self._explainer.atlas)

    def _on_refused(self, camera: str, header: Header, why: str) -> None:
        self.outputs[camera].publish_refusal(header, why)
        self._say(camera, 'explain_at', 'warning', f'explain_at: {why}')

    def _watch_of(self, camera: str) -> CameraWatch:
        """The drift monitor of a camera, with the limits of the calibration where it has some."""
        topic = self._image_topic(camera)
        return camera_watch(self.info, self.detector.calibration_file, topic)

    def _new_scenes(self) -> dict[str, Scene]:
        """What is remembered of every camera; RegionError for a region that makes no sense."""
        settings, file = self._settings, self.detector.calibration_file
        regions = regions_of(settings.region, settings.cameras)
        config = _scene_config(settings, SceneConfig())
        return {
            camera: scene_of(config, regions[camera], self.info, file, self._image_topic(camera))
            for camera in settings.cameras
        }

    def _image_topic(self, camera: str) -> str:
        return str(self._node.resolve_topic_name(self._settings.input_topic(camera)))

    def _watch(self, camera: str, message: Any, frame: Frame) -> None:
        """Say what changed since the camera's last frame, at most once a second."""
        encoding = message.encoding if hasattr(message, 'encoding') else message.format
        kind = FrameKind(encoding, *frame.size)
        odd = self.continuity[camera].note(stamp_ns(message.header), kind)
        for what, sentence in odd.items():
            self._say(camera, what, 'warning', sentence)

    def _say(self, camera: str, what: str, level: str, sentence: str) -> bool:
        """Log a sentence about a camera unless one of this kind was logged within a second."""
        held_back = self._throttle.go(f'{camera} {what}', time.monotonic())
        if held_back is None:
            return False
        more = f' ({held_back} more since the last message)' if held_back else ''
        topic = self._image_topic(camera)
        text = f'{topic}: {sentence}{more}'
        # Two lines of code: rclpy raises where one of them changes its level.
        if level == 'error':
            self._node.get_logger().error(text)
        else:
            self._node.get_logger().warning(text)
        return True

    def _on_bad_frame(self, camera: str, outcome: Outcome, error: Exception) -> None:
        """Say what is wrong, at most once a second a camera; on the worker thread."""
        if outcome is Outcome.REJECTED:
            self._say(camera, outcome.value, 'warning', f'frame rejected: {error}')
            return
        sentence = f'frame failed: {type(error).__name__}: {error}'
        if self._say(camera, outcome.value, 'error', sentence):
            self._node.get_logger().debug(''.join(traceback.format_exception(error)))

    def _publish_label_info(self) -> None:
        settings, calibration = self._settings, self.detector.calibration
        encoding = cast(outputs.ScoreEncoding, settings.score_encoding)
        text = outputs.label_info(self.info, calibration, settings.target_fpr, encoding)
        for camera_outputs in self.outputs.values():
            camera_outputs.publish_label_info(text, settings.target_fpr)


def _check_cameras(node: LifecycleNode, settings: Settings) -> None:
    """Raise ValueError if two cameras are one topic, by their namespace or by remapping."""
    heard: dict[str, str] = {}
    for camera in settings.cameras:
        topic = node.resolve_topic_name(settings.input_topic(camera))
        if topic in heard:
            raise ValueError(
                f'parameter cameras: {heard[topic]!r} and {camera!r} are both {topic}; '
                'name each camera once, or remap one of them'
            )
        heard[topic] = camera


def _label_info_of(settings: Settings) -> tuple[float, str]:
    """Return what label_info_json depends on."""
    return settings.target_fpr, settings.score_encoding


def _config(settings: Settings, gpu: GpuOptions) -> DetectorConfig:
    return DetectorConfig(
        model=find_model(settings.model),
        backend=settings.backend,
        output_size=cast(OutputSize, settings.output_size),
        target_fpr=settings.target_fpr,
        threads=settings.threads,
        streams=_streams(settings),
        label_upsampling=cast(LabelUpsampling, settings.label_upsampling),
        min_obstacle_area=settings.min_obstacle_area,
        gpu=gpu,
        calibration=Path(settings.calibration) if settings.calibration else None,
        by_class=settings.calibration_by_class,
    )


def _streams(settings: Settings) -> int:
    """Frames that are looked at at the same time; 0 in the settings: one a camera and core."""
    threads = settings.threads or usable_cores()
    return settings.streams or min(len(settings.cameras), threads, _MOST_STREAMS)


def _scene_config(settings: Settings, before: SceneConfig) -> SceneConfig:
    return dataclasses.replace(
        before,
        smoothing=settings.smoothing,
        persistence=settings.obstacle_persistence,
        obstacle_growth=settings.obstacle_growth,
    )


def _with_palette(info: ModelInfo, palette: str) -> ModelInfo:
    if not palette:
        return info
    return dataclasses.replace(info, palette=read_palette(palette, info.classes))


def _warm_up(detector: Detector) -> None:
    """Run one black frame: an engine that cannot run is found now, and the first frame is fast.

    Not on a GPU, whose plan is of the frames' size: it is loaded or built when the first one comes.
    """
    if detector.engine.takes_frames:
        return
    black = np.zeros((*detector.info.input_size, 3), np.uint8)
    frame = [Frame(black, 'rgb')]
    with ThreadPoolExecutor(detector.streams) as threads:
        for _ in threads.map(detector.detect, [frame] * detector.streams):
            pass
