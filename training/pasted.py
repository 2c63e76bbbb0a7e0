"""Make the validation set `pasted`: objects of held-out categories in pictures of known streets.

`python -m training.pasted --data ROOT --out DIR` writes an anomaly folder (images/, labels/ with 0
normal, 1 anomaly, 255 void). What a training pastes with `outlier_held_out` of the same share never
comes from these categories, so parameters can be chosen here and the anomaly sets stay unseen.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
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

STREETS = ('camvid/val', 'idd_lite/val')
OBJECTS = 'outlier_objects'
SHARE = 0.2


def write_pasted(root: Path, out: Path, share: float = SHARE, seed: int = 0, every: int = 1) -> int:
    """Write the set into the new folder `out`, whole or not at all; return how many pictures.

    Each picture of STREETS (each second with `every` 2, and so on) gets one to three objects,
    log-uniform heights of 3 to 40 % of it.
    Raises FolderError and OutlierError for missing data, FolderError where `out` exists.
    """
    if out.exists():
        raise FolderError(f'{out}: exists already; remove it or choose another folder')
    chosen = held_out_categories(root / OBJECTS, share)
    objects = [one for one in read_cut_outs(root / OBJECTS) if one.category in chosen]
    paster = Paster(objects, most=3, heights=(0.03, 0.4), relight=0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        for name in ('images', 'labels'):
            (folder / name).mkdir(parents=True)
        samples = list(enumerate(_samples(root)))[::every]
        for number, (stem, image, void) in track(samples, description='pasting'):
            _write_one(folder, stem, image, void, paster, np.random.default_rng((seed, number)))
        shutil.move(folder, out)
    return len(samples)


def _samples(root: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Stem, uint8 RGB [H, W, 3] and bool [H, W] of void, of every picture."""
    for name in STREETS:
        folder = read_segmentation_folder(root / name)
        table = _table(folder)
        for sample in folder.samples:
            labels = load_class_ids(sample.label, table)
            stem = f'{name.split("/")[0]}_{sample.image.stem}'
            image = cv2.cvtColor(load_image(sample.image), cv2.COLOR_BGR2RGB)  # as cut-outs are
            yield stem, image, labels == VOID


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
    parser.add_argument('--share', type=float, default=SHARE, help='of the categories, held out')
    parser.add_argument('--seed', type=int, default=0, help='of what is pasted where')
    parser.add_argument('--every', type=int, default=1, help='take each n-th picture only')
    options = parser.parse_args(argv)
    try:
        count = write_pasted(options.data, options.out, options.share, options.seed, options.every)
    except (FolderError, OutlierError, OSError) as error:
        print(f'training.pasted: {error}', file=sys.stderr)
        return 2
    print(f'{options.out}: {count} pictures')
    return 0


if __name__ == '__main__':
    sys.exit(main())
