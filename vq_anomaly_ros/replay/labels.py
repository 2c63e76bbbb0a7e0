"""Labels of frames: pictures that belong to a frame by the stem of their name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

VOID = 255


class LabelError(ValueError):
    """Labels cannot be used; the message names the file, the cause and the remedy."""


@dataclass(frozen=True)
class Truth:
    """The labels of one frame, each None where there is none.

    anomaly: uint8 [H, W], 0 normal, 1 anomaly, 255 void; classes: uint8 [H, W], ids, 255 void.
    """

    anomaly: np.ndarray | None
    classes: np.ndarray | None


class LabelFolder:
    """A folder DIR with DIR/<stem>.png (anomalies) and DIR/semantic/<stem>.png (class ids).

    The stem of a frame is its stamp in nanoseconds or, where the bag has a frames.json that maps
    the stamp to something else, that. `images_to_bag` writes such a map.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of labels.

        Raises:
            LabelError: no such folder, or no labels in it.
        """
        self.folder = folder
        if not folder.is_dir():
            raise LabelError(f'{folder}: no such folder of labels')
        if not any(folder.glob('*.png')) and not any(folder.glob('semantic/*.png')):
            raise LabelError(
                f'{folder}: holds neither <stem>.png (anomalies) nor semantic/<stem>.png (classes)'
            )
        self._stems: dict[Path, dict[str, str]] = {}

    def of(self, bag: Path, stamp_ns: int) -> Truth | None:
        """Return the labels of the frame of a bag with this stamp, None if it has none.

        Raises:
            LabelError: a label picture or the bag's frames.json cannot be read.
        """
        if bag not in self._stems:
            self._stems[bag] = _stems(bag / 'frames.json')
        stem = self._stems[bag].get(str(stamp_ns), str(stamp_ns))
        anomaly = _read(self.folder / f'{stem}.png')
        classes = _read(self.folder / 'semantic' / f'{stem}.png')
        return None if anomaly is None and classes is None else Truth(anomaly, classes)


def _stems(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise LabelError(
            f'{path}: is no JSON ({error}); make it again with images_to_bag'
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise LabelError(
            f'{path}: is no map from stamps to stems; make it again with images_to_bag'
        )
    return content


def _read(path: Path) -> np.ndarray | None:
    if not path.exists():
        return None
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise LabelError(f'{path}: cannot be decoded; write it again as PNG')
    if picture.ndim != 2 or picture.dtype != np.uint8:
        raise LabelError(f'{path}: labels are PNGs of one 8-bit channel; convert it to grey')
    return picture
