"""Readers of the three plain folder formats: anomaly folder, segmentation folder, MVTec layout.

- Anomaly folder: `images/*` and `labels/<stem>.png`; 0 normal, 1 anomaly, 255 void.
- Segmentation folder: `{train,val,test}/images/*` and `.../labels/<stem>.png`, class ids; void is
  255 or as `classes.yaml` beside the splits says.
- MVTec layout: `train/good/*`, `test/{good,<defect>}/*`, `ground_truth/<defect>/<stem>_mask.png`.

Public sets in the layouts of their authors are read by training/data/layouts.py. Whatever is
missing or does not fit is a FolderError that names the path expected.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
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
IGNORED = 253  # neither class nor void: nothing is learnt from it, and nothing is judged there

PICTURE_SUFFIXES = frozenset(('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'))
_SHIPPED_CLASSES = Path(__file__).parent / 'classes'


class FolderError(ValueError):
    """A data set that is missing, half there, or not what it is taken for."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture and the PNG with its labels; `overlay` is added to the picture (`load_picture`)."""

    image: Path
    label: Path
    overlay: Path | None = None


@dataclass(frozen=True, slots=True)
class AnomalyFolder:
    """Pictures with anomaly labels; `name` is that of the folder.

    `coding` says what the ids of the labels mean, where they are not 0, 1 and 255 (see
    `load_anomaly_labels`); `left_out` counts the pictures whose labels are not published.
    """

    root: Path
    name: str
    samples: tuple[LabelledImage, ...]
    coding: Mapping[int, int] | None = None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class ClassList:
    """What the ids of a label mean: those of the names, and those that mean none of them.

    `ids` are the label ids of `names` (default: their positions). `void` are ids of things that no
    class describes, which serve as outlier data; `ignored` are ids that say nothing at all, such as
    the frame of a rectified picture. FolderError where `ids` are not as many as `names`.
    """

    names: tuple[str, ...]
    void: tuple[int, ...] = (VOID,)
    ids: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, 'ids', tuple(range(len(self.names))))
        if len(self.ids) != len(self.names):
            raise FolderError(
                f'{len(self.ids)} label ids are given for {len(self.names)} classes '
                f'({", ".join(self.names)}); give one for each'
            )


@dataclass(frozen=True, slots=True)
class SegmentationFolder:
    """One split with class labels; `classes` is None where no classes.yaml names them."""

    root: Path
    name: str
    samples: tuple[LabelledImage, ...]
    classes: ClassList | None


@dataclass(frozen=True, slots=True)
class PairedTree:
    """Where pictures and labels lie: `images/KEY<image_end>.*` and `labels/KEY<label_end>`.

    `inner` is '*/' where a KEY has a folder (of a city, a sequence, a town), else ''. `remedy` is
    what to do where one of the two trees is missing.
    """

    images: Path
    labels: Path
    image_end: str = ''
    label_end: str = '.png'
    inner: str = ''
    remedy: str = 'labels belong there as <stem>.png'

    def label(self, key: str) -> Path:
        """Return where the labels of a picture belong."""
        return self.labels / f'{key}{self.label_end}'

    def check(self) -> None:
        """Raise FolderError where the folder of labels or that of pictures is missing."""
        for folder in (self.labels, self.images):
            if not folder.is_dir():
                raise FolderError(f'{folder}: there is no such folder; {self.remedy}')


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
        'and test/good/ are in it, nor is it a layout of docs/data.md; give the folder that holds '
        'them'
    )


def read_anomaly_folder(root: Path) -> AnomalyFolder:
    """Read the pairs of an anomaly folder, in natural order of their stems."""
    return AnomalyFolder(root, root.resolve().name, pair_up(_plain(root)))


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
        folder,
        f'{whole.name}/{folder.resolve().name}',
        pair_up(_plain(folder)),
        _find_classes(whole),
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
        for image in find_pictures(kind).values()
    ]
    train = root / 'train' / 'good'
    good_ones = tuple(find_pictures(train).values()) if train.is_dir() else ()
    return MvtecCategory(root, root.resolve().name, good_ones, tuple(test))


def _inspected(root: Path, image: Path, kind: str) -> InspectedImage:
    if kind == 'good':
        return InspectedImage(image, kind, None)
    mask = root / 'ground_truth' / kind / f'{image.stem}_mask.png'
    if not mask.is_file():
        raise FolderError(f'{mask}: the mask of {image} is missing; fetch the data set again')
    return InspectedImage(image, kind, mask)


def _plain(folder: Path) -> PairedTree:
    return PairedTree(folder / 'images', folder / 'labels')


