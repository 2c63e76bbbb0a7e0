"""Raw scores and labels of pictures, kept on disk: a study that is run again needs no engine."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.files import write_bytes


class Maps(NamedTuple):
    """Of F pictures: raw scores float32 [F, h, w], labels uint8 [F, h, w] or None."""

    raw: np.ndarray
    labels: np.ndarray | None


class MapsOnDisk:
    """What a detector says of pictures; what was asked before is read from a folder."""

    def __init__(self, detector: Detector, folder: Path | None) -> None:
        """Use `folder` (None: nothing is kept); its files belong to the model."""
        self._detector = detector
        self._folder = folder
        self._key = detector.model.sha256[:12]

    def of(self, name: str, pictures: Callable[[], Iterable[np.ndarray]]) -> Maps:
        """The maps of uint8 BGR pictures, which are made only where `name` is not on disk."""
        path = None if self._folder is None else self._folder / f'{name}-{self._key}.npz'
        if path is not None and path.is_file():
            with np.load(path) as kept:
                return Maps(kept['raw'], kept.get('labels'))
        maps = self._maps(pictures())
        if path is not None:
            content = io.BytesIO()
            np.savez(content, **{k: v for k, v in maps._asdict().items() if v is not None})
            write_bytes(path, content.getvalue())
        return maps

    def _maps(self, pictures: Iterable[np.ndarray]) -> Maps:
        size = self._detector.info.map_size
        raw, labels = [], []
        for picture in pictures:
            (detection,) = self._detector.detect([Frame(picture, 'bgr')])
            raw.append(detection.raw_score)
            if detection.labels is not None:
                if detection.labels.shape != size:
                    raise ValueError('maps are kept of a detector with output_size network')
                labels.append(detection.labels)
        return Maps(np.array(raw), np.array(labels) if labels else None)
