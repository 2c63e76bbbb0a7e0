"""Readers of public data sets in the layouts in which their authors ship them.

A set is told by what lies in its folder and is read into the same dataclasses as the plain formats
(training/data/folders.py): `read_segmentation_set` and `read_anomaly_set` take either. ROOT is the
folder into which the archives were unpacked; `ROOT/train`, `ROOT/val` and `ROOT/test` name its
splits, whether or not there are such folders. docs/data.md lists what is expected of each set.

Whatever is missing or does not fit is a FolderError that names the path expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from training.data.folders import (
    PICTURE_SUFFIXES,
    SPLITS,
    VOID,
    AnomalyFolder,
    ClassList,
    FolderError,
    LabelledImage,
    PairedTree,
    SegmentationFolder,
    find_pictures,
    natural,
    pair_up,
    read_anomaly_folder,
    read_segmentation_folder,
)

# The classes that Cityscapes evaluates, in the order of its train ids, by their label ids.
_CITYSCAPES_IDS = {
    'road': 7, 'sidewalk': 8, 'building': 11, 'wall': 12, 'fence': 13, 'pole': 17,
    'traffic light': 19, 'traffic sign': 20, 'vegetation': 21, 'terrain': 22, 'sky': 23,
    'person': 24, 'rider': 25, 'car': 26, 'truck': 27, 'bus': 28, 'train': 31, 'motorcycle': 32,
    'bicycle': 33,
}  # fmt: skip
# Void: static, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, polegroup,
# caravan, trailer. Ignored: unlabeled, ego vehicle, rectification border, out of roi, which are no
# things of a street and would teach a model to take the bonnet for an outlier.
CITYSCAPES = ClassList(
    tuple(_CITYSCAPES_IDS),
    void=(4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, VOID),
    ids=tuple(_CITYSCAPES_IDS.values()),
    ignored=(0, 1, 2, 3),
)
# BDD100K has the same classes by train id. Its 255 holds the ego vehicle and what nobody labelled
# along with rare things, so that it is no outlier data.
BDD100K = ClassList(tuple(_CITYSCAPES_IDS), void=(), ignored=(VOID,))
# Twelve classes and the background (`unlabeled`, which holds the sky and is trained as a class by
# the authors); the ids of the files begin with 1. 14, the anomalies, occurs in test only.
STREETHAZARDS = ClassList(
    (
        'unlabeled', 'building', 'fence', 'other', 'pedestrian', 'pole', 'road line', 'road',
        'sidewalk', 'vegetation', 'car', 'wall', 'traffic sign',
    ),
    void=(14, VOID),
    ids=tuple(range(1, 14)),
)  # fmt: skip

# What label ids mean: 0 normal, 1 anomaly, 255 void. Ids that a set does not have are left out,
# so that labels of another coding are refused instead of judged.
_BINARY = {0: 0, 1: 1, VOID: VOID}
_ROAD_ANOMALY = {0: 0, 1: 0, 2: 1, VOID: VOID}
_LOST_AND_FOUND = {0: VOID, 1: 0, **dict.fromkeys(range(2, VOID), 1), VOID: VOID}
_STREETHAZARDS = {**dict.fromkeys(range(1, 14), 0), 14: 1}
_BDD_ANOMALY = {**dict.fromkeys(range(16), 0), 16: 1, 17: 1, 18: 1, VOID: VOID}

_STREETHAZARDS_PARTS = {
    'train': ('train', 'training'), 'val': ('train', 'validation'), 'test': ('test', 'test')
}  # fmt: skip
_FISHYSCAPES_FILE = re.compile(r'(\d+_.+)_(labels\.png|rgb\.npz)')


@dataclass(frozen=True)
class Layout:
    """How a public set is told by its folder, and what reads it: anomalies, classes or both.

    `split` is the one with public labels, '' where the set has no splits.
    """

    title: str
    recognises: Callable[[Path], bool]
    split: str
    anomalies: Callable[[Path, str], AnomalyFolder] | None = None
    classes: Callable[[Path, str], SegmentationFolder] | None = None


@dataclass(frozen=True)
class Located:
    """A set that was recognised: its layout, its folder and the split asked for by name, if any."""

    layout: Layout
    root: Path
    split: str


def locate(root: Path) -> Located | None:
    """Recognise the layout of a set, or of the set of which `root` names a split; None for others.

    A half-downloaded set is recognised by the half that is there.
    """
    for layout in LAYOUTS:
        if root.is_dir() and layout.recognises(root):
            return Located(layout, root, '')
    if root.name in SPLITS and root.parent.is_dir():
        for layout in LAYOUTS:
            if layout.split and layout.recognises(root.parent):
                return Located(layout, root.parent, root.name)
    return None


def read_anomaly_set(root: Path, split: str | None = None) -> AnomalyFolder:
    """Read a set with anomaly labels: a public one in its own layout, else an anomaly folder.

    split: 'train', 'val' or 'test' of a set that has splits (default: the one with public labels);
    where `root` names a split itself, that one is read. FolderError for what is missing, and for a
    set that has class labels only.
    """
    found = locate(root)
    if found is None:
        return read_anomaly_folder(root)
    if found.layout.anomalies is None:
        raise FolderError(
            f'{root}: {found.layout.title} has class labels and no anomalies; judge it with the '
            'protocol segmentation'
        )
    return found.layout.anomalies(found.root, found.split or split or found.layout.split)


def read_segmentation_set(root: Path, split: str | None = None) -> SegmentationFolder:
    """Read a split of a set with class labels: a public one, else a segmentation folder.

    split: as for `read_anomaly_set`; 'test' by default for a segmentation folder. FolderError for
    what is missing, and for a set that has anomaly labels only.
    """
    found = locate(root)
    if found is None:
        return read_segmentation_folder(root, split or 'test')
    if found.layout.classes is None:
        raise FolderError(
            f'{root}: {found.layout.title} has anomaly labels and no classes; judge it with a '
            'protocol of anomaly scores'
        )
    return found.layout.classes(found.root, found.split or split or found.layout.split)


def _anomalies(
    root: Path, split: str, samples: Iterable[LabelledImage], coding: dict[int, int]
) -> AnomalyFolder:
    return AnomalyFolder(root, _name(root, split), tuple(samples), coding)


def _classes(root: Path, split: str, tree: PairedTree, classes: ClassList) -> SegmentationFolder:
    return SegmentationFolder(tree.images, _name(root, split), pair_up(tree), classes)


def _name(root: Path, split: str) -> str:
    name = root.resolve().name
    return f'{name}/{split}' if split else name


def _any(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _any_folder(root: Path, *parts: str) -> bool:
    return any((root / part).is_dir() for part in parts)


def _is_cityscapes(root: Path) -> bool:
    """By gtFine, or by pictures that are not those of Lost and Found, which come the same way."""
    pictures = (root / 'leftImg8bit').is_dir() and not _is_lost_and_found(root)
    return pictures or (root / 'gtFine').is_dir()


def read_cityscapes(root: Path, split: str = 'val') -> SegmentationFolder:
    """Cityscapes (Cordts et al. 2016), fine labels: 19 classes by label id (`CITYSCAPES`).

    `leftImg8bit/<split>/<city>/*_leftImg8bit.png`, `gtFine/<split>/<city>/*_gtFine_labelIds.png`.
    The public labels of test hold ignored ids only.
    """
    remedy = 'unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder'
    tree = _left_pictures(root, split, 'gtFine', remedy)
    return _classes(root, split, tree, CITYSCAPES)


def _left_pictures(root: Path, split: str, labels: str, remedy: str) -> PairedTree:
    """Pictures of the left camera by city or sequence, and their label ids in the tree `labels`."""
    return PairedTree(
        root / 'leftImg8bit' / split,
        root / labels / split,
        '_leftImg8bit',
        f'_{labels}_labelIds.png',
        inner='*/',
        remedy=remedy,
    )


def _is_lost_and_found(root: Path) -> bool:
    """By its sequences: their names begin with a number, those of Cityscapes' cities do not."""
    return any(_any(root, f'{tree}/*/[0-9][0-9]_*') for tree in ('leftImg8bit', 'gtCoarse'))


