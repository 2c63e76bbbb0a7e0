"""Density of backbone features: how far a position is from everything that training pictures hold.

No training at all: the backbone keeps its ImageNet weights, and only references are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional as F

from training.backbone_features import backbone_features
from training.backbones import EfficientNetLite0, normalise
from training.data.street import Example, StoredExample

STRIDE = 16
_LEVEL = EfficientNetLite0.strides.index(STRIDE)


class FeatureDensity:
    """Distance to what the untrained backbone saw on normal pictures, at stride 16.

    'centres': to the nearest of k k-means centres; 'neighbours': to the nearest of n features drawn
    at random (Sehwag et al. 2021 and others; no training at all). Features are unit vectors.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        centres: int = 200,
        neighbours: int = 5000,
        seed: int = 0,
    ) -> None:
        """Fit to float32 [P, D] features of normal pictures; `seed` fixes centres and draw.

        Raises ValueError where there are no features.
        """
        if not len(features):
            raise ValueError('no position of the training pictures is labelled: nothing to fit to')
        unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
        means = MiniBatchKMeans(min(centres, len(unit)), random_state=seed, n_init=1).fit(unit)
        drawn = np.random.default_rng(seed).permutation(len(unit))[:neighbours]
        self.references = {
            'centres': torch.from_numpy(means.cluster_centers_.astype(np.float32)),
            'neighbours': torch.from_numpy(unit[drawn].astype(np.float32)),
        }

    def score(self, features: Tensor, which: str) -> Tensor:
        """Features [B, D, h, w] -> distance [B, h, w] to the nearest reference, in 0..2."""
        batch, _, height, width = features.shape
        flat = F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
        nearest = torch.cdist(flat, self.references[which]).amin(dim=1)
        return nearest.reshape(batch, height, width)


def coarse_features(backbone: EfficientNetLite0, pictures: Tensor) -> Tensor:
    """uint8 RGB [B, H, W, 3] -> the backbone's map at stride 16, float32 [B, 112, H/16, W/16]."""
    return backbone(normalise(pictures, backbone))[_LEVEL]


def training_features(
    backbone: EfficientNetLite0,
    examples: Sequence[Example | StoredExample],
    size: Sequence[int],
) -> NDArray[np.float32]:
    """Features of all labelled positions of pictures stretched to `size` (h, w): [P, 112].

    About 0.2 MB for each 256 x 512.
    """
    shown = track(examples, description='measuring features')
    return backbone_features(backbone, shown, size, _LEVEL)
