"""What a class is: a data set, a camera topic, a cluster of the teacher's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Numbers = NDArray[np.int64]
KINDS = ('dataset', 'topic', 'pseudo', 'random', 'single')


class LabelError(ValueError):
    """Labels that cannot be made of what is there."""


def pooled_features(maps: Sequence[Tensor]) -> Tensor:
    """The teacher's maps [N, C, h, w] as one vector a picture: means, unit length a scale."""
    return torch.cat([F.normalize(one.float().mean(dim=(2, 3)), dim=1) for one in maps], dim=1)


def numbered(names: Sequence[str]) -> tuple[Numbers, tuple[str, ...]]:
    """Names -> numbers in order of appearance, int64 [N], and the name of each number."""
    found = tuple(dict.fromkeys(names))
    return np.array([found.index(name) for name in names], np.int64), found


def pseudo_classes(features: Tensor, classes: int, seed: int) -> Numbers:
    """K-means of pooled features [N, D] into `classes` clusters: int64 [N].

    LabelError where there are fewer pictures than classes.
    """
    if len(features) < classes:
        raise LabelError(
            f'{len(features)} pictures cannot be clustered into {classes} pseudo-classes; set '
            'pseudo_classes lower'
        )
    from sklearn.cluster import KMeans

    means = KMeans(classes, random_state=seed, n_init=10).fit(features.numpy())
    return np.asarray(means.labels_, np.int64)


def class_numbers(
    kind: str, origins: Sequence[tuple[str, str]], features: Tensor, classes: int, seed: int
) -> tuple[Numbers, tuple[str, ...]]:
    """The class of every picture, int64 [N], and the names of the classes.

    origins: (data set, camera topic or '') of each; features: `pooled_features`, for 'pseudo'.
    LabelError for an unknown kind.
    """
    if kind == 'dataset':
        return numbered([dataset for dataset, _ in origins])
    if kind == 'topic':
        return numbered([topic or dataset for dataset, topic in origins])
    if kind == 'single':
        return numbered(['all'] * len(origins))
    if kind == 'pseudo':
        numbers = pseudo_classes(features, classes, seed)
    elif kind == 'random':
        numbers = np.random.default_rng(seed).integers(0, classes, len(origins))
    else:
        raise LabelError(f'labels cannot be {kind!r}; choose from {", ".join(KINDS)}')
    return numbers, tuple(f'{kind} {number}' for number in range(classes))