def read_lost_and_found(root: Path, split: str = 'test') -> AnomalyFolder:
    """Lost and Found (Pinggera et al. 2016): obstacles on the free space; all else is void.

    `leftImg8bit/<split>/<sequence>/*_leftImg8bit.png` and
    `gtCoarse/<split>/<sequence>/*_gtCoarse_labelIds.png`; id 1 is free space, 2 and more are kinds
    of obstacles, children and bicycles among them. 0 is what nobody labelled.
    """
    remedy = 'unpack leftImg8bit.zip and gtCoarse.zip into one folder; there is no val'
    tree = _left_pictures(root, split, 'gtCoarse', remedy)
    return _anomalies(root, split, pair_up(tree), _LOST_AND_FOUND)


def _is_fishyscapes(root: Path) -> bool:
    return any(_FISHYSCAPES_FILE.fullmatch(path.name) for path in root.iterdir())


def read_fishyscapes(root: Path, split: str = '') -> AnomalyFolder:
    """Fishyscapes (Blum et al. 2021), validation: Lost & Found or Static; 0, 1 and 255.

    `<n>_<stem>_labels.png` in one folder. The picture is `<n>_<stem>_rgb.*` beside its labels,
    else `leftImg8bit/<split>/<city or street>/<stem>_leftImg8bit.png` of Cityscapes (Static) or
    Lost and Found, in ROOT, beside it, or in another folder beside it. Pictures of Static that come
    from Cityscapes need `<n>_<stem>_rgb.npz`: the difference that the pasted objects make.
    """
    files = [_FISHYSCAPES_FILE.fullmatch(path.name) for path in root.iterdir()]
    numbered = sorted({file[1] for file in files if file}, key=natural)
    bare = [name for name in numbered if not (root / f'{name}_labels.png').is_file()]
    if bare:
        raise FolderError(
            f'{root / bare[0]}_labels.png: the labels of {bare[0]}_rgb.npz are missing '
            f'({len(bare)} of {len(numbered)} pictures have none); fetch the set again'
        )
    streets = _streets_near(root)
    samples = [_fishyscapes_sample(root, name, streets) for name in numbered]
    return _anomalies(root, split, samples, _BINARY)


