"""Frames in, labels, calibrated scores and masks out; no ROS here."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

import cv2
import numpy as np

from vq_anomaly_ros.detection import calibration_file, model_file
from vq_anomaly_ros.detection.calibration import (
    Calibration,
    CalibrationError,
    check_target_fpr,
)
from vq_anomaly_ros.detection.calibration_file import CalibrationFile
from vq_anomaly_ros.detection.engines import (
    Engine,
    EngineError,
    StreamEngine,
    open_cpu_engine,
    open_engine,
)
from vq_anomaly_ros.detection.engines.build import BuildCancelledError
from vq_anomaly_ros.detection.engines.gpu_options import GpuOptions
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError, ModelInfo
from vq_anomaly_ros.detection.obstacles import Obstacle, find_obstacles
from vq_anomaly_ros.detection.scene import Scene
from vq_anomaly_ros.images import TO_RGB, Frame

OutputSize = Literal['network', 'camera']
LabelUpsampling = Literal['nearest', 'bilinear']


@dataclass(frozen=True)
class DetectorConfig:
    """What a detector is made of.

    model: path of the model file; backend: see engines.open_engine; output_size: 'camera' (the
    frame's size) or 'network' (the score map's size); target_fpr: false-positive rate of the mask,
    in (0, 1); threads: 0 = the runtime's choice; streams: calls of `detect` that may run at the
    same time on a CPU, each with its share of the threads; with_labels, with_codes: whether to
    compute them, where the model has them (codes also where the calibration's drift monitor asks
    for them);
    label_upsampling: labels of the camera's size are those of the score map ('nearest', cheap) or
    the argmax of bilinearly upsampled class scores ('bilinear', smooth edges, as in evaluation);
    min_obstacle_area: smallest share of a picture, 0..1, that is told as an obstacle; gpu: how
    TensorRT builds and runs, where it is the backend; calibration: path of a file that `calibrate`
    wrote for this model, None for the table inside the model; by_class: whether a pixel is compared
    with those of its own predicted class on the calibration's drives, where these had enough.
    """

    model: Path
    backend: str = 'auto'
    output_size: OutputSize = 'camera'
    target_fpr: float = 1e-3
    threads: int = 0
    streams: int = 1
    with_labels: bool = True
    with_codes: bool = False
    label_upsampling: LabelUpsampling = 'nearest'
    min_obstacle_area: float = 5e-4
    gpu: GpuOptions | None = None
    calibration: Path | None = None
    by_class: bool = False


@dataclass(frozen=True)
class Detection:
    """What the detector says of one frame; every array owns its memory.

    H, W: the frame's size or the score map's, as configured; h, w: the score map's.
    labels: uint8 [H, W], class id, None where the model has no classes or they are not asked for;
    score: float32 [H, W], calibrated, in [0, 1]; anomaly_mask: uint8 [H, W], 0 or 255, judged at
    the score map's size; raw_score: float32 [h, w], as the network says it; codes: int32 [h, w],
    index of the nearest codevector, or None; obstacles: connected parts of the mask, largest first;
    alarms: uint8 [h, w], 0 or 255, what exceeds the threshold in all of the picture; region: bool
    [h, w], where alarms count, None: everywhere. The mask is that of the alarms that count.
    """

    labels: np.ndarray | None
    score: np.ndarray
    anomaly_mask: np.ndarray
    raw_score: np.ndarray
    codes: np.ndarray | None
    obstacles: tuple[Obstacle, ...] = ()
    alarms: np.ndarray | None = None
    region: np.ndarray | None = None


class _Stream:
    """An engine, and what a frame needs on its way into it; one thread at a time."""

    def __init__(self, engine: Engine, input_size: tuple[int, int]) -> None:
        """input_size: (h, w) of the model."""
        self.engine = engine
        self._scratch = np.empty((*input_size, 3), np.uint8)
        self._scratch_mono = np.empty(input_size, np.uint8)

    def fill(self, frame: Frame, target: np.ndarray) -> None:
        """Frame -> target uint8 [h, w, 3] RGB: linear, half-pixel centres, no antialiasing."""
        height, width = target.shape[:2]
        if frame.size == (height, width) and frame.order != 'rgb':
            cv2.cvtColor(frame.pixels, TO_RGB[frame.order], target)
            return
        if frame.order == 'rgb':
            cv2.resize(frame.pixels, (width, height), target, interpolation=cv2.INTER_LINEAR)
            return
        scratch = self._scratch if frame.order == 'bgr' else self._scratch_mono
        cv2.resize(frame.pixels, (width, height), scratch, interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(scratch, TO_RGB[frame.order], target)


class Detector:
    """Anomaly segmentation of frames of any size, one or several at a time.

    The same frame gives the same bits, alone or in whatever place of a batch of the same size, and
    whatever else runs beside it. Any number of threads may use it; `streams` of them run at once.
    """

    info: ModelInfo
    model: ModelFile
    calibration: Calibration
    calibration_file: CalibrationFile | None

    def __init__(self, config: DetectorConfig) -> None:
        """Read the model and open an engine; raises ModelFileError, EngineError, ValueError.

        CalibrationError, a ValueError, for a calibration file that is none of this model.
        """
        if config.label_upsampling not in get_args(LabelUpsampling):
            raise ValueError(
                f'the label upsampling {config.label_upsampling!r} is unknown: '
                f'use {" or ".join(get_args(LabelUpsampling))}'
            )
        if config.streams < 1:
            raise ValueError(f'streams: {config.streams} is no number of streams; give 1 or more')
        self.config = config
        self.target_fpr = config.target_fpr
        self.output_size = config.output_size
        self.min_obstacle_area = config.min_obstacle_area
        self.model = model_file.read(config.model)
        self.info = self.model.info
        self.calibration_file = calibration_file_of(self.model, config.calibration)
        self.calibration = calibration_of(self.model, self.calibration_file)
        self._class_tables = _class_tables_of(self.info, self.calibration_file, config)
        outputs = self._outputs()
        engine = open_engine(
            self.model, config.backend, outputs, config.threads, config.gpu, config.streams
        )
        self._streams = [_Stream(one, self.info.input_size) for one in _twins(engine, config)]
        self._free: queue.LifoQueue[_Stream] = queue.LifoQueue()
        for stream in self._streams:
            self._free.put(stream)

    @property
    def engine(self) -> Engine:
        """The engine, the first of several streams."""
        return self._streams[0].engine

    @property
    def streams(self) -> int:
        """Calls of `detect` that run at the same time; more wait for one of them."""
        return len(self._streams)

    @property
    def target_fpr(self) -> float:
        """False-positive rate of the mask on a drive like that of the calibration, in (0, 1)."""
        return self._target_fpr

    @target_fpr.setter
    def target_fpr(self, value: float) -> None:
        self._target_fpr = check_target_fpr(value)

    @property
    def output_size(self) -> OutputSize:
        """Size of labels, score and mask: 'camera' or 'network'."""
        return self._output_size

    @output_size.setter
    def output_size(self, value: OutputSize) -> None:
        if value not in get_args(OutputSize):
            raise ValueError(
                f'the output size {value!r} is unknown: use {" or ".join(get_args(OutputSize))}'
            )
        self._output_size = value

    def detect(
        self, frames: Sequence[Frame], scenes: Sequence[Scene] | None = None
    ) -> list[Detection]:
        """One detection a frame, in order; the frames may differ in size and channel order.

        scenes: of the frames' cameras, each once; without them each frame stands for itself, and
        all of the picture counts.

        Raises EngineError where the runtime fails or the network returns what is no number.
        """
        if not frames:
            return []
        with self._stream() as stream:
            if not stream.engine.takes_frames:
                return self._detect(stream, frames, self.info.input_size, scenes)
            try:
                return self._detect_on_gpu(stream, frames, scenes)
            except EngineError as error:
                if self.config.backend != 'auto' or isinstance(error, BuildCancelledError):
                    raise
                self._leave_gpu(stream, error)
                return self._detect(stream, frames, self.info.input_size, scenes)

    @contextmanager
    def _stream(self) -> Iterator[_Stream]:
        """A stream that no other thread uses meanwhile."""
        stream = self._free.get()
        try:
            yield stream
        finally:
            self._free.put(stream)

    def _outputs(self) -> list[str]:
        """The outputs of the model that this detector computes."""
        config, available = self.config, self.info.output_layouts()
        wanted = ['score']
        if config.with_labels and 'labels' in available:
            wanted.append('labels')
            if config.label_upsampling == 'bilinear':
                wanted.append('class_scores')
        file = self.calibration_file
        watched = file is not None and file.watches_codes
        if (config.with_codes or watched) and 'codes' in available:
            wanted.append('codes')
        return wanted

    def _leave_gpu(self, stream: _Stream, error: EngineError) -> None:
        """Go on with a CPU runtime, as the backend 'auto' allows."""
        if self.config.gpu is not None:
            self.config.gpu.report(f'the GPU is given up for a CPU runtime: {error}')
        engine = open_cpu_engine(self.model, self._outputs(), self.config.threads)
        given_up, stream.engine = stream.engine, engine
        given_up.close()

    def _detect_on_gpu(
        self, stream: _Stream, frames: Sequence[Frame], scenes: Sequence[Scene] | None
    ) -> list[Detection]:
        # A GPU takes the frames as they are; those of one size go together.
        found: dict[int, Detection] = {}
        for size in dict.fromkeys(frame.size for frame in frames):
            places = [place for place, frame in enumerate(frames) if frame.size == size]
            some = [frames[place] for place in places]
            theirs = scenes and [scenes[place] for place in places]
            found |= zip(places, self._detect(stream, some, size, theirs), strict=True)
        return [found[place] for place in range(len(frames))]

    def _detect(
        self,
        stream: _Stream,
        frames: Sequence[Frame],
        size: tuple[int, int],
        scenes: Sequence[Scene] | None,
    ) -> list[Detection]:
        """As `detect`, of frames that go to the engine at one size."""
        buffer = stream.engine.input_buffer(len(frames), size)
        for frame, target in zip(frames, buffer, strict=True):
            stream.fill(frame, target)
        results = stream.engine.infer(len(frames), size)
        if not np.isfinite(results['score']).all():
            raise EngineError(
                f'{self.model.path}: the scores of {stream.engine.description} are not all finite: '
                'the model is damaged or overflows, export it again and see its parity report'
            )
        return [
            self._detection(frame, results, i, scenes[i] if scenes else None)
            for i, frame in enumerate(frames)
        ]

    def close(self) -> None:
        """Release the engine; the detector cannot be used any more."""
        for stream in self._streams:
            stream.engine.close()

    def __enter__(self) -> Detector:
        """Return the detector itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _detection(
        self, frame: Frame, results: dict[str, np.ndarray], i: int, scene: Scene | None
    ) -> Detection:
        raw = results['score'][i].copy()
        labels = results['labels'][i] if 'labels' in results else None
        score = self._calibrated(raw if scene is None else scene.smoothed(raw), labels)
        alarms = np.where(score > np.float32(1 - self.target_fpr), np.uint8(255), np.uint8(0))
        codes = results['codes'][i].copy() if 'codes' in results else None
        size = frame.size if self.output_size == 'camera' else self.info.map_size
        mask, region = (alarms, None) if scene is None else scene.alarms(alarms, labels)
        found = find_obstacles if scene is None else scene.obstacles
        return Detection(
            labels=_labels(results, i, size),
            score=_resized(score, size, cv2.INTER_LINEAR),
            anomaly_mask=_resized(mask, size, cv2.INTER_NEAREST_EXACT),
            raw_score=raw,
            codes=codes,
            obstacles=found(mask, score, labels, size, self.min_obstacle_area),
            alarms=alarms,
            region=region,
        )

    def _calibrated(self, raw: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Calibrated scores float32 [h, w] of raw ones; labels: uint8 [h, w], if there are any."""
        score = self.calibration.apply(raw)
        for index, table in self._class_tables.items() if labels is not None else ():
            of_class = labels == index
            score[of_class] = table.apply(raw[of_class])
        return score


def _twins(engine: Engine, config: DetectorConfig) -> list[Engine]:
    """The engine and those that run beside it; alone where its runtime has one stream only."""
    if not isinstance(engine, StreamEngine):
        return [engine]
    return [engine, *(engine.twin() for _ in range(config.streams - 1))]


def _labels(results: dict[str, np.ndarray], i: int, size: tuple[int, int]) -> np.ndarray | None:
    """Labels uint8 [H, W] of picture i; None where they were not asked for."""
    if 'labels' not in results:
        return None
    for name in ('camera_labels', 'camera_labels_smooth'):
        if name in results and results[name].shape[1:] == size:
            return results[name][i].copy()
    if 'class_scores' not in results or results['labels'].shape[1:] == size:
        return _resized(results['labels'][i], size, cv2.INTER_NEAREST_EXACT)
    # OpenCV resizes at most four channels together, so each class goes alone.
    best = _resized(results['class_scores'][i][0], size, cv2.INTER_LINEAR)
    labels = np.zeros(size, np.uint8)
    for index, scores in enumerate(results['class_scores'][i][1:], start=1):
        larger = _resized(scores, size, cv2.INTER_LINEAR)
        labels[larger > best] = index
        np.maximum(best, larger, out=best)
    return labels


def _resized(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """A resized copy of an image [h, w]; half-pixel centres for both interpolations used here."""
    if image.shape == size:
        return image.copy()
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)


def calibration_file_of(model: ModelFile, path: Path | None) -> CalibrationFile | None:
    """What `calibrate` wrote for this model, None for no path; raises CalibrationError."""
    if path is None:
        return None
    file = calibration_file.read(path)
    file.check_model(model.info, str(path))
    return file


def _class_tables_of(
    info: ModelInfo, file: CalibrationFile | None, config: DetectorConfig
) -> dict[int, Calibration]:
    """{class id: table}, where scores are compared class by class."""
    if not config.by_class:
        return {}
    if file is None or not file.classes:
        raise CalibrationError(
            'scores can be compared class by class only with a calibration that has tables of '
            'classes: give a file that `calibrate` wrote for this model, which needs classes'
        )
    return {info.classes.index(name): table for name, table in file.classes.items()}


def calibration_of(model: ModelFile, file: CalibrationFile | None) -> Calibration:
    """The table of a file, or the model's own; raises ModelFileError where it has none."""
    if file is not None:
        return file.overall
    if model.info.calibration is None:
        raise ModelFileError(
            f'{model.path}: the model has no calibration table, so its scores have no scale; '
            'export it again with `python -m training.export`'
        )
    return Calibration.from_dict(model.info.calibration)
