"""Of every codevector the picture patches that lie nearest to it, gathered frame by frame."""

from __future__ import annotations

import datetime
from bisect import insort
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.detection.atlas import Atlas, AtlasError, corner_of
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.images import Frame


@dataclass(frozen=True)
class _Candidate:
    """A patch, uint8 [p, p, 3] RGB, and where it comes from; place: row and column in the frame."""

    closeness: float
    frame: str
    place: NDArray[np.int32]
    patch: NDArray[np.uint8]


class NearestPatches:
    """The nearest patches of every codevector of a model, gathered frame by frame."""

    def __init__(self, info: ModelInfo, source: str, patch: int, nearest: int) -> None:
        """Keep `nearest` patches of `patch` pixels a side; source: what the frames are."""
        self.info = info
        self.source = source
        self._side = patch
        self._nearest = nearest
        self._codevectors = len(info.classes) * info.codevectors_per_class
        self._count = np.zeros(self._codevectors, np.int64)
        self._kept: list[list[_Candidate]] = [[] for _ in range(self._codevectors)]
        self._frame_size: tuple[int, int] | None = None
        self._frames = 0

    def add(self, name: str, frame: Frame, detection: Detection) -> None:
        """Take what is nearest in one frame; `detection` is of a detector with codes.

        Of equals the first is kept: the upper left one, the one of an earlier frame. Raises
        AtlasError for a frame of another size, or too small for a patch, and for codes that are
        none of the model's.
        """
        self._check_size(name, frame)
        codes = self._checked_codes(name, detection)
        self._count += np.bincount(codes.ravel(), minlength=self._codevectors)
        closeness = -detection.raw_score
        for row, column in nearest_positions(codes, closeness):
            candidates = self._kept[codes[row, column]]
            near = float(closeness[row, column])
            if len(candidates) == self._nearest and near <= candidates[-1].closeness:
                continue
            place = place_of((row, column), codes.shape, frame.size)
            insort(candidates, self._cut(near, name, frame, place), key=lambda one: -one.closeness)
            del candidates[self._nearest :]
        self._frames += 1

    def atlas(self) -> Atlas:
        """Everything gathered. Raises AtlasError where no frame came."""
        if self._frame_size is None:
            raise AtlasError(f'{self.source}: has no frame that can be read; give other pictures')
        info = self.info
        return Atlas(
            model=info.name,
            weights_sha256=info.weights_sha256,
            classes=info.classes,
            codevectors_per_class=info.codevectors_per_class,
            source=self.source,
            date=datetime.date.today().isoformat(),
            frames=self._frames,
            frame_size=self._frame_size,
            count=self._count.copy(),
            class_index=np.arange(self._codevectors) // info.codevectors_per_class,
            **self._arrays(),
        )

    def _arrays(self) -> dict[str, Any]:
        """The arrays of Atlas that have a place for each patch."""
        shape = (self._codevectors, self._nearest)
        longest = max((len(one.frame) for kept in self._kept for one in kept), default=1)
        patches = np.zeros((*shape, self._side, self._side, 3), np.uint8)
        closeness = np.full(shape, np.nan, np.float32)
        names = np.full(shape, '', f'<U{longest}')
        places = np.full((*shape, 2), -1, np.int32)
        for index, candidates in enumerate(self._kept):
            for rank, one in enumerate(candidates):
                patches[index, rank] = one.patch
                closeness[index, rank] = one.closeness
                names[index, rank] = one.frame
                places[index, rank] = one.place
        return {
            'patches': patches, 'closeness': closeness, 'frame_names': names, 'places': places
        }  # fmt: skip

    def _check_size(self, name: str, frame: Frame) -> None:
        height, width = frame.size
        if min(height, width) < self._side:
            raise AtlasError(
                f'{self.source}, frame {name}: is {width}x{height}, smaller than a patch of '
                f'{self._side} pixels; give a smaller --patch'
            )
        if self._frame_size is None:
            self._frame_size = frame.size
        if frame.size != self._frame_size:
            first_height, first_width = self._frame_size
            raise AtlasError(
                f'{self.source}, frame {name}: is {width}x{height} where those before are '
                f'{first_width}x{first_height}, so that their patches do not compare; give frames '
                'of one size'
            )

    def _checked_codes(self, name: str, detection: Detection) -> NDArray[np.int32]:
        codes = detection.codes
        if codes is None or codes.min() < 0 or codes.max() >= self._codevectors:
            raise AtlasError(
                f'{self.source}, frame {name}: the model {self.info.name} names codevectors beyond '
                f'the {self._codevectors} of its metadata; export it again'
            )
        return codes

    def _cut(self, near: float, name: str, frame: Frame, place: NDArray[np.int32]) -> _Candidate:
        top, left = corner_of(place, self._side, frame.size)
        cut = frame.pixels[top : top + self._side, left : left + self._side]
        if frame.order == 'mono':
            rgb = np.repeat(cut[..., None], 3, axis=2)
        else:
            rgb = cut.copy() if frame.order == 'rgb' else cut[..., ::-1].copy()
        return _Candidate(near, name, place, rgb)


def nearest_positions(codes: NDArray[np.int32], closeness: NDArray[np.float32]) -> NDArray[np.intp]:
    """Row and column of the closest position of each codevector that is there: [k, 2].

    codes, closeness: [h, w]; of equally close ones the first by rows.
    """
    order = np.lexsort((-closeness.ravel(), codes.ravel()))
    first = np.flatnonzero(np.diff(codes.ravel()[order], prepend=-1))
    return np.stack(np.unravel_index(order[first], codes.shape), axis=1)


def place_of(
    position: tuple[int, int], map_size: tuple[int, ...], frame_size: tuple[int, int]
) -> NDArray[np.int32]:
    """Row and column of the pixel in the middle of a position of the score map.

    Frames are stretched to the network's input with half-pixel centres: the middle of row i of h
    lies at (i + 1/2) H / h.
    """
    scaled = [
        (2 * index + 1) * pixels // (2 * size)
        for index, size, pixels in zip(position, map_size, frame_size, strict=True)
    ]
    return np.array(scaled, np.int32)
