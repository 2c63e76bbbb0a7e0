"""Scores of uneventful drives, summed up frame by frame, and the calibration that follows.

Kept of a drive: exact histograms of all pixels and of each class, and of each frame a hundred of
its order statistics. Those say how often the frame exceeds any threshold, which is all that blocks
held out, the bootstrap and the bound on polluted frames need; no frame is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vq_anomaly_ros.detection.calibration import Calibration, CalibrationError, ScoreHistogram
from vq_anomaly_ros.detection.calibration_file import (
    CalibratedBag,
    CalibrationFile,
    FrameTable,
    frame_score,
    thinned,
)
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.replay.realised_rates import block_numbers, frame_rates, pixel_rates

# Rates whose realised values a calibration tells.
PIXEL_TARGETS = (1e-2, 1e-3, 1e-4)
FRAME_TARGETS = (0.1, 0.05, 0.01)
FEWEST_FRAMES = 20
# A class of fewer pixels gets no table of its own.
FEWEST_PIXELS = 20_000
# Ranks of the order statistics: each up to this one, then steps of a tenth.
_FIRST_RANKS = 16
_RANK_STEP = 1.1


class OrderStatistics:
    """How many values of a set exceed a threshold, from about a hundred of them.

    Exact at the sixteen largest, and between ranks a tenth apart by linear interpolation.
    """

    def __init__(self, values: np.ndarray) -> None:
        """Keep what is needed of float values of any shape, at least one."""
        ordered = np.sort(values.reshape(-1))
        ranks = _ranks(ordered.size)
        self._ranks = ranks[::-1]
        self._values = ordered[ordered.size - self._ranks]

    @property
    def fingerprint(self) -> bytes:
        """Of sets with the same fingerprint one may say that they are the same."""
        return self._values.tobytes()

    @property
    def count(self) -> int:
        """Size of the set."""
        return int(self._ranks[0])

    def above(self, thresholds: np.ndarray) -> np.ndarray:
        """How many values lie above each threshold: float64 [T] for float [T]."""
        return np.interp(thresholds, self._values, self._ranks, left=self.count, right=0)


def _ranks(size: int) -> np.ndarray:
    """int64, ascending: 1 to 16, then a tenth more each time, up to `size`."""
    steps = math.ceil(math.log(max(size, 2)) / math.log(_RANK_STEP)) + 1
    geometric = np.round(_RANK_STEP ** np.arange(steps)).astype(np.int64)
    ranks = np.unique(np.concatenate([np.arange(1, _FIRST_RANKS + 1), geometric, [size]]))
    return np.asarray(ranks[ranks <= size])


class DriveScores:
    """The scores of one drive: one topic of one bag. Can be pickled."""

    def __init__(self, info: ModelInfo, name: str, topic: str) -> None:
        """Prepare for frames of the model that `info` describes; name: of the bag."""
        self.name = name
        self.topic = topic
        self.classes = info.classes
        self.overall = ScoreHistogram(info.score_range, name)
        self.by_class = {one: ScoreHistogram(info.score_range, name) for one in info.classes}
        self.frames: list[OrderStatistics] = []
        self.frames_by_class: list[dict[str, OrderStatistics]] = []
        self.frame_scores: list[float] = []

    def add(
        self,
        raw: np.ndarray,
        labels: np.ndarray | None = None,
        region: np.ndarray | None = None,
    ) -> None:
        """Take in one frame: raw scores float32 [h, w], class ids uint8 [h, w] if there are any.

        region: bool [h, w], where alarms count, None: everywhere; a frame without any says nothing.
        Raises CalibrationError for scores outside the model's range.
        """
        if region is not None:
            raw, labels = raw[region], None if labels is None else labels[region]
        if not raw.size:
            return
        self.overall.add(raw)
        self.frames.append(OrderStatistics(raw))
        self.frame_scores.append(frame_score(raw))
        found = {}
        for index, name in enumerate(self.classes if labels is not None else ()):
            values = raw[labels == index]
            if values.size:
                self.by_class[name].add(values)
                found[name] = OrderStatistics(values)
        self.frames_by_class.append(found)


def fit(
    drives: Sequence[DriveScores],
    info: ModelInfo,
    polluted: float = 0.0,
    pixel_targets: Sequence[float] = PIXEL_TARGETS,
    date: str = '',
) -> CalibrationFile:
    """The calibration of some drives.

    Args:
        drives: at least one, all of the model that `info` describes.
        info: of the model.
        polluted: share of the frames, 0..1, that may hold anomalies nobody noticed. No more than
            this share of the frames can then move a threshold far: whatever they hold, they count
            as the frame that is the next one to them (winsorised mean; Tukey, The future of data
            analysis, 1962, section 14).
        pixel_targets: rates a pixel whose realised values are told, where the drives can tell.
        date: ISO date, today where it is empty.

    Raises CalibrationError where the drives are too short, or one frame over and over.
    """
    _check(drives)
    names = ', '.join(dict.fromkeys(drive.name for drive in drives))
    frames = [frame for drive in drives for frame in drive.frames]
    plain = _summed([drive.overall for drive in drives], names).table(info.weights_sha256, date)
    overall = _robust(plain, frames, polluted)
    scores = np.concatenate([drive.frame_scores for drive in drives]).astype(np.float32)
    blocks = block_numbers([len(drive.frames) for drive in drives])
    above = pixels_above(frames, overall.raw)
    pixels = np.array([frame.count for frame in frames])
    targets = [target for target in pixel_targets if target >= overall.smallest_fpr]
    return CalibrationFile(
        model_name=info.name,
        method=info.method,
        weights_sha256=info.weights_sha256,
        date=overall.date,
        bags=tuple(CalibratedBag(d.name, d.topic, len(d.frames)) for d in drives),
        polluted=polluted,
        overall=overall,
        frame_table=FrameTable(thinned(scores), scores.size),
        classes=_class_tables(drives, polluted, info.weights_sha256, date),
        realised=(
            *pixel_rates(above, winsorised(above, polluted), pixels, blocks, targets),
            *frame_rates(scores, blocks, FRAME_TARGETS),
        ),
    )


def _check(drives: Sequence[DriveScores]) -> None:
    """Raise CalibrationError for drives that say nothing of others."""
    frames = [frame for drive in drives for frame in drive.frames]
    names = ', '.join(drive.name for drive in drives) or 'no drive'
    if len(frames) < FEWEST_FRAMES:
        raise CalibrationError(
            f'{names}: {len(frames)} frames are too few to calibrate on: give drives of '
            f'{FEWEST_FRAMES} frames at least, better of some minutes'
        )
    if len({frame.fingerprint for frame in frames}) == 1:
        raise CalibrationError(
            f'{names}: all {len(frames)} frames are the same picture, the camera or its recording '
            'stood still: give drives that move'
        )


def _summed(histograms: Sequence[ScoreHistogram], source: str) -> ScoreHistogram:
    total = ScoreHistogram(histograms[0].score_range, source)
    for one in histograms:
        total.counts += one.counts
    return total


def pixels_above(frames: Sequence[OrderStatistics], thresholds: np.ndarray) -> np.ndarray:
    """How many pixels of each frame lie above each threshold: float64 [F, T]."""
    return np.stack([frame.above(thresholds.astype(np.float64)) for frame in frames])


def winsorised(above: np.ndarray, polluted: float) -> np.ndarray:
    """Counts [F, T] of which the highest `polluted` share of each column is cut to the next one."""
    if polluted <= 0:
        return above
    place = max(0, len(above) - 1 - math.ceil(polluted * len(above)))
    return np.minimum(above, np.partition(above, place, axis=0)[place])


def _robust(plain: Calibration, frames: Sequence[OrderStatistics], polluted: float) -> Calibration:
    """A table that a polluted share of the frames can hardly move."""
    if polluted <= 0:
        return plain
    above = pixels_above(frames, plain.raw)
    total = above.sum(axis=0)
    kept = np.divide(
        winsorised(above, polluted).sum(axis=0), total, out=np.ones_like(total), where=total > 0
    )
    return plain.with_fewer_above(kept)


def _class_tables(
    drives: Sequence[DriveScores], polluted: float, weights: str, date: str
) -> dict[str, Calibration]:
    tables = {}
    for name in drives[0].classes:
        source = drives[0].by_class[name].source
        histogram = _summed([drive.by_class[name] for drive in drives], source)
        if histogram.pixels < FEWEST_PIXELS:
            continue
        found = [one[name] for drive in drives for one in drive.frames_by_class if name in one]
        tables[name] = _robust(histogram.table(weights, date), found, polluted)
    return tables
