"""sample_drive: a procedural drive becomes a bag, with its exact labels in the bag's folder.

OUT/labels/<stamp in ns>.png holds 1 where an unknown object is, 0 elsewhere, 255 void;
OUT/labels/semantic/<stamp in ns>.png the class, 255 where it is none.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from vq_anomaly_ros.replay.bags import BagError, BagExistsError, BagWriter
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.topic_names import absolute_topic_name

from .drive import DriveFrame, render_drive


def write_drive(
    out: Path,
    frames: Iterable[DriveFrame],
    topic: str = '/front/image_raw',
    console: Console | None = None,
    total: int | None = None,
    overwrite: bool = False,
) -> int:
    """Write frames as a bag of rgb8 images with labels in its folder; return their number.

    Raises:
        BagError: the bag exists or cannot be written; nothing is left then.
    """
    count = 0
    with BagWriter(out, overwrite=overwrite) as writer, progress_bar(console) as progress:
        semantic = writer.folder / 'labels' / 'semantic'
        semantic.mkdir(parents=True)
        for frame in progress.track(frames, total, description='drawing'):
            writer.write_image(topic, frame.stamp_ns, frame.image, 'rgb8', 'camera')
            _write_png(semantic.parent / f'{frame.stamp_ns}.png', frame.anomaly)
            _write_png(semantic / f'{frame.stamp_ns}.png', frame.classes)
            count += 1
    return count


def _write_png(path: Path, labels: np.ndarray) -> None:
    # imencode and not imwrite: a full disk must raise, imwrite only returns False.
    path.write_bytes(cv2.imencode('.png', labels)[1].tobytes())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command sample_drive; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    try:
        frames = render_drive(options.seed, options.frames, options.size, options.rate)
        count = write_drive(
            options.out, frames, options.topic, console, options.frames, options.overwrite
        )
    except BagExistsError as error:
        print(f'sample_drive: {error}, or replace it with --overwrite', file=sys.stderr)
        return 2
    except (ValueError, BagError) as error:
        print(f'sample_drive: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'sample_drive: interrupted; {options.out} was not written', file=sys.stderr)
        return 130
    print(f'{options.out}: {count} frames at {options.rate:g} Hz')
    return 0


def _size(text: str) -> tuple[int, int]:
    """Read (height, width) from HxW; argparse turns the ValueError into its usage message."""
    height, width = text.lower().split('x')
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('sample_drive', description=__doc__)
    add = parser.add_argument
    add('out', type=Path, help='folder of the new bag')
    add('--frames', type=int, default=100, help='number of frames')
    add('--seed', type=int, default=0, help='decides street, weather and objects')
    add('--size', type=_size, default=(540, 960), help='of a frame, HEIGHTxWIDTH')
    add('--rate', type=float, default=10.0, help='frames a second')
    topic = '/front/image_raw'
    add('--topic', type=absolute_topic_name, default=topic, help='of the images')
    add('--overwrite', action='store_true', help='replace a bag of that name')
    return parser


if __name__ == '__main__':
    sys.exit(main())
