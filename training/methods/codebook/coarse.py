"""The coarse codebook: what the deepest map of a backbone that was never fine-tuned has seen.

Training on labels keeps of a picture what tells the classes apart and forgets the rest, and what
nobody labelled is in the rest. A backbone that keeps its ImageNet weights still has it. Its deepest
map gets codevectors of its own, without classes: centres of k-means on the sphere (Dhillon & Modha
2001; feature density as a score: Sehwag et al. 2021; codebooks at two scales: VQ-VAE-2, Razavi et
al. 2019). Nothing is learnt by a gradient and no outlier data is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from training.backbone_features import backbone_features
from training.backbones import EfficientNetLite
from training.data.street import Example, StoredExample

PICTURES = 400  # of the training's, evenly chosen, that a coarse codebook is fitted to
_BATCH = 4096  # positions a step of the mini-batch k-means


def fitted(
    backbone: EfficientNetLite,
    examples: Iterable[Example | StoredExample],
    size: Sequence[int],
    count: int,
    seed: int,
) -> Tensor:
    """Coarse codevectors [K, D, 1, 1] of the labelled positions of pictures stretched to (h, w).

    As `centres`; the backbone is left in evaluation mode.
    """
    shown = track(examples, 'fitting coarse codevectors')
    features = backbone_features(backbone.eval(), shown, size, len(backbone.strides) - 1)
    return centres(features, count, seed)[:, :, None, None]


def centres(features: NDArray[np.float32], count: int, seed: int) -> Tensor:
    """K = `count` unit vectors [K, D], the k-means centres of float32 features [P, D] made unit.

    Raises ValueError for fewer features than centres.
    """
    if len(features) < count:
        raise ValueError(
            f'coarse: {count} codevectors cannot be fitted to {len(features)} labelled positions '
            'of the deepest map; give more pictures or a smaller number'
        )
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=_BATCH).fit(unit)
    found = torch.from_numpy(means.cluster_centers_.astype(np.float32))
    return torch.nn.functional.normalize(found, dim=1)
