"""The coarse codebook: what the deepest map of a backbone that was never fine-tuned has seen.

Training on labels keeps of a picture what tells the classes apart and forgets the rest, and what
nobody labelled is in the rest. A backbone that keeps its ImageNet weights still has it. Its deepest
map gets codevectors of its own, without classes: centres of k-means (feature density as a score:
Sehwag et al. 2021; codebooks at two scales: VQ-VAE-2, Razavi et al. 2019), by cosine on the sphere
(Dhillon & Modha 2001) or in the space in which normal features have no preferred direction
(whitening; Mahalanobis' distance: Lee et al. 2018). Nothing is learnt by a gradient and no outlier
data is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbone_features import backbone_features
from training.backbones import EfficientNetLite
from training.data.street import Example, StoredExample
from training.methods.codebook.scores import coarse_novelty, whitened_novelty

PICTURES = 400  # of the training's, evenly chosen, that a coarse codebook is fitted to
# The distances to the nearest codevector, and in words what the score of each is.
KINDS = {
    'whitened': 'the whitened distance to the nearest coarse codevector',
    'cosine': 'minus the best coarse cosine',
}
_BATCH = 4096  # positions a step of the mini-batch k-means
_SHRINK = 0.1  # of the mean variance, added to each: directions of next to none are mostly noise


class CoarseCodebook(nn.Module):
    """K codevectors without classes, and how far a position of a backbone's map lies from them.

    Buffers, all zero until `fit`: `codes` [K, D, 1, 1]; where the distance is 'whitened', the map
    to the whitened space, `weight` [D, D, 1, 1] and `bias` [D], and `mean` and `scale` [] of the
    distance: what it was fitted to has mean 0, and four of its deviations are 1.
    """

    codes: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, count: int, channels: int, distance: str) -> None:
        """Raises ValueError for a distance that is none of KINDS."""
        super().__init__()
        if distance not in KINDS:
            raise ValueError(f"coarse_distance is {distance!r}: use 'whitened' or 'cosine'")
        self.whitened = distance == 'whitened'
        self.register_buffer('codes', torch.zeros(count, channels, 1, 1))
        if self.whitened:
            self.register_buffer('weight', torch.zeros(channels, channels, 1, 1))
            self.register_buffer('bias', torch.zeros(channels))
            self.register_buffer('mean', torch.zeros(()))
            self.register_buffer('scale', torch.zeros(()))

    def forward(self, deepest: Tensor) -> Tensor:
        """How unlike every codevector: [B, D, h, w] -> [B, h, w] in [-1, 1]."""
        if self.whitened:
            white = F.conv2d(deepest, self.weight, self.bias)
            return whitened_novelty(white, self.codes, self.mean, self.scale)
        return coarse_novelty(deepest, self.codes)

    def fit(self, features: NDArray[np.float32], seed: int) -> None:
        """Fit to float32 features [P, D]; the same features and seed give the same codebook.

        Raises ValueError for fewer features than codevectors.
        """
        count = len(self.codes)
        if not self.whitened:
            self.codes.copy_(centres(features, count, seed)[:, :, None, None])
            return
        weight, bias = whitening(features)
        white = features @ weight.T + bias
        means = _means(white, count, seed)
        parts = torch.from_numpy(white).split(_BATCH)
        distance = torch.cat([torch.cdist(part, means).amin(dim=1) for part in parts])
        self.codes.copy_(means[:, :, None, None])
        self.weight.copy_(torch.from_numpy(weight)[:, :, None, None])
        self.bias.copy_(torch.from_numpy(bias))
        self.mean.copy_(distance.mean())
        self.scale.copy_(0.25 / distance.std().clamp(min=1e-6))


def fit(
    codebook: CoarseCodebook,
    backbone: EfficientNetLite,
    examples: Iterable[Example | StoredExample],
    size: Sequence[int],
    seed: int,
) -> None:
    """Fit the codebook to the labelled positions of pictures stretched to (h, w).

    As its `fit`; the backbone is left in evaluation mode.
    """
    shown = track(examples, 'fitting coarse codevectors')
    features = backbone_features(backbone.eval(), shown, size, len(backbone.strides) - 1)
    codebook.fit(features, seed)


def whitening(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight [D, D] and bias [D] with which W f + b has mean 0 and next to unit covariance.

    W = (L + s I)^(-1/2) V^T for the covariance V L V^T of float32 features [P, D] and a tenth of
    the mean of L as s.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(features.T.astype(np.float64)))
    weight = vectors.T / np.sqrt(values + _SHRINK * values.mean() + 1e-12)[:, None]
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def centres(features: NDArray[np.float32], count: int, seed: int) -> Tensor:
    """K = `count` unit vectors [K, D], the k-means centres of float32 features [P, D] made unit.

    Raises ValueError for fewer features than centres.
    """
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    return F.normalize(_means(unit, count, seed), dim=1)


def _means(features: NDArray[np.float32], count: int, seed: int) -> Tensor:
    if len(features) < count:
        raise ValueError(
            f'coarse: {count} codevectors cannot be fitted to {len(features)} labelled positions '
            'of the deepest map; give more pictures or a smaller number'
        )
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=_BATCH).fit(features)
    return torch.from_numpy(means.cluster_centers_.astype(np.float32))