def _streets_near(root: Path) -> list[Path]:
    """Folders `leftImg8bit/<split>` in a set, in the folder that holds it and in its siblings."""
    parent = root.absolute().parent
    near = [root, parent, *sorted(path for path in parent.iterdir() if path.is_dir())]
    return [split for folder in near for split in sorted(folder.glob('leftImg8bit/*'))]


def _fishyscapes_sample(root: Path, numbered: str, streets: Sequence[Path]) -> LabelledImage:
    label, overlay = root / f'{numbered}_labels.png', root / f'{numbered}_rgb.npz'
    for suffix in sorted(PICTURE_SUFFIXES):
        beside = overlay.with_suffix(suffix)
        if beside.is_file():
            return LabelledImage(beside, label)
    stem = numbered.split('_', 1)[1]
    pasted = not stem[0].isdigit()  # Static: into pictures of Cityscapes, whose cities have names
    if pasted and not overlay.is_file():
        raise FolderError(
            f'{overlay}: the objects that are pasted into this picture are missing, nor is it '
            f'there as {numbered}_rgb.png or .jpg; unpack the whole fs_val archive'
        )
    picture = f'{stem.rsplit("_", 2)[0]}/{stem}_leftImg8bit.png'
    for street in streets:
        if (street / picture).is_file():
            return LabelledImage(street / picture, label, overlay if pasted else None)
    raise FolderError(
        f'{root / "leftImg8bit" / "*" / picture}: the picture of {label.name} is missing; '
        f'unpack leftImg8bit of {"Cityscapes" if pasted else "Lost and Found"} into this folder or '
        'one beside it'
    )


def _is_segment_me(root: Path) -> bool:
    return _any_folder(root, 'labels_masks') or (
        root.name in ('dataset_AnomalyTrack', 'dataset_ObstacleTrack')
        and _any_folder(root, 'images')
        and not _any_folder(root, 'labels')
    )


def read_segment_me(root: Path, split: str = '') -> AnomalyFolder:
    """SegmentMeIfYouCan (Chan et al. 2021), either track: 0 normal (or road), 1 anomaly, 255 void.

    `images/*` and `labels_masks/<stem>_labels_semantic.png`. Labels are public for the pictures
    named `validation*` only; the others are left out and counted.
    """
    tree = PairedTree(
        root / 'images',
        root / 'labels_masks',
        label_end='_labels_semantic.png',
        remedy='unpack dataset_AnomalyTrack.zip or dataset_ObstacleTrack.zip again',
    )
    tree.check()
    pictures = find_pictures(tree.images)
    labelled = [
        key for key in pictures if key.startswith('validation') or tree.label(key).is_file()
    ]
    samples = pair_up(tree, labelled)
    left_out = len(pictures) - len(samples)
    return AnomalyFolder(root, _name(root, split), samples, _BINARY, left_out)


def _is_road_anomaly(root: Path) -> bool:
    return (root / 'frame_list.json').is_file() or _any(root, 'frames/*.labels')


def read_road_anomaly(root: Path, split: str = '') -> AnomalyFolder:
    """Road Anomaly (Lis et al. 2019): 0 background, 1 road, 2 anomaly.

    `frames/<stem>.jpg` and `frames/<stem>.labels/labels_semantic.png` of the frames that
    `frame_list.json` names; of all frames where there is no such list.
    """
    tree = PairedTree(
        root / 'frames',
        root / 'frames',
        label_end='.labels/labels_semantic.png',
        remedy='unpack RoadAnomaly_jpg.zip again',
    )
    return _anomalies(root, split, pair_up(tree, _frame_list(root)), _ROAD_ANOMALY)


