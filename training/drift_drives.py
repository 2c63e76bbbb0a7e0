"""The drives of `training.drift`: their pictures in order, and their signs, kept on disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.folders import load_image
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.frame_signs import FrameSigns, frame_signs, score_edges
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.files import write_bytes
from vq_anomaly_ros.replay.images_to_bag import SourceError, open_source

_VIDEO_HZ = 25.0
RATE_HZ = 10.0


class DriveError(ValueError):
    """A drive whose pictures are not where they are looked for; the message names the place."""


@dataclass(frozen=True)
class Drive:
    """A drive of the study.

    read: data folder -> uint8 BGR pictures; onsets: where in the second half faults begin, as
    shares of it; none for pictures that are no drive.
    """

    name: str
    read: Callable[[Path], list[np.ndarray]]
    onsets: tuple[float, ...]


def _sequence(name: str) -> Callable[[Path], list[np.ndarray]]:
    def read(data: Path) -> list[np.ndarray]:
        """All frames of one drive of CamVid, whichever part of the set they are in."""
        paths = [*(data / 'camvid').glob(f'*/images/{name}_*.jpg')]
        return _pictures(sorted(paths, key=lambda path: path.stem), data / 'camvid')

    return read


def _folder(*parts: str) -> Callable[[Path], list[np.ndarray]]:
    def read(data: Path) -> list[np.ndarray]:
        folder = data.joinpath(*parts)
        return _pictures(sorted(folder.rglob('*.jpg')), folder)

    return read


def _pictures(paths: Sequence[Path], where: Path) -> list[np.ndarray]:
    if not paths:
        raise DriveError(f'{where}: no pictures of the drive are there; check --data')
    return [load_image(path) for path in paths]


def motorway(data: Path) -> list[np.ndarray]:
    """All frames, at 25 Hz."""
    path = data / 'drive_motorway' / 'solidWhiteRight.mp4'
    try:
        frames = [frame.pixels for frame in open_source(path)[1]]
    except SourceError as error:
        raise DriveError(f'{error}; check --data') from error
    if not frames:
        raise DriveError(f'{path}: holds no frame; check --data')
    return frames


def _motorway(data: Path) -> list[np.ndarray]:
    """The frames that lie nearest to 10 Hz."""
    frames = motorway(data)
    step = _VIDEO_HZ / RATE_HZ
    return [frames[round(place * step)] for place in range(int((len(frames) - 1) / step) + 1)]


DRIVES = {
    drive.name: drive
    for drive in (
        Drive('0006R0', _sequence('0006R0'), (0.3,)),
        Drive('0016E5', _sequence('0016E5'), (0.2, 0.7)),
        Drive('Seq05VD', _sequence('Seq05VD'), (0.2, 0.7)),
        Drive('0001TP', _sequence('0001TP'), (0.1, 0.6)),
        Drive('motorway', _motorway, (0.2,)),
        Drive('drive_dog', _folder('drive_dog'), (0.2,)),
        Drive('IDD-Lite', _folder('idd_lite', 'val', 'images'), ()),
    )
}


class SignsOnDisk:
    """The signs of pictures; what was asked before is read from a folder and needs no engine."""

    def __init__(self, detector: Detector, folder: Path | None) -> None:
        """Use `folder` (None: nothing is kept); its files belong to the model and to this code."""
        self._detector = detector
        self._edges = score_edges(detector.info)
        self._folder = folder
        code = Path(frame_signs.__code__.co_filename).read_bytes()
        self._key = hashlib.sha256(detector.model.sha256.encode() + code).hexdigest()[:12]

    def of(self, name: str, pictures: Callable[[], Iterable[np.ndarray]]) -> list[FrameSigns]:
        """The signs of uint8 BGR pictures, which are made only where `name` is not on disk."""
        path = None if self._folder is None else self._folder / f'{name}-{self._key}.npz'
        if path is not None and path.is_file():
            return _read(path)
        signs = [self._signs(picture) for picture in pictures()]
        if path is not None:
            _write(signs, path)
        return signs

    def _signs(self, picture: np.ndarray) -> FrameSigns:
        frame = Frame(picture, 'bgr')
        (detection,) = self._detector.detect([frame])
        return frame_signs(frame, detection, self._detector.info, self._edges)


def _write(signs: Sequence[FrameSigns], path: Path) -> None:
    codes = [one.codes for one in signs if one.codes is not None]
    content = io.BytesIO()
    np.savez(
        content,
        names=np.array(list(signs[0].picture)),
        picture=np.array([list(one.picture.values()) for one in signs]),
        cells=np.array([one.cells for one in signs]),
        edges=np.array([one.edges for one in signs]),
        scores=np.array([one.scores for one in signs]),
        codes=np.array(codes),
        fingerprint=np.array([one.fingerprint for one in signs]),
    )
    write_bytes(path, content.getvalue())


def _read(path: Path) -> list[FrameSigns]:
    with np.load(path) as kept:
        arrays = {name: kept[name] for name in kept.files}
    names = [str(name) for name in arrays['names']]
    return [
        FrameSigns(
            picture=dict(zip(names, arrays['picture'][place].tolist(), strict=True)),
            cells=arrays['cells'][place],
            edges=arrays['edges'][place],
            scores=arrays['scores'][place],
            codes=arrays['codes'][place] if len(arrays['codes']) else None,
            fingerprint=int(arrays['fingerprint'][place]),
        )
        for place in range(len(arrays['picture']))
    ]
