"""A drive and its results as a recording (.rrd) for the rerun viewer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.images import compressed_fields
from vq_anomaly_ros.outputs import anomaly_topics, encoded_score
from vq_anomaly_ros.replay.frame_results import DroppedFrame, FrameResult, frame_rarity

_OPACITY = 0.35
_QUALITY = 80
# What a person sees is kept at this width; labels and scores at that of the score map.
_WIDTH = 960
# Grey values of a score that make a decade: hovering shows decades.
_PER_DECADE = 255 / 5


class RerunError(RuntimeError):
    """The recording cannot be written; the message says why and what to do."""


class RerunRecording:
    """Write one recording; a context manager that leaves the whole file, or on any error none.

    Every entity lies below its camera: picture, overlay, classes (with names and colours), score
    (in decades, 0..5), the curves anomaly_fraction, rarity and obstacles, the timing latency_ms,
    drift (the largest excess: WARN begins at 1, ERROR at 2) and events, all on the timelines
    `stamp` (of the frame's header) and `frame`.
    """

    def __init__(self, path: Path, info: ModelInfo) -> None:
        """Prepare to write `path`; RerunError where rerun is not installed."""
        try:
            import rerun
        except ImportError as error:
            raise RerunError(
                f'{path}: the package rerun-sdk is not installed ({error}); '
                'install it into the environment (pip install rerun-sdk) or leave --rerun out'
            ) from error
        self._rerun: Any = rerun
        self._path = path
        self._info = info
        self._frames = 0
        self._cameras: set[str] = set()

    def __enter__(self) -> RerunRecording:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                folder = tempfile.TemporaryDirectory(prefix='.rerun.', dir=self._path.parent)
                self._scratch = Path(stack.enter_context(folder)) / self._path.name
                self._recording = self._rerun.RecordingStream('vq_anomaly_ros')
                self._recording.save(self._scratch)
                self._cleaning = stack.pop_all()
        except OSError as error:
            raise RerunError(
                f'{self._path}: cannot be written ({error.strerror}); choose another place'
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._cleaning:
            if kind is None:
                self._recording.send_blueprint(self._blueprint())
            self._recording.disconnect()
            if kind is None:
                self._scratch.replace(self._path)

    def recorded(
        self, found: Iterable[FrameResult | DroppedFrame]
    ) -> Iterator[FrameResult | DroppedFrame]:
        """Pass results on, recording each."""
        for one in found:
            if isinstance(one, FrameResult):
                self.add(one)
            yield one

    def add(self, result: FrameResult) -> None:
        """Record a frame and what was said of it."""
        camera = anomaly_topics(result.topic).removesuffix('/anomaly').strip('/') or 'camera'
        stamp = np.datetime64(result.stamp_ns, 'ns')
        self._recording.set_time('stamp', timestamp=stamp)
        self._recording.set_time('frame', sequence=self._frames)
        self._frames += 1
        if camera not in self._cameras:
            self._cameras.add(camera)
            self._name_classes(camera)
        for name, content in self._contents(result).items():
            self._recording.log(f'{camera}/{name}', content)

    def _name_classes(self, camera: str) -> None:
        classes = zip(self._info.classes, self._info.palette, strict=True)
        named = [(number, name, colour) for number, (name, colour) in enumerate(classes)]
        context = self._rerun.AnnotationContext(named)
        self._recording.log(f'{camera}/classes', context, static=True)

    def _contents(self, result: FrameResult) -> dict[str, Any]:
        rerun, detection = self._rerun, result.detection
        height, width = detection.raw_score.shape
        score = cv2.resize(detection.score, (width, height), interpolation=cv2.INTER_AREA)
        contents = {
            'picture': self._jpeg(result.frame.bgr()),
            'overlay': self._jpeg(overlay(result.frame, detection, self._info, _OPACITY)),
            'score': rerun.DepthImage(
                encoded_score(score, 'mono8'), meter=_PER_DECADE, depth_range=[0, 255]
            ),
            'curves/anomaly_fraction': rerun.Scalars(float(np.mean(detection.anomaly_mask > 0))),
            'curves/rarity': rerun.Scalars(frame_rarity(detection.score)),
            'curves/obstacles': rerun.Scalars(len(detection.obstacles)),
        }
        if detection.labels is not None:
            small = cv2.resize(
                detection.labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT
            )
            contents['classes'] = rerun.SegmentationImage(small)
        if result.latency_ms is not None:
            contents['timing/latency_ms'] = rerun.Scalars(result.latency_ms)
        if result.drift is not None:
            contents['drift'] = rerun.Scalars(max(result.drift.excesses.values()))
        for event in result.events:
            contents['events'] = rerun.TextLog(event.message, level=event.level.name)
        return contents

    def _jpeg(self, bgr: np.ndarray) -> Any:
        scale = min(1.0, _WIDTH / bgr.shape[1])
        if scale < 1:
            bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = compressed_fields(bgr, 'jpeg', _QUALITY)['data'].tobytes()
        return self._rerun.EncodedImage(contents=data, media_type='image/jpeg')

    def _blueprint(self) -> Any:
        views = self._rerun.blueprint
        pictures = [
            views.Spatial2DView(origin=f'{camera}/{name}', name=f'{camera} {name}')
            for camera in sorted(self._cameras)
            for name in ('overlay', 'score', 'picture', 'classes')
        ]
        curves = [
            views.TimeSeriesView(origin=f'{camera}/{name}', name=f'{camera} {name}')
            for camera in sorted(self._cameras)
            for name in ('curves', 'timing', 'drift')
        ]
        curves += [
            views.TextLogView(origin=f'{camera}/events', name=f'{camera} events')
            for camera in sorted(self._cameras)
        ]
        rows = views.Vertical(views.Grid(*pictures), views.Horizontal(*curves), row_shares=[4, 1])
        return views.Blueprint(rows)
