"""What a drift monitor reads off one frame: of the picture and of what the model says of it.

All of it is taken from a small copy of the picture and from every second position of the score map,
so that it costs little beside the network (`python -m training.drift --cost` tells how much).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.images import Frame

SMALL = (256, 512)  # rows, columns of the copy
CELLS = (8, 16)  # rows, columns of its cells
_EDGES = (64, 128)  # size of the map of edges
_STEEPEST = 20.0  # grey levels a position of it; what is steeper counts as much
_SLOPE = 1 / 8  # the Sobel kernel's sum of weights, so that a slope is in grey levels a position
_LINES = 6  # rows with the largest jumps that make `lines`


@dataclass(frozen=True, eq=False)
class FrameSigns:
    """The signs of one frame.

    picture: brightness (mean, 0..255), texture (log of the mean slope at a quarter of SMALL),
    sharpness (log of the mean absolute Laplacian over that slope), grain (log of the Laplacian that
    a quarter of the cells stays below), red and blue (log of the mean over that of green), lines
    (log of the largest jumps of whole rows).
    cells: float32 CELLS, log of the slope in each cell. edges: int8 [2, 64, 128], slopes to the
    right and down. scores: int64 [bins of `score_edges` + 1], positions of the score map by raw
    score. codes: int64 [K], positions by nearest codevector; None without codevectors.
    fingerprint: of the pixels; the same for identical frames.
    """

    picture: dict[str, float]
    cells: np.ndarray
    edges: np.ndarray
    scores: np.ndarray
    codes: np.ndarray | None
    fingerprint: int


def score_edges(info: ModelInfo) -> np.ndarray:
    """Float32 [B], ascending raw scores at which the signs count: those of the training set."""
    if info.calibration is None:
        return np.linspace(*info.score_range, 161, dtype=np.float32)[1:-1]
    return Calibration.from_dict(info.calibration).raw[:-1]


def frame_signs(
    frame: Frame, detection: Detection, info: ModelInfo, edges: np.ndarray
) -> FrameSigns:
    """Return the signs of a frame; edges: `score_edges` of the model `info`."""
    small = _small(frame)
    grey = small if frame.order == 'mono' else cv2.cvtColor(small, _TO_GREY[frame.order])
    fine = cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S))
    coarse = cv2.resize(grey, _EDGES[::-1], interpolation=cv2.INTER_AREA)
    slopes = [cv2.Sobel(coarse, cv2.CV_32F, *way, scale=_SLOPE) for way in ((1, 0), (0, 1))]
    steepness = np.abs(slopes[0]) + np.abs(slopes[1])
    return FrameSigns(
        picture=_of_picture(small, grey, fine, float(steepness.mean()), frame.order),
        cells=np.log(cv2.resize(steepness, CELLS[::-1], interpolation=cv2.INTER_AREA) + 0.5),
        edges=np.clip(np.stack(slopes), -_STEEPEST, _STEEPEST).astype(np.int8),
        scores=_counts(detection.raw_score, edges),
        codes=_codes(detection, info),
        fingerprint=zlib.crc32(small.data),
    )


def fingerprint(frame: Frame) -> int:
    """`FrameSigns.fingerprint` alone: all that is asked of a frame where there are no limits."""
    return zlib.crc32(_small(frame).data)


def _small(frame: Frame) -> np.ndarray:
    return cv2.resize(frame.pixels, SMALL[::-1], interpolation=cv2.INTER_LINEAR)


_TO_GREY = {'rgb': cv2.COLOR_RGB2GRAY, 'bgr': cv2.COLOR_BGR2GRAY}


def _of_picture(
    small: np.ndarray, grey: np.ndarray, fine: np.ndarray, steepness: float, order: str
) -> dict[str, float]:
    cells = cv2.resize(fine, CELLS[::-1], interpolation=cv2.INTER_AREA)
    jumps = np.abs(np.diff(cv2.reduce(grey, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()))
    largest = np.partition(jumps, len(jumps) - _LINES)[-_LINES:]
    red, blue = _casts(small, order)
    return {
        'brightness': float(grey.mean()),
        'texture': float(np.log(steepness + 0.5)),
        'sharpness': float(np.log((fine.mean() + 0.1) / (steepness + 0.5))),
        'grain': float(np.log(np.quantile(cells, 0.25) + 1)),
        'red': red,
        'blue': blue,
        'lines': float(np.log(largest.mean() + 1)),
    }


def _casts(small: np.ndarray, order: str) -> tuple[float, float]:
    """Log of the mean of red and of blue over that of green."""
    if order == 'mono':
        return 0.0, 0.0
    means = np.array(cv2.mean(small)[:3]) + 1
    first, last = np.log(means[[0, 2]] / means[1]).tolist()
    return (first, last) if order == 'rgb' else (last, first)


def _counts(raw_score: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Every second position of the map by raw score, int64 [len(edges) + 1]."""
    flat = raw_score[::2, ::2].ravel()
    return np.bincount(np.searchsorted(edges, flat, side='right'), minlength=len(edges) + 1)


def _codes(detection: Detection, info: ModelInfo) -> np.ndarray | None:
    if detection.codes is None:
        return None
    codevectors = len(info.classes) * info.codevectors_per_class
    return np.bincount(detection.codes[::2, ::2].ravel(), minlength=codevectors)
