"""What is exported: patch losses against a bank of the training set, as a map and as a picture's.

The bank makes a score deterministic: it depends neither on chance nor on what else is in the batch.
It is condensed by k-means, each centre standing for as many patches as are nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.cpc.losses import condensed_bank_loss
from training.methods.cpc.model import CpcNet, patch_scores
from training.methods.cpc.task import normalised
from training.smoothing import gaussian, smoothed

Aggregation = Literal['mean', 'max', 'top']
MAP_STRIDE = 8  # of the exported map
_SIGMA = 4.0  # pixels of the picture, of the Gaussian over the map
_TOP_SHARE = 0.05


def grids_of(net: CpcNet, pictures: Iterable[NDArray[np.uint8]]) -> list[Tensor]:
    """z of the patch grid of each picture, uint8 RGB [h, w, 3]: float32 [1, D, rows, columns]."""
    with torch.inference_mode():
        return [
            net.encode(normalised(torch.from_numpy(picture)[None])).float() for picture in pictures
        ]


def patches_of(grids: Iterable[Tensor]) -> Tensor:
    """z of every patch of some grids, [1, D, rows, columns] each: [patches, D]."""
    return torch.cat([grid[0].flatten(1).T for grid in grids])


def condensed(bank: Tensor, centres: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """K-means of a bank [B, D]: centres [K, D] and the log of how many patches each stands for.

    With as many centres as patches the bank itself.
    """
    if centres >= len(bank):
        return bank, torch.zeros(len(bank))
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(centres, random_state=seed, n_init=3, batch_size=4096).fit(bank.numpy())
    counts = np.bincount(means.labels_, minlength=centres)
    used = counts > 0
    found = torch.from_numpy(means.cluster_centers_[used].astype(np.float32))
    return found, torch.from_numpy(np.log(counts[used]).astype(np.float32))


class CpcScorer(nn.Module):
    """uint8 RGB [N, H, W, 3] -> score [N, H / 8, W / 8], the loss of what lies there."""

    def __init__(
        self, net: CpcNet, centres: Tensor, log_counts: Tensor, negatives: int, most: float
    ) -> None:
        """most: upper end of the score's range; scores beyond are cut off there."""
        super().__init__()
        self.net, self.negatives, self.most = net, negatives, most
        self.centres: Tensor
        self.log_counts: Tensor
        self.register_buffer('centres', centres)
        self.register_buffer('log_counts', log_counts)
        self.kernel: Tensor
        self.register_buffer('kernel', gaussian(_SIGMA / MAP_STRIDE), persistent=False)

    def patch_losses(self, pictures: Tensor) -> Tensor:
        """Mean loss of every patch over directions and distances: [N, rows, columns]."""
        return self.grid_losses(self.net.encode(normalised(pictures)))

    def grid_losses(self, z: Tensor) -> Tensor:
        """As `patch_losses`, of patches that are encoded already: z, [N, D, rows, columns]."""
        losses = []
        for number, step, said, target in self.net.predictions(z):
            positive = (said * target).sum(dim=1)
            bank = F.conv2d(said, self.centres[:, :, None, None]).movedim(1, -1)
            loss = condensed_bank_loss(positive, bank, self.log_counts, self.negatives)
            losses.append((self.net.directions[number], self.net.distances[step], loss))
        return patch_scores(losses, (z.shape[2], z.shape[3]))

    def forward(self, pictures: Tensor) -> Tensor:
        """The score map."""
        patches = self.patch_losses(pictures).clamp(0.0, self.most).unsqueeze(1)
        cells = spread(patches, self.net.patch // self.net.stride)
        scale = self.net.stride // MAP_STRIDE
        large = F.interpolate(cells, scale_factor=float(scale), mode='bilinear')
        return smoothed(large, self.kernel).squeeze(1)


def spread(patches: Tensor, overlap: int) -> Tensor:
    """Mean over the patches that cover a cell: [N, 1, R, C] -> [N, 1, R + o - 1, C + o - 1].

    overlap: o, how many strides a patch is long.
    """
    return F.avg_pool2d(
        F.pad(patches, (overlap - 1,) * 4), overlap, stride=1, divisor_override=1
    ) / F.avg_pool2d(
        F.pad(torch.ones_like(patches), (overlap - 1,) * 4), overlap, stride=1, divisor_override=1
    )


def picture_score(patches: Tensor, how: Aggregation) -> Tensor:
    """Score of a picture from its patches' losses, [N, rows, columns] -> [N].

    'mean', 'max', or 'top': the mean of the highest twentieth (one at least).
    """
    flat = patches.flatten(1)
    if how == 'mean':
        return flat.mean(dim=1)
    if how == 'max':
        return flat.amax(dim=1)
    count = max(1, round(_TOP_SHARE * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(dim=1)
