"""Readers of the three plain folder formats: anomaly folder, segmentation folder, MVTec layout.

- Anomaly folder: `images/*` and `labels/<stem>.png`; 0 normal, 1 anomaly, 255 void.
- Segmentation folder: `{train,val,test}/images/*` and `.../labels/<stem>.png`, class ids; void is
  255 or as `classes.yaml` beside the splits says.
- MVTec layout: `train/good/*`, `test/{good,<defect>}/*`, `ground_truth/<defect>/<stem>_mask.png`.

Whatever is missing or does not fit is a FolderError that names the path expected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Format = Literal['flat', 'splits', 'mvtec']

SPLITS = ('train', 'val', 'test')
VOID = 255

_SUFFIXES = frozenset(('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'))
_SHIPPED_CLASSES = Path(__file__).parent / 'classes'


class FolderError(ValueError):
    """A data set that is missing, half there, or not what it is taken for."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture and the PNG with its labels."""

    image: Path
    label: Path


@dataclass(frozen=True, slots=True)
class AnomalyFolder:
    """Pictures with anomaly labels; `name` is that of the folder."""

    root: Path
    name: str
    samples: tuple[LabelledImage, ...]


@dataclass(frozen=True, slots=True)
class ClassList:
    """What the ids of a label mean: names by id, and the ids that mean none of them."""

    names: tuple[str, ...]
    void: tuple[int, ...] = (VOID,)


@dataclass(frozen=True, slots=True)
class SegmentationFolder:
    """One split with class labels; `classes` is None where no classes.yaml names them."""

    root: Path
    name: str
    samples: tuple[LabelledImage, ...]
    classes: ClassList | None


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """A test picture of a product: its kind ('good' or the defect) and its mask, if defective."""

    image: Path
    kind: str
    mask: Path | None


@dataclass(frozen=True, slots=True)
class MvtecCategory:
    """One product category: good pictures to train on, and good and defective ones to test."""

    root: Path
    name: str
    train: tuple[Path, ...]
    test: tuple[InspectedImage, ...]


def find_format(root: Path) -> Format:
    """Tell the format of a folder by its subfolders; FolderError where it is none of the three.

    'flat' (images/ and labels/) is an anomaly folder or one split of a segmentation folder: only
    the labels tell.
    """
    if not root.is_dir():
        raise FolderError(f'{root}: there is no such folder; check the path of the data set')
    if (root / 'images').is_dir():
        return 'flat'
    if any((root / split / 'images').is_dir() for split in SPLITS):
        return 'splits'
    if (root / 'test' / 'good').is_dir() or (root / 'train' / 'good').is_dir():
        return 'mvtec'
    raise FolderError(
        f'{root}: neither images/ and labels/, nor test/images/ and test/labels/, nor train/good/ '
        'and test/good/ are in it; give the folder that holds them'
    )


def read_anomaly_folder(root: Path) -> AnomalyFolder:
    """Read the pairs of an anomaly folder, in natural order of their stems."""
    return AnomalyFolder(root, root.resolve().name, _pairs(root))


def read_segmentation_folder(root: Path, split: str = 'test') -> SegmentationFolder:
    """Read one split of a segmentation folder; `root` may also be the folder of the split itself.

    Classes come from classes.yaml beside the splits; for the copies of CamVid and IDD-Lite, which
    carry none, from the file of that name shipped here.
    """
    folder = root if (root / 'images').is_dir() else root / split
    if not (folder / 'images').is_dir():
        there = [name for name in SPLITS if (root / name / 'images').is_dir()]
        raise FolderError(
            f'{folder / "images"}: there is no such folder; the set has '
            f'{" and ".join(there) or "no split"}, choose another split'
        )
    whole = folder.resolve().parent
    return SegmentationFolder(
        folder, f'{whole.name}/{folder.resolve().name}', _pairs(folder), _find_classes(whole)
    )


def read_mvtec_category(root: Path) -> MvtecCategory:
    """Read one category in the MVTec layout; every defective test picture must have its mask."""
    good = root / 'test' / 'good'
    if not good.is_dir():
        raise FolderError(
            f'{good}: there is no such folder; give the folder of one category, with train/good/ '
            'and test/good/ in it'
        )
    test = [
        _inspected(root, image, kind.name)
        for kind in sorted(path for path in (root / 'test').iterdir() if path.is_dir())
        for image in _pictures(kind)
    ]
    train = root / 'train' / 'good'
    return MvtecCategory(
        root, root.resolve().name, tuple(_pictures(train)) if train.is_dir() else (), tuple(test)
    )


def _inspected(root: Path, image: Path, kind: str) -> InspectedImage:
    if kind == 'good':
        return InspectedImage(image, kind, None)
    mask = root / 'ground_truth' / kind / f'{image.stem}_mask.png'
    if not mask.is_file():
        raise FolderError(f'{mask}: the mask of {image} is missing; fetch the data set again')
    return InspectedImage(image, kind, mask)


def _pairs(folder: Path) -> tuple[LabelledImage, ...]:
    """Pictures of images/ with their labels/<stem>.png; both must be complete."""
    images, labels = folder / 'images', folder / 'labels'
    if not labels.is_dir():
        raise FolderError(f'{labels}: there is no such folder; labels belong there as <stem>.png')
    pictures = _pictures(images)
    pairs = tuple(LabelledImage(path, labels / f'{path.stem}.png') for path in pictures)
    bare = [pair for pair in pairs if not pair.label.is_file()]
    if bare:
        raise FolderError(
            f'{bare[0].label}: the labels of {bare[0].image.name} are missing ({len(bare)} of '
            f'{len(pairs)} pictures have none); fetch the data set again'
        )
    alone = {path.stem for path in labels.glob('*.png')} - {path.stem for path in pictures}
    if alone:
        raise FolderError(
            f'{images / min(alone)}.*: the picture of these labels is missing ({len(alone)} labels '
            'have none); fetch the data set again'
        )
    return pairs


