"""Show what the codevectors of a model stand for: `python -m training.atlas --model M … --out DIR`.

Every frame goes through the model as on the vehicle. At each position of the score map the output
`codes` names the nearest codevector; of each codevector the positions of the smallest score are
kept, at most one a frame, so that the patches of a codevector never overlap, and what lies around
them is cut from the full-size frame. DIR gets `atlas.npz` and `atlas.json`
(`vq_anomaly_ros.detection.atlas`) and the picture of the codebook, `atlas.png` and, small enough
for a page, `atlas.jpg`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
from rich.console import Console

from training import atlas_picture
from training.atlas_frames import (
    FrameSource,
    frames_of_bag,
    frames_of_folder,
    frames_of_sample_drive,
)
from training.atlas_patches import NearestPatches
from training.data.folders import FolderError
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.atlas import FILE, Atlas, AtlasError, write_atlas
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError, ModelInfo
from vq_anomaly_ros.replay.bags import BagError
from vq_anomaly_ros.replay.files import staged
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.replay.topic_choice import ask_for_topic

JPEG_BYTES = 250_000
_PATCH_RANGE = (8, 256)  # pixels
_NEAREST_RANGE = (1, 50)
_INTERRUPTED = 130


def check_model(model: ModelFile) -> None:
    """AtlasError where a model has no codevectors."""
    info = model.info
    if not info.codevectors_per_class or not info.classes:
        raise AtlasError(
            f'{model.path}: a model of the method {info.method} has no codevectors to show; give '
            'one of the method codebook'
        )


def make_atlas(
    model: ModelFile,
    source: FrameSource,
    patch: int = 48,
    nearest: int = 6,
    console: Console | None = None,
) -> Atlas:
    """Run a model over the frames of a source; see the module.

    Raises AtlasError, EngineError, ModelFileError, and what the source raises.
    """
    check_model(model)
    config = DetectorConfig(model.path, output_size='network', with_labels=False, with_codes=True)
    gathered = NearestPatches(model.info, source.title, patch, nearest)
    with Detector(config) as detector, progress_bar(console) as progress:
        for name, frame in progress.track(source.frames, source.total, description='looking'):
            gathered.add(name, frame, detector.detect([frame])[0])
    return gathered.atlas()


def write_files(atlas: Atlas, info: ModelInfo, folder: Path) -> None:
    """Write the atlas and its picture into an existing folder; OSError where that fails."""
    write_atlas(atlas, folder / FILE)
    picture = atlas_picture.draw(atlas, info.palette)
    (folder / 'atlas.png').write_bytes(cv2.imencode('.png', picture)[1].tobytes())
    (folder / 'atlas.jpg').write_bytes(atlas_picture.as_jpeg(picture, JPEG_BYTES))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.atlas',
        description='Show which picture patches lie nearest to each codevector of a model.',
    )
    add = parser.add_argument
    add('--model', required=True, metavar='M', help='model file, or name of a shipped one')
    one_of = parser.add_mutually_exclusive_group(required=True)
    one_of.add_argument('--bag', type=Path, help='bag folder, or a single .mcap or .db3 file')
    one_of.add_argument('--pictures', type=Path, metavar='DIR', help='folder of pictures')
    one_of.add_argument('--sample-drive', action='store_true', help='streets drawn by code')
    add('--topic', help='image topic of --bag; may be left out where a bag has one only')
    add('--out', required=True, type=Path, metavar='DIR', help='folder of the results')
    add('--patch', type=int, default=48, help='side of a patch in pixels (default: 48)')
    add('--nearest', type=int, default=6, help='patches a codevector (default: 6)')
    add('--stride', type=int, default=1, help='look at every so many-th frame (default: 1)')
    return parser


def _check_options(options: argparse.Namespace) -> None:
    ranges = {'patch': _PATCH_RANGE, 'nearest': _NEAREST_RANGE, 'stride': (1, sys.maxsize)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(options, name) <= high:
            most = '' if high == sys.maxsize else f' to {high}'
            more = ' or more' if high == sys.maxsize else ''
            raise AtlasError(f'--{name} {getattr(options, name)}: give {low}{most}{more}')
    if options.topic is not None and options.bag is None:
        raise AtlasError(f'--topic {options.topic}: belongs to --bag; leave it out')


def _source_of(options: argparse.Namespace) -> FrameSource:
    if options.bag is not None:
        topic = ask_for_topic(options.bag, options.topic)
        return frames_of_bag(options.bag, topic, options.stride)
    if options.pictures is not None:
        return frames_of_folder(options.pictures, options.stride)
    return frames_of_sample_drive(options.stride)


def _run(options: argparse.Namespace) -> Atlas:
    """Everything that can be refused is, before the first frame is looked at."""
    _check_options(options)
    model = model_file.read(model_file.find_model(options.model))
    check_model(model)
    source = _source_of(options)
    with staged(options.out) as folder:
        console = Console(stderr=True)
        atlas = make_atlas(model, source, options.patch, options.nearest, console)
        write_files(atlas, model.info, folder)
    return atlas


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 2 for an error, 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    try:
        with interruptible():
            atlas = _run(options)
    except (AtlasError, BagError, EngineError, FolderError, ModelFileError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'interrupted; nothing was written to {options.out}', file=sys.stderr)
        return _INTERRUPTED
    print(
        f'{options.out / FILE}: {len(atlas.count)} codevectors over {atlas.frames} frames, '
        f'{atlas.unused} unused'
    )
    print(f'{options.out / "atlas.jpg"}: the picture of the codebook')
    return 0


if __name__ == '__main__':
    sys.exit(main())
