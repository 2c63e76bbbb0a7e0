"""Make the validation set `pasted`: objects of held-out categories in pictures of known streets.

`python -m training.pasted --data ROOT --out DIR` writes an anomaly folder (images/, labels/ with 0
normal, 1 anomaly, 255 void). What a training pastes with `outlier_held_out` of the same share never
comes from these categories, so parameters can be chosen here and the anomaly sets stay unseen.

A model that was trained with every category of ROOT needs other objects (`--objects`), and a model
that is to leave the towns of its training needs other streets (`--streets`): labelled splits, or
unlabelled pictures or a video, of which nothing is void then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from training.data.folders import (
    VOID,
    FolderError,
    SegmentationFolder,
    class_table,
    load_class_ids,
    load_image,
    read_segmentation_folder,
)
from training.data.outliers import PASTED, OutlierError, Paster, held_out_categories, read_cut_outs
from vq_anomaly_ros.replay.images_to_bag import open_source

STREETS = ('camvid/val', 'idd_lite/val')
OBJECTS = ('outlier_objects',)
SHARE = 0.2


@dataclass(frozen=True)
class Choice:
    """What is pasted where: folders of the data's root, or absolute ones.

    share: of the categories of `objects`, those held out from training, 0..1; 1 takes all.
    every: 2 takes each second picture, and so on, and pastes what the whole set has there.
    Raises ValueError for an `every` below 1.
    """

    streets: Sequence[str] = STREETS
    objects: Sequence[str] = OBJECTS
    share: float = SHARE
    seed: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f'every is {self.every}, but must be 1 or more')


def write_pasted(root: Path, out: Path, choice: Choice = Choice()) -> int:
    """Write the set into the new folder `out`, whole or not at all; return how many pictures.

    Each picture gets one to three objects, log-uniform heights of 3 to 40 % of it.
    Raises FolderError, OutlierError and SourceError for missing or unreadable data, FolderError
    where `out` exists or two streets share the name of a picture.
    """
    if out.exists():
        raise FolderError(f'{out}: exists already; remove it or choose another folder')
    objects = []
    for folder in (root / name for name in choice.objects):
        chosen = held_out_categories(folder, choice.share)
        objects += [one for one in read_cut_outs(folder) if one.category in chosen]
    if not objects:
        raise OutlierError(f'--share {choice.share:g}: holds back no category; give a larger one')
    paster = Paster(objects, most=3, heights=(0.03, 0.4), relight=0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        for name in ('images', 'labels'):
            (folder / name).mkdir(parents=True)
        numbered = islice(enumerate(_pictures(root, choice.streets)), 0, None, choice.every)
        count = 0
        for number, picture in track(numbered, description='pasting'):
            rng = np.random.default_rng((choice.seed, number))
            _write_one(folder, *picture, paster, rng)
            count += 1
        shutil.move(folder, out)
    return count


def _pictures(root: Path, streets: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Stem, uint8 RGB [H, W, 3] and bool [H, W] of void, of every picture."""
    taken: set[str] = set()
    for name in streets:
        path = root / name
        labelled = (path / 'labels').is_dir() or not path.exists()
        for stem, bgr, void in (_labelled if labelled else _unlabelled)(path):
            if stem in taken:
                raise FolderError(f'{path}: a picture before it is called {stem}, too; rename one')
            taken.add(stem)
            yield stem, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), void  # as cut-outs are


def _labelled(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    folder = read_segmentation_folder(path)
    table = _table(folder)
    for sample in folder.samples:
        labels = load_class_ids(sample.label, table)
        yield f'{path.parent.name}_{sample.image.stem}', load_image(sample.image), labels == VOID


def _unlabelled(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for frame in open_source(path)[1]:
        yield frame.stem, frame.pixels, np.zeros(frame.pixels.shape[:2], bool)


def _table(folder: SegmentationFolder) -> np.ndarray:
    if folder.classes is None:
        raise FolderError(f'{folder.root}: no classes.yaml says which label is void; add one')
    return class_table(folder.classes, folder.classes.names, folder.root)


def _write_one(
    folder: Path,
    stem: str,
    image: np.ndarray,
    void: np.ndarray,
    paster: Paster,
    rng: np.random.Generator,
) -> None:
    labels = np.where(void, np.uint8(VOID), np.uint8(0))
    while not (labels == PASTED).any():  # an object may fall outside of the picture
        paster.paste(image, labels, rng)
    labels[labels == PASTED] = 1
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / 'images' / f'{stem}.png'), bgr)
    cv2.imwrite(str(folder / 'labels' / f'{stem}.png'), labels)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='training.pasted', description=__doc__)
    parser.add_argument('--data', type=Path, required=True, help='folder of the data sets')
    parser.add_argument('--out', type=Path, required=True, help='new folder of the set')
    parser.add_argument(
        '--streets',
        nargs='+',
        default=STREETS,
        metavar='PATH',
        help='labelled splits, folders of pictures, videos; in --data, or absolute',
    )
    parser.add_argument(
        '--objects',
        nargs='+',
        metavar='PATH',
        help='folders of cut-outs (RGBA PNG), all of them pasted; in --data, or absolute',
    )
    parser.add_argument('--share', type=float, help=f'of the categories, held out ({SHARE})')
    parser.add_argument('--seed', type=int, default=0, help='of what is pasted where')
    parser.add_argument('--every', type=int, default=1, help='take each n-th picture only')
    options = parser.parse_args(argv)
    share = options.share
    if share is None:
        share = 1.0 if options.objects else SHARE
    objects = options.objects or OBJECTS
    try:
        choice = Choice(options.streets, objects, share, options.seed, options.every)
        count = write_pasted(options.data, options.out, choice)
    except (ValueError, OSError) as error:
        print(f'training.pasted: {error}', file=sys.stderr)
        return 2
    print(f'{options.out}: {count} pictures')
    return 0


if __name__ == '__main__':
    sys.exit(main())
