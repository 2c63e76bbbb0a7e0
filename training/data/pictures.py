"""Normal pictures of whatever holds some: a category, a folder of pictures, a bag, a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from training.data.folders import FolderError, load_image, read_mvtec_category
from vq_anomaly_ros.images import as_frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.images_to_bag import PICTURES, VIDEOS, natural_key, open_source

Image = NDArray[np.uint8]


def stretched_pictures(
    source: Path, every: int, size: Sequence[int]
) -> Iterator[tuple[str, Image]]:
    """Camera topic ('' where there is none) and picture, uint8 RGB [h, w, 3], of `size` (h, w).

    As `normal_pictures`, but of all cameras of a bag; stretched as on the vehicle.
    """
    height, width = (int(side) for side in size)
    for topic, picture in track(_of_all_cameras(source, every), f'reading {source.name}'):
        pixels = picture if isinstance(picture, np.ndarray) else load_image(picture)
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        yield topic, np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def _of_all_cameras(source: Path, every: int) -> Iterator[tuple[str, Path | np.ndarray]]:
    if not _is_bag(source):
        yield from (('', picture) for picture in normal_pictures(source, every))
        return
    for topic in bags.camera_topics(source) or ('',):
        yield from ((topic, frame) for frame in _frames_of_bag(source, every, topic or None))


def normal_pictures(source: Path, every: int = 1) -> Iterator[Path | np.ndarray]:
    """Paths of pictures, or frames uint8 BGR [H, W, 3]; each `every`-th of a drive.

    source: a category in the MVTec layout (its train/good, all of them), a folder of pictures, a
    bag (folder or file), a video. Raises FolderError, BagError, SourceError.
    """
    if (source / 'train').is_dir():
        good = read_mvtec_category(source).train
        if not good:
            raise FolderError(
                f'{source}: holds no normal picture to train on; put some into train/good'
            )
        yield from good
    elif _is_bag(source):
        yield from _frames_of_bag(source, every)
    elif source.suffix.lower() in VIDEOS:
        yield from _frames_of_video(source, every)
    else:
        found = [path for path in source.glob('*') if path.suffix.lower() in PICTURES]
        if not found:
            raise FolderError(
                f'{source}: neither a category (train/good), a folder of pictures, a bag nor a '
                'video; check the path'
            )
        yield from sorted(found, key=lambda path: natural_key(path.name))[::every]


def _is_bag(source: Path) -> bool:
    return (source / 'metadata.yaml').exists() or source.suffix in ('.mcap', '.db3')


def _frames_of_bag(bag: Path, every: int, topic: str | None = None) -> Iterator[np.ndarray]:
    for number, (_, _, message) in enumerate(bags.read_images(bag, topic)):
        if number % every == 0:
            yield as_frame(message).bgr()


def _frames_of_video(path: Path, every: int) -> Iterator[np.ndarray]:
    number = -1
    for number, frame in enumerate(open_source(path)[1]):
        if number % every == 0:
            yield frame.pixels
    if number < 0:
        raise FolderError(f'{path}: no frame can be decoded; convert it to mp4')
