"""still: one frame of a bag with what the detector says of it, as a picture file."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFileError, find_model
from vq_anomaly_ros.detection.overlay import overlay
from vq_anomaly_ros.images import ImageError, as_frame
from vq_anomaly_ros.replay import bags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help. Returns the exit code."""
    parser = argparse.ArgumentParser('still', description=__doc__)
    add = parser.add_argument
    add('bag', type=Path, help='bag folder, or a single .mcap or .db3 file')
    add('out', type=Path, help='picture to write: .jpg or .png')
    add('--frame', type=int, default=0, help='number of the frame, from 0')
    add('--topic', help='image topic; may be left out where a bag has one only')
    add('--model', default='street', help='path of a model file or name of a shipped one')
    options = parser.parse_args(arguments)
    try:
        _write(options)
    except (bags.BagError, EngineError, ImageError, ModelFileError, OSError) as error:
        print(f'still: {error}', file=sys.stderr)
        return 2
    return 0


def _write(options: argparse.Namespace) -> None:
    images = bags.read_images(options.bag, options.topic)
    found = next(itertools.islice(images, options.frame, None), None)
    if found is None:
        raise bags.BagError(f'{options.bag}: has no frame {options.frame}; give a smaller --frame')
    frame = as_frame(found[2])
    with Detector(DetectorConfig(find_model(options.model))) as detector:
        picture = overlay(frame, detector.detect([frame])[0], detector.info)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(options.out), picture):
        raise OSError(f'{options.out}: cannot be written; choose another place and .jpg or .png')


if __name__ == '__main__':
    sys.exit(main())
