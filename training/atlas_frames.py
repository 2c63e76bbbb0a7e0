"""The pictures that an atlas is made of: a bag, a folder, or streets drawn by code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from training.data.folders import find_pictures, load_image
from vq_anomaly_ros.detection.atlas import AtlasError
from vq_anomaly_ros.images import Frame, ImageError, as_frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.sample_drive import training_pictures

# Sixteen streets, six pictures each, without unknown objects: what a codevector stands for is to be
# seen in what is known. The seed is none that is trained on, demonstrated or measured.
DRIVE_PICTURES = 96
DRIVE_SEED = 2000
DRIVE_SIZE = (540, 960)


@dataclass(frozen=True)
class FrameSource:
    """Pictures with their names: `title` says what they are, `total` how many frames come."""

    title: str
    total: int
    frames: Iterator[tuple[str, Frame]]


def frames_of_bag(bag: Path, topic: str | None, stride: int) -> FrameSource:
    """Every stride-th image of a topic (None: the only one), named by its stamp in nanoseconds.

    Images that cannot be read are told on stderr and left out. Raises BagError.
    """
    chosen = bags.choose_topic(bag, topic)
    total = -(-bags.image_topics(bag)[chosen][1] // stride)
    title = f'{bag.resolve().name} {chosen}'
    return FrameSource(title, total, _bag_frames(bag, chosen, stride))


def _bag_frames(bag: Path, topic: str, stride: int) -> Iterator[tuple[str, Frame]]:
    for stamp_ns, _, message in islice(bags.read_images(bag, topic), 0, None, stride):
        try:
            frame = as_frame(message)
        except ImageError as error:
            print(f'{bag}: frame {stamp_ns} of {topic} left out: {error}', file=sys.stderr)
            continue
        yield str(stamp_ns), frame


def frames_of_folder(folder: Path, stride: int) -> FrameSource:
    """Every stride-th picture of a folder in natural order, by its file name.

    Raises AtlasError where there is no such folder, FolderError where it holds no picture, or when
    the turn of a picture comes that cannot be read.
    """
    if not folder.is_dir():
        raise AtlasError(f'{folder}: there is no such folder of pictures; check the path')
    paths = list(find_pictures(folder).values())[::stride]
    frames = ((path.name, Frame(load_image(path), 'bgr')) for path in paths)
    return FrameSource(folder.resolve().name, len(paths), frames)


def frames_of_sample_drive(stride: int) -> FrameSource:
    """Every stride-th of DRIVE_PICTURES pictures of the sample drive's streets, by its stamp."""
    pictures = training_pictures(DRIVE_SEED, DRIVE_PICTURES, DRIVE_SIZE)
    frames = (
        (str(picture.stamp_ns), Frame(picture.image, 'rgb'))
        for picture in islice(pictures, 0, None, stride)
    )
    return FrameSource('sample drive', -(-DRIVE_PICTURES // stride), frames)
