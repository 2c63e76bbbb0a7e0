"""Contact sheets: what a model saw in each picture of a set, side by side, for looking at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.detection.overlay import colour_labels, score_heatmap

Image = NDArray[np.uint8]

CELL_WIDTH = 480
ROWS_PER_PAGE = 6
VOID = 255

_OUTLINE = (0, 255, 0)  # BGR
_GAP = 4


class ContactSheets:
    """Pages of rows of three cells: picture, answer of the model, truth.

    Pages are JPEG files `<stem>_<page>.jpg` in `folder`; a page is written once it is full, the
    last one by `close`.
    """

    def __init__(self, folder: Path, stem: str, info: ModelInfo) -> None:
        self._folder = folder
        self._stem = stem
        self._info = info
        table = info.calibration
        self._calibration = None if table is None else Calibration.from_dict(table)
        self._rows: list[Image] = []
        self._pages = 0

    def add_scores(
        self, name: str, image: Image, score: NDArray[np.float32], labels: Image
    ) -> None:
        """Add one picture (uint8 [H, W, 3] BGR), its raw score [H, W] and its anomaly labels.

        The heat is that of the calibrated score, so that pages compare; where the model has no
        calibration, it is linear from the lowest to the highest possible raw score.
        """
        small = _shrunk(image, cv2.INTER_AREA)
        heat = self._heat(_shrunk(score, cv2.INTER_LINEAR))
        outlined = _outlined(small, _shrunk(labels, cv2.INTER_NEAREST))
        self._add_row(name, small, heat, outlined)

    def add_classes(self, name: str, image: Image, predicted: Image, labels: Image) -> None:
        """Add one picture (uint8 [H, W, 3] BGR), its predicted classes and its class labels."""
        cells = [
            colour_labels(_shrunk(ids, cv2.INTER_NEAREST), self._info.palette)
            for ids in (predicted, labels)
        ]
        self._add_row(name, _shrunk(image, cv2.INTER_AREA), *cells)

    def close(self) -> None:
        """Write what is left as the last page."""
        if self._rows:
            self._write_page()

    def _heat(self, score: NDArray[np.float32]) -> Image:
        if self._calibration is not None:
            return score_heatmap(self._calibration.apply(score))
        low, high = self._info.score_range
        level = np.clip((score - low) / (high - low), 0, 1)
        return np.asarray(cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO))

    def _add_row(self, name: str, *cells: Image) -> None:
        gap = np.full((cells[0].shape[0], _GAP, 3), 255, np.uint8)
        row = np.hstack([cells[0], gap, cells[1], gap, cells[2]])
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(row, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, width)
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_PAGE:
            self._write_page()

    def _write_page(self) -> None:
        height = sum(row.shape[0] + _GAP for row in self._rows)
        page = np.full((height, max(row.shape[1] for row in self._rows), 3), 255, np.uint8)
        top = 0
        for row in self._rows:
            page[top : top + row.shape[0], : row.shape[1]] = row
            top += row.shape[0] + _GAP
        self._pages += 1
        path = self._folder / f'{self._stem}_{self._pages:02d}.jpg'
        data = cv2.imencode('.jpg', page, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
        path.write_bytes(data.tobytes())
        self._rows.clear()


def _shrunk(array: np.ndarray, interpolation: int) -> np.ndarray:
    """Resize to the width of a cell, the aspect kept."""
    height = max(1, round(array.shape[0] * CELL_WIDTH / array.shape[1]))
    return np.asarray(cv2.resize(array, (CELL_WIDTH, height), interpolation=interpolation))


def _outlined(image: Image, labels: Image) -> Image:
    """Draw the outline of what is labelled an anomaly, and darken void."""
    drawn = image.copy()
    drawn[labels == VOID] //= 3
    contours, _ = cv2.findContours(
        (labels == 1).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(drawn, contours, -1, _OUTLINE, 2)
    return drawn
