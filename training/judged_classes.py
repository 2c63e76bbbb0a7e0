"""Which classes a set is judged by: those of the model, or coarser ones that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data import folders
from training.data.folders import FolderError, LabelledImage, SegmentationFolder
from training.measurement import BenchmarkError
from vq_anomaly_ros.detection.model_file import ModelFile

# Pictures looked at to tell anomaly labels from class labels before anything is measured.
_LABELS_PROBED = 20

Members = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class JudgedClasses:
    """The classes of a set as a model gives them.

    names: of the C classes that are judged; members: the model's classes, by position, that each
    of them is made of, disjoint; table: int16 [256], label id -> position in `names`, 255 for what
    is not judged, -1 for what is no label; description: for the row's provenance.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    table: NDArray[np.int16]
    description: str

    @property
    def shown_as(self) -> NDArray[np.uint8]:
        """uint8 [256]: the model's class whose colour stands for each id; other ids stay."""
        shown = np.arange(256, dtype=np.uint8)
        shown[: len(self.members)] = [members[0] for members in self.members]
        return shown


def judged_classes(model: ModelFile, data: SegmentationFolder) -> JudgedClasses:
    """How the classes of a model and those of a set meet; an error where they do not.

    A set of coarser classes (COARSE of training/data/street.py) is judged by them. Ignored ids are
    judged as little as void ones. Raises BenchmarkError for a model without classes and for labels
    of anomalies, FolderError for other classes.
    """
    names = model.info.classes
    if not names:
        raise BenchmarkError(
            f'{model.path}: the method {model.info.method} has no classes to judge; '
            'use a protocol of anomaly scores'
        )
    if data.classes is None and len(names) > 2 and _looks_like_anomalies(data.samples):
        raise BenchmarkError(
            f'{data.root}: its labels are 0, 1 and 255 only, anomalies rather than '
            f'{len(names)} classes; use --protocol pooled, or name the classes in classes.yaml'
        )
    coarse = _coarse(names, data.classes.names if data.classes else names)
    if data.classes is None or coarse is None:
        table = folders.class_table(data.classes, names, data.root)
        members = tuple((index,) for index in range(len(names)))
        return JudgedClasses(names, members, _without_ignored(table), "the model's")
    listed = tuple(coarse)
    return JudgedClasses(
        listed,
        tuple(tuple(names.index(one) for one in members) for members in coarse.values()),
        _without_ignored(folders.id_table(data.classes, {n: i for i, n in enumerate(listed)})),
        _described(coarse),
    )


def _coarse(names: Sequence[str], wanted: Sequence[str]) -> Members | None:
    """The members of each class of a set with coarser ones; None where it is none of these.

    A name that the model has is that class itself; what is in two sets counts as the one that it
    mainly is (MAINLY). Every class must be known, and no class may belong to two of them: a
    predicted class has to be one of the set's.
    """
    if set(wanted) <= set(names):
        return None
    # Imported here: the module needs torch, and only sets of other classes need it.
    from training.data.street import COARSE, MAINLY

    members = {
        name: (name,) if name in names
        else tuple(one for one in COARSE.get(name, ()) if MAINLY.get(one, name) == name)
        for name in wanted
    }  # fmt: skip
    used = [one for group in members.values() for one in group]
    whole = all(members.values()) and set(used) <= set(names) and len(set(used)) == len(used)
    return members if whole else None


def _described(coarse: Members) -> str:
    parts = [name if group == (name,) else f'{", ".join(group)} -> {name}'
             for name, group in coarse.items()]  # fmt: skip
    return f'coarse: {"; ".join(parts)}'


def _without_ignored(table: NDArray[np.int16]) -> NDArray[np.int16]:
    return np.where(table == folders.IGNORED, np.int16(folders.VOID), table)


def _looks_like_anomalies(samples: Sequence[LabelledImage]) -> bool:
    try:
        for sample in samples[:_LABELS_PROBED]:
            folders.load_anomaly_labels(sample.label)
    except FolderError:
        return False
    return True