def _frame_list(root: Path) -> list[str] | None:
    path = root / 'frame_list.json'
    if not path.is_file():
        return None
    try:
        return [PurePath(name).with_suffix('').as_posix() for name in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise FolderError(f'{path}: is no list of file names ({error}); fetch it again') from error


def _is_streethazards(root: Path) -> bool:
    return any(
        _any_folder(root, f'{half}/images/{part}', f'{half}/annotations/{part}')
        for half, part in _STREETHAZARDS_PARTS.values()
    )


def _streethazards_tree(root: Path, split: str) -> PairedTree:
    half, part = _STREETHAZARDS_PARTS[split]
    return PairedTree(
        root / half / 'images' / part,
        root / half / 'annotations' / part,
        inner='*/',
        remedy=f'unpack streethazards_{half}.tar into {root}, so that {half}/ lies in it',
    )


def read_streethazards(root: Path, split: str = 'test') -> AnomalyFolder:
    """StreetHazards (Hendrycks et al. 2022): ids 1 to 13 are known, 14 is the anomaly.

    `test/images/test/<town>/*.png` and `test/annotations/test/<town>/*.png`; the splits train and
    val, in `train/`, hold no anomalies.
    """
    samples = pair_up(_streethazards_tree(root, split))
    return _anomalies(root, split, samples, _STREETHAZARDS)


def read_streethazards_classes(root: Path, split: str = 'test') -> SegmentationFolder:
    """StreetHazards with its 12 classes and the background (`STREETHAZARDS`).

    `train/{images,annotations}/training/<town>/*.png` is train, `.../validation/` val.
    """
    return _classes(root, split, _streethazards_tree(root, split), STREETHAZARDS)


def _is_bdd(root: Path) -> bool:
    return _any_folder(root, 'images/10k', 'labels/sem_seg', 'seg/images', 'seg/labels') or _any(
        root, 'labels/*/*_train_id.png'
    )


def _bdd_tree(root: Path, split: str) -> PairedTree:
    """Trees of either release of the labels: of 2021, or of 2018 (`seg/`, or ROOT is seg/)."""
    if _any_folder(root, 'images/10k', 'labels/sem_seg'):
        remedy = (
            'unpack bdd100k_images_10k.zip and bdd100k_sem_seg_labels_trainval.zip into one '
            'folder; labels are public for train and val'
        )
        masks = root / 'labels' / 'sem_seg' / 'masks' / split
        return PairedTree(root / 'images' / '10k' / split, masks, remedy=remedy)
    seg = root / 'seg' if _any_folder(root, 'seg') else root
    return PairedTree(
        seg / 'images' / split,
        seg / 'labels' / split,
        label_end='_train_id.png',
        remedy='unpack bdd100k_seg.zip again; labels are public for train and val',
    )


def read_bdd_anomaly(root: Path, split: str = 'val') -> AnomalyFolder:
    """BDD-Anomaly (Hendrycks et al. 2022) on BDD100K: train, motorcycle and bicycle are anomalies.

    `images/10k/<split>/*.jpg` and `labels/sem_seg/masks/<split>/*.png`, or `seg/images/<split>/`
    and `seg/labels/<split>/*_train_id.png`: train ids. 255 is void here. All pictures of the split
    count; the authors judge the 810 of train and val that hold an anomaly, and their 255 as normal.
    """
    return _anomalies(root, split, pair_up(_bdd_tree(root, split)), _BDD_ANOMALY)


def read_bdd100k(root: Path, split: str = 'val') -> SegmentationFolder:
    """BDD100K (Yu et al. 2020) with the 19 classes of Cityscapes (`BDD100K`); 255 is ignored."""
    return _classes(root, split, _bdd_tree(root, split), BDD100K)


LAYOUTS = (
    # First Fishyscapes, which may hold the pictures of one of the two after it.
    Layout('Fishyscapes', _is_fishyscapes, '', anomalies=read_fishyscapes),
    Layout('Cityscapes', _is_cityscapes, 'val', classes=read_cityscapes),
    Layout('Lost and Found', _is_lost_and_found, 'test', anomalies=read_lost_and_found),
    Layout('SegmentMeIfYouCan', _is_segment_me, '', anomalies=read_segment_me),
    Layout('Road Anomaly', _is_road_anomaly, '', anomalies=read_road_anomaly),
    Layout(
        'StreetHazards', _is_streethazards, 'test', read_streethazards, read_streethazards_classes
    ),
    Layout('BDD100K', _is_bdd, 'val', read_bdd_anomaly, read_bdd100k),
)