def pair_up(tree: PairedTree, chosen: Collection[str] | None = None) -> tuple[LabelledImage, ...]:
    """Pair the pictures of a tree with their labels, in natural order; both must be complete.

    chosen: the keys of the pictures that have labels, where others have none (default: all).
    """
    tree.check()
    pictures = find_pictures(tree.images, tree.inner, tree.image_end)
    keys = list(pictures) if chosen is None else sorted(chosen, key=natural)
    bare = [key for key in keys if not tree.label(key).is_file()]
    if bare:
        raise FolderError(
            f'{tree.label(bare[0])}: the labels of {pictures.get(bare[0], Path(bare[0])).name} are '
            f'missing ({len(bare)} of {len(keys)} pictures have none); fetch the data set again'
        )
    found = tree.labels.glob(f'{tree.inner}*{tree.label_end}')
    labelled = {
        path.relative_to(tree.labels).as_posix().removesuffix(tree.label_end) for path in found
    }
    alone = labelled.union(keys) - set(pictures)
    if alone:
        raise FolderError(
            f'{tree.images / min(alone)}{tree.image_end}.*: the picture of these labels is missing '
            f'({len(alone)} labels have none); fetch the data set again'
        )
    if not keys:
        raise FolderError(f'{tree.labels}: there are no labels in it; fetch the data set again')
    return tuple(LabelledImage(pictures[key], tree.label(key)) for key in keys)


def find_pictures(folder: Path, inner: str = '', end: str = '') -> dict[str, Path]:
    """Pictures `folder/KEY<end>.*` by key, in natural order (2 before 10); at least one.

    inner: '*/' where keys have a folder. FolderError where two pictures have the same key.
    """
    found: dict[str, Path] = {}
    for path in folder.glob(f'{inner}*{end}.*'):
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        key = path.relative_to(folder).with_suffix('').as_posix().removesuffix(end)
        if found.setdefault(key, path) != path:
            raise FolderError(
                f'{path}: {found[key].name} has the same stem, so that its labels belong to '
                'either; remove one of them'
            )
    if not found:
        wanted = f'picture {inner}*{end}.*' if inner or end else 'picture'
        raise FolderError(f'{folder}: there is no {wanted} in it; fetch the data set again')
    return {key: found[key] for key in sorted(found, key=natural)}


def natural(name: str) -> list[tuple[int, int, str]]:
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


def load_picture(sample: LabelledImage) -> Image:
    """Read the picture of a sample as `load_image` does, with its overlay added where it has one.

    An overlay is an .npz whose `rgb`, integers [H, W, 3], is the difference that pasted objects
    make: the sum is clipped to 0..255. FolderError where one of the two does not fit.
    """
    pixels = load_image(sample.image)
    if sample.overlay is None:
        return pixels
    try:
        with np.load(sample.overlay) as archive:
            difference = archive['rgb'].astype(np.int32)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise FolderError(
            f'{sample.overlay}: is no archive with an array rgb ({error}); fetch it again'
        ) from error
    if difference.shape != pixels.shape:
        raise FolderError(
            f'{sample.overlay}: its rgb is {difference.shape}, but {sample.image} is '
            f'{pixels.shape}; fetch both again'
        )
    return np.clip(pixels + difference[..., ::-1], 0, 255).astype(np.uint8)


def load_anomaly_labels(path: Path, coding: Mapping[int, int] | None = None) -> Image:
    """Read anomaly labels: uint8 [H, W], 0 normal, 1 anomaly, 255 void.

    coding: what each label id means, 0, 1 or 255; FolderError for an id that is not in it. Without
    one, labels are 0, 1 and 255, or 0, 2 and 255 (the original coding of Road Anomaly).
    """
    labels = _load_ids(path)
    held = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
    if coding is not None:
        return _decode(path, labels, held, coding)
    if held <= {0, 1, VOID}:
        return labels
    if held <= {0, 2, VOID}:
        labels[labels == 2] = 1
        return labels
    raise FolderError(
        f'{path}: holds the ids {_listed(held)}, where anomaly labels are 0, 1 and 255; recode '
        'them, or judge class labels with the protocol segmentation'
    )


def _decode(path: Path, labels: Image, held: set[int], coding: Mapping[int, int]) -> Image:
    unknown = held - set(coding)
    if unknown:
        raise FolderError(
            f'{path}: holds the ids {_listed(unknown)}, where labels of this set are '
            f'{_listed(set(coding))}; fetch the original labels'
        )
    table = np.zeros(256, np.uint8)
    table[list(coding)] = list(coding.values())
    return table[labels]


def load_class_ids(path: Path, table: NDArray[np.int16]) -> NDArray[np.int16]:
    """Read class labels through a table (see `class_table`): int16 [H, W], class, 253 or 255."""
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
    """Table [256] from label id to the class of that name in `names`.

    Void ids become 255, ignored ones 253, unknown ones -1. Without a class list, ids count through
    `names` and 255 is void. FolderError where the list names other classes than `names`.
    """
    listed = classes or ClassList(tuple(names))
    if set(listed.names) != set(names):
        raise FolderError(
            f'{where}: its classes ({", ".join(listed.names)}) are not those asked for '
            f'({", ".join(names)}); choose a set and a model of the same classes'
        )
    return id_table(listed, {name: names.index(name) for name in listed.names})


def id_table(classes: ClassList, values: Mapping[str, int]) -> NDArray[np.int16]:
    """Table [256] from label id to the value of its class; void 255, ignored 253, unknown -1."""
    table = np.full(256, -1, np.int16)
    table[list(classes.ids)] = [values[name] for name in classes.names]
    table[list(classes.void)] = VOID
    table[list(classes.ignored)] = IGNORED
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