def _pictures(folder: Path) -> list[Path]:
    """Pictures in a folder, in natural order (2 before 10); at least one, stems unique."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    if not found:
        raise FolderError(f'{folder}: there is no picture in it; fetch the data set again')
    stems: dict[str, Path] = {}
    for path in found:
        if stems.setdefault(path.stem, path) != path:
            raise FolderError(
                f'{path}: {stems[path.stem].name} has the same stem, so that its labels belong to '
                'either; remove one of them'
            )
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key that orders numbers within names by value."""
    parts = re.split(r'(\d+)', name)
    return [(0, int(part), '') if part.isdigit() else (1, 0, part) for part in parts if part]


def _find_classes(whole: Path) -> ClassList | None:
    candidates = (whole / 'classes.yaml', _SHIPPED_CLASSES / f'{whole.name}.yaml')
    for candidate in candidates:
        if candidate.is_file():
            return read_classes(candidate)
    return None


def read_classes(path: Path) -> ClassList:
    """Read classes.yaml: `classes` (names, the position is the id) and `void` (ids; 255)."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError) as error:
        raise FolderError(f'{path}: cannot be read ({error}); write it anew') from error
    expected = f'{path}: expected `classes: [name, ...]` and, optionally, `void: [id, ...]`'
    if not isinstance(content, dict) or not isinstance(content.get('classes'), list):
        raise FolderError(expected)
    names = tuple(str(name) for name in content['classes'])
    void = content.get('void', [VOID])
    if not names or len(set(names)) < len(names):
        raise FolderError(f'{path}: the class names are empty or not unique; correct the list')
    if not isinstance(void, list) or not all(isinstance(index, int) for index in void):
        raise FolderError(expected)
    return ClassList(names, tuple(void))


def load_image(path: Path) -> Image:
    """Read a picture: uint8 [H, W, 3], BGR (grey pictures too). FolderError if it is none."""
    return _decoded(path, cv2.IMREAD_COLOR)


def load_anomaly_labels(path: Path) -> Image:
    """Read anomaly labels: uint8 [H, W], 0 normal, 1 anomaly, 255 void.

    Labels of 0, 2 and 255 (the original coding of Road Anomaly) are read as 0, 1 and 255.
    """
    labels = _load_ids(path)
    held = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
    if held <= {0, 1, VOID}:
        return labels
    if held <= {0, 2, VOID}:
        labels[labels == 2] = 1
        return labels
    raise FolderError(
        f'{path}: holds the ids {_listed(held)}, where anomaly labels are 0, 1 and 255; recode '
        'them, or judge class labels with the protocol segmentation'
    )


def load_class_ids(path: Path, table: NDArray[np.int16]) -> NDArray[np.int16]:
    """Read class labels through a table (see `class_table`): int16 [H, W], class or 255 (void)."""
    labels = _load_ids(path)
    held = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    unknown = held[table[held] < 0]
    if unknown.size:
        raise FolderError(
            f'{path}: holds the ids {_listed(unknown.tolist())}, which are neither a class nor '
            'void; name them in classes.yaml beside the splits'
        )
    return table[labels]


def load_mask(path: Path) -> Image:
    """Read a defect mask (0 and 255, or 0 and 1): uint8 [H, W] of 0 and 1."""
    mask = _load_ids(path)
    held = set(np.unique(mask).tolist())
    if not (held <= {0, 255} or held <= {0, 1}):
        raise FolderError(f'{path}: holds {_listed(held)}, where a mask is 0 and 255; recode it')
    return (mask > 0).astype(np.uint8)


def class_table(classes: ClassList | None, names: Sequence[str], where: Path) -> NDArray[np.int16]:
    """Table [256] from label id to the class of that name in `names`; void 255, unknown ids -1.

    Without a class list, ids count through `names` and 255 is void. FolderError where the list
    names other classes than `names`.
    """
    listed = classes or ClassList(tuple(names))
    if set(listed.names) != set(names):
        raise FolderError(
            f'{where}: its classes ({", ".join(listed.names)}) are not those asked for '
            f'({", ".join(names)}); choose a set and a model of the same classes'
        )
    table = np.full(256, -1, np.int16)
    table[: len(names)] = [names.index(name) for name in listed.names]
    table[list(listed.void)] = VOID
    return table


def check_same_size(image: Path, pixels: Image, label: Path, labels: NDArray[np.integer]) -> None:
    """FolderError where a picture and its labels differ in height or width."""
    if pixels.shape[:2] != labels.shape:
        raise FolderError(
            f'{label}: {labels.shape[1]}x{labels.shape[0]} labels belong to {image.name} of '
            f'{pixels.shape[1]}x{pixels.shape[0]}; fetch the matching pair again'
        )


def _load_ids(path: Path) -> Image:
    labels = _decoded(path, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise FolderError(
            f'{path}: is an image of {labels.dtype} {labels.shape}, where labels are 8-bit grey; '
            'save the ids themselves, not their colours'
        )
    return labels


def _decoded(path: Path, mode: int) -> Image:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise FolderError(f'{path}: cannot be read ({error.strerror}); fetch it again') from error
    pixels = cv2.imdecode(data, mode) if data.size else None
    if pixels is None:
        raise FolderError(f'{path}: is no readable picture ({data.size} bytes); fetch it again')
    return np.asarray(pixels)


def _listed(ids: Sequence[int] | set[int]) -> str:
    """A few of many ids, for a message."""
    several = sorted(ids)
    return ', '.join(map(str, several[:6])) + (', ...' if len(several) > 6 else '')
