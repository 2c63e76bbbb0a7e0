"""The frames worth looking at: the highest scores of a drive, no two of the same moment."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from vq_anomaly_ros.detection import overlay
from vq_anomaly_ros.detection.atlas import Atlas
from vq_anomaly_ros.detection.codevectors import network_input
from vq_anomaly_ros.detection.explanation import Explainer, Explanation, worst_pixel
from vq_anomaly_ros.detection.model_file import ModelInfo
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.outputs import obstacles_message
from vq_anomaly_ros.replay.bags import NANOSECONDS
from vq_anomaly_ros.replay.frame_results import FrameResult, FrameRow
from vq_anomaly_ros.replay.labels import VOID

_CANDIDATES = 16
_NEAREST_NS = NANOSECONDS // 2
_WIDTH = 800
_QUALITY = 78
_PICTURES = 8
_OBJECTS = 5
_PATCHES = 3


@dataclass(frozen=True)
class Picture:
    """One frame of the gallery.

    row: its numbers; views: JPEG data URIs by name; objects: its largest, as obstacles_json tells
    them; size: (height, width) in whose pixels their boxes are; explained: of the pixel that scores
    highest, `Explanation.to_dict` and 'pictures', a list of JPEG data URIs of patches a codevector.
    """

    row: FrameRow
    views: dict[str, str]
    objects: tuple[dict[str, Any], ...] = ()
    size: tuple[int, int] = (0, 0)
    explained: dict[str, Any] | None = None


class Candidate(NamedTuple):
    """A picture that may be chosen; of its frame what an explanation needs, where one is due."""

    picture: Picture
    known: Explanation | None
    small: Frame | None


class Gallery:
    """Keep the best frame of each second, and of those the ones with the highest rarity."""

    def __init__(
        self, info: ModelInfo, pictures: int = _PICTURES, explainer: Explainer | None = None
    ) -> None:
        """Prepare for at most `pictures` frames of the model `info`."""
        self._info = info
        self._pictures = pictures
        self._explainer = explainer
        self._best: dict[tuple[str, str, int], Candidate] = {}

    def offer(self, row: FrameRow, result: FrameResult, painted: np.ndarray) -> None:
        """Look at a frame; `painted` is its overlay, uint8 BGR [H, W, 3]."""
        key = (row.source, row.topic, row.stamp_ns // NANOSECONDS)
        rival = self._best.get(key)
        if rival is None and len(self._best) >= _CANDIDATES:
            key_of_rival = min(self._best, key=lambda k: self._best[k].picture.row.rarity)
            rival = self._best[key_of_rival]
            if rival.picture.row.rarity < row.rarity:
                del self._best[key_of_rival]
        if rival is None or rival.picture.row.rarity < row.rarity:
            self._best[key] = self._candidate(row, result, painted)

    def _candidate(self, row: FrameRow, result: FrameResult, painted: np.ndarray) -> Candidate:
        picture = self._picture(row, result, painted)
        if self._explainer is None:
            return Candidate(picture, None, None)
        frame = result.frame
        point = worst_pixel(result.detection, frame.size)
        known = self._explainer.place(frame, result.detection, point)
        small = Frame(network_input(frame, self._info.input_size).copy(), 'rgb')
        return Candidate(picture, known, small)

    def _picture(self, row: FrameRow, result: FrameResult, painted: np.ndarray) -> Picture:
        told = obstacles_message(result.detection, self._info, result.stamp_ns, '')
        return Picture(
            row,
            _views(result, painted, self._info),
            tuple(told['obstacles'][:_OBJECTS]),
            (told['size'][0], told['size'][1]),
        )

    def chosen(self) -> list[Picture]:
        """Return the pictures, see `choose`, with their explanations."""
        candidates = {id(one.picture): one for one in self._best.values()}
        pictures = choose([one.picture for one in candidates.values()], self._pictures)
        return [self._explained(candidates[id(picture)]) for picture in pictures]

    def _explained(self, candidate: Candidate) -> Picture:
        picture, known, small = candidate
        if self._explainer is None or known is None or small is None:
            return picture
        told = self._explainer.compared(known, small)
        patches = patch_pictures(told, self._explainer.atlas)
        return dataclasses.replace(picture, explained={**told.to_dict(), 'pictures': patches})


def patch_pictures(told: Explanation, atlas: Atlas | None) -> list[list[str]]:
    """JPEG data URIs of the patches of each codevector of an explanation."""
    if atlas is None:
        return [[] for _ in told.codevectors]
    return [
        [
            data_uri(atlas.patches[one.index, place][..., ::-1])
            for place in range(min(_PATCHES, one.patches))
        ]
        for one in told.codevectors
    ]


def choose(pictures: Iterable[Picture], most: int = _PICTURES) -> list[Picture]:
    """Return those of the highest rarity, in its order, at least half a second apart."""
    chosen: list[Picture] = []
    for picture in sorted(pictures, key=lambda p: (-p.row.rarity, p.row.stamp_ns)):
        if all(_apart(picture.row, other.row) for other in chosen):
            chosen.append(picture)
    return chosen[:most]


def _apart(one: FrameRow, other: FrameRow) -> bool:
    same_camera = (one.source, one.topic) == (other.source, other.topic)
    return not same_camera or abs(one.stamp_ns - other.stamp_ns) >= _NEAREST_NS


def _views(result: FrameResult, painted: np.ndarray, info: ModelInfo) -> dict[str, str]:
    views = {
        'overlay': painted,
        'camera': result.frame.bgr(),
        'score': overlay.score_heatmap(result.detection.score),
    }
    if result.detection.labels is not None:
        views['classes'] = overlay.colour_labels(result.detection.labels, info.palette)
    if result.truth is not None and result.truth.anomaly is not None:
        views['truth'] = _truth(result.truth.anomaly, views['camera'])
    size = _view_size(result.frame.size)
    return {name: data_uri(_fitted(picture, size)) for name, picture in views.items()}


def _truth(anomaly: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The labelled objects in white over a darkened picture, void in grey."""
    size = (camera.shape[1], camera.shape[0])
    labels = cv2.resize(anomaly, size, interpolation=cv2.INTER_NEAREST)
    picture = cv2.convertScaleAbs(camera, alpha=0.3)
    picture[labels == VOID] = 96
    picture[labels == 1] = 255
    return picture


def _view_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    scale = min(1.0, _WIDTH / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return cv2.resize(picture, size, interpolation=method)


def data_uri(picture: np.ndarray) -> str:
    """Return uint8 BGR [H, W, 3] as a JPEG data URI."""
    _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode()
