"""images_to_bag: a folder of pictures, or a video, becomes a bag of one image topic.

Beside the messages the bag folder holds frames.json, {"<stamp in ns>": "<stem of the source>"}, by
which labels that are named after the pictures are found again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from vq_anomaly_ros.images import compressed_fields
from vq_anomaly_ros.replay.bags import (
    NANOSECONDS,
    BagError,
    BagExistsError,
    BagVersion,
    BagWriter,
    Storage,
    add_bag_options,
)
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.topic_names import absolute_topic_name

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')
VIDEOS = ('.mp4', '.webm', '.avi', '.mkv', '.mov')
_JPEG = ('.jpg', '.jpeg')
# No stamp of zero: it means "unknown" in ROS. A round time that is plainly no recording's.
FIRST_STAMP_NS = 1_000_000_000 * NANOSECONDS
_QUALITY = 90


class SourceError(ValueError):
    """The pictures cannot be read; the message names the file, the cause and the remedy."""


@dataclass(frozen=True)
class SourceFrame:
    """One picture: its stem, uint8 BGR [H, W, 3], and the bytes of its file if that is a JPEG."""

    stem: str
    pixels: np.ndarray
    jpeg: bytes | None = None


@dataclass(frozen=True)
class Conversion:
    """What becomes what.

    source: a folder of pictures or a video; out: the new bag; rate: Hz; topic: of the images, a
    compressed bag adds '/compressed' to it; frame_id: of the headers; bag_version: of its metadata.
    """

    source: Path
    out: Path
    rate: float = 10.0
    topic: str = '/front/image_raw'
    compressed: bool = False
    storage: Storage = 'mcap'
    frame_id: str = 'camera'
    overwrite: bool = False
    bag_version: BagVersion = 9


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts 'frame2' before 'frame10'."""
    parts = re.split(r'(\d+)', name)
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in parts if part]


def convert(conversion: Conversion, console: Console | None = None) -> int:
    """Write the bag of a conversion and return the number of its frames.

    Raises:
        SourceError: the source is missing, empty, or one of its pictures cannot be decoded.
        BagError: the bag cannot be written.
    """
    if not conversion.rate > 0:
        raise SourceError(f'a rate of {conversion.rate:g} Hz is none; give --rate above 0')
    total, frames = open_source(conversion.source)
    stems: dict[str, str] = {}
    writer = BagWriter(
        conversion.out,
        conversion.storage,
        version=conversion.bag_version,
        overwrite=conversion.overwrite,
    )
    with writer, progress_bar(console) as progress:
        for index, frame in enumerate(progress.track(frames, total, description='converting')):
            stamp_ns = FIRST_STAMP_NS + round(index * NANOSECONDS / conversion.rate)
            _write(writer, stamp_ns, frame, conversion)
            stems[str(stamp_ns)] = frame.stem
        if not stems:
            raise SourceError(f'{conversion.source}: no frame can be decoded; convert it to mp4')
        (writer.folder / 'frames.json').write_text(json.dumps(stems, indent=1) + '\n')
    return len(stems)


def _write(writer: BagWriter, stamp_ns: int, frame: SourceFrame, conversion: Conversion) -> None:
    if not conversion.compressed:
        writer.write_image(conversion.topic, stamp_ns, frame.pixels, 'bgr8', conversion.frame_id)
        return
    data: bytes | np.ndarray
    # A JPEG stays the very JPEG that it was: encoding it again would lose a little more.
    data = frame.jpeg or compressed_fields(frame.pixels, 'jpeg', _QUALITY)['data']
    topic = f'{conversion.topic}/compressed'
    writer.write_compressed(topic, stamp_ns, data, 'jpeg', conversion.frame_id)


def open_source(source: Path) -> tuple[int | None, Iterator[SourceFrame]]:
    """Return the number of frames (None where unknown) and the frames of a folder or video.

    Raises:
        SourceError: see `convert`; a broken picture is found when its turn comes.
    """
    if source.is_dir():
        paths = [p for p in source.iterdir() if p.suffix.lower() in PICTURES]
        if not paths:
            raise SourceError(f'{source}: holds no pictures ({", ".join(PICTURES)})')
        paths.sort(key=lambda path: natural_key(path.name))
        return len(paths), map(_read_picture, paths)
    if not source.exists():
        raise SourceError(f'{source}: no such folder of pictures or video')
    if source.suffix.lower() not in VIDEOS:
        raise SourceError(
            f'{source}: neither a folder of pictures nor a video ({", ".join(VIDEOS)})'
        )
    video = cv2.VideoCapture(str(source))
    if not video.isOpened():
        raise SourceError(f'{source}: the video cannot be decoded; convert it to mp4 with ffmpeg')
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    return count if count > 0 else None, _video_frames(video, source)


def _read_picture(path: Path) -> SourceFrame:
    data = path.read_bytes()
    pixels = None
    if data:
        # As a camera would have sent it: the tag that turns pictures in viewers is not applied.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise SourceError(f'{path}: cannot be decoded; take it out or write it again')
    return SourceFrame(path.stem, pixels, data if path.suffix.lower() in _JPEG else None)


def _video_frames(video: cv2.VideoCapture, source: Path) -> Iterator[SourceFrame]:
    """Yield the frames, named by the video's stem and their index."""
    index = 0
    while True:
        found, pixels = video.read()
        if not found:
            video.release()
            return
        yield SourceFrame(f'{source.stem}_{index:06d}', pixels)
        index += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command images_to_bag; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    conversion = Conversion(**vars(options))
    try:
        with interruptible():
            count = convert(conversion, Console(stderr=True))
    except BagExistsError as error:
        print(f'images_to_bag: {error}, or replace it with --overwrite', file=sys.stderr)
        return 2
    except (SourceError, BagError) as error:
        print(f'images_to_bag: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'images_to_bag: interrupted; {conversion.out} was not written', file=sys.stderr)
        return 130
    print(f'{conversion.out}: {count} frames at {conversion.rate:g} Hz')
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('images_to_bag', description=__doc__)
    add = parser.add_argument
    add('source', type=Path, help='folder of pictures (sorted as people count) or a video')
    add('out', type=Path, help='folder of the new bag')
    add('--rate', type=float, default=10.0, help='frames a second of the bag')
    topic = Conversion.topic
    add('--topic', type=absolute_topic_name, default=topic, help='of the images')
    add('--compressed', action='store_true', help='write CompressedImage to TOPIC/compressed')
    add_bag_options(parser)
    add('--frame-id', default='camera', help='of the headers')
    add('--overwrite', action='store_true', help='replace a bag of that name')
    return parser


if __name__ == '__main__':
    sys.exit(main())
