"""What is exported: patch losses against a bank of the training set, as a map and as a picture's.

The bank makes a score deterministic: it depends neither on chance nor on what else is in the batch.
It is condensed by k-means, each centre standing for as many patches as are nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.cpc.losses import borrowed_loss, condensed_bank_loss, excess_bank_loss
from training.methods.cpc.model import CpcNet, patch_scores
from training.methods.cpc.task import Config, Image, normalised
from training.smoothing import gaussian, smoothed

Aggregation = Literal['mean', 'max', 'top']
MAP_STRIDE = 8  # of the exported map
_SIGMA = 4.0  # pixels of the picture, of the Gaussian over the map
_TOP_SHARE = 0.05
_SHRINKAGE, _LEAST_SPREAD = 0.02, 1e-6  # of a covariance, towards its diagonal


def of_the_bank(pictures: Sequence[Image], config: Config) -> Sequence[Image]:
    """The pictures whose patches are the bank: about `bank_pictures` of them, evenly chosen."""
    every = max(1, round(len(pictures) / config.bank_pictures)) if config.bank_pictures else 1
    return pictures[::every]


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


class FrameTerm(nn.Module):
    """How untypical the losses of a whole picture are, given contexts of the bank; ours.

    A fault of the whole picture is shared by context and target, which then predict one another as
    well as ever, or better. So each patch is predicted by normal contexts (`borrowed_loss`), one
    mean over the picture for every direction and distance, and these means are compared, high or
    low, with those of normal pictures: the root of their mean squared deviation, decorrelated.
    """

    def __init__(self, net: CpcNet, centres: Tensor, log_counts: Tensor) -> None:
        super().__init__()
        with torch.inference_mode():
            said = torch.einsum('kde,be->kbd', net.predict.flatten(0, 1), centres)
            total = torch.logsumexp(log_counts, dim=0)
            normalisers = torch.logsumexp(said @ centres.T + log_counts, dim=-1) - total
        self.said: Tensor
        self.normalisers: Tensor
        self.log_counts: Tensor
        self.mean: Tensor
        self.whitening: Tensor
        heads = len(said)
        for name, value in (
            ('said', said),
            ('normalisers', normalisers),
            ('log_counts', log_counts.clone()),
            ('mean', torch.zeros(heads)),
            ('whitening', torch.eye(heads)),
        ):
            self.register_buffer(name, value.clone())

    def profile(self, z: Tensor) -> Tensor:
        """Mean borrowed loss of a grid by direction and distance: z, [N, D, r, c] -> [N, heads]."""
        means = []
        for said, normalisers in zip(self.said, self.normalisers, strict=True):
            products = F.conv2d(z, said[:, :, None, None]).movedim(1, -1)
            means.append(borrowed_loss(products, normalisers, self.log_counts).mean(dim=(1, 2)))
        return torch.stack(means, dim=1)

    def learn(self, profiles: Tensor) -> None:
        """Take the profiles [n, heads] of normal pictures as what is typical; n of 2 or more."""
        values = profiles.double()
        covariance = torch.cov(values.T).reshape(values.shape[1], -1)
        spread_ = torch.diag(covariance)
        covariance = covariance + torch.diag(_SHRINKAGE * spread_ + _LEAST_SPREAD * spread_.mean())
        values_, vectors = torch.linalg.eigh(covariance)
        self.mean = values.mean(dim=0).float()
        self.whitening = (vectors / values_.clamp(min=1e-12).sqrt()).float()

    def forward(self, z: Tensor) -> Tensor:
        """[N, D, rows, columns] -> [N], about 1 for normal pictures."""
        white = (self.profile(z) - self.mean) @ self.whitening
        return white.square().mean(dim=1).sqrt()


class CpcScorer(nn.Module):
    """uint8 RGB [N, H, W, 3] -> score [N, H / 8, W / 8], the loss of what lies there.

    excess: the loss beyond its expectation (`excess_bank_loss`), where plain background is common;
    frame: what is added to the map of a whole picture that is untypical, for drives.
    """

    def __init__(
        self,
        net: CpcNet,
        centres: Tensor,
        log_counts: Tensor,
        negatives: int,
        most: float,
        least: float = 0.0,
        excess: bool = False,
        frame: FrameTerm | None = None,
    ) -> None:
        """least, most: ends of the score's range; scores beyond are cut off there."""
        super().__init__()
        self.net, self.negatives, self.least, self.most = net, negatives, least, most
        self.loss = excess_bank_loss if excess else condensed_bank_loss
        self.frame = frame
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
            loss = self.loss(positive, bank, self.log_counts, self.negatives)
            losses.append((self.net.directions[number], self.net.distances[step], loss))
        return patch_scores(losses, (z.shape[2], z.shape[3]))

    def grid_scores(self, z: Tensor) -> Tensor:
        """Scores of every patch, with the term of the whole picture: [N, rows, columns]."""
        patches = self.grid_losses(z)
        if self.frame is not None:
            patches = patches + self.frame(z)[:, None, None]
        return patches.clamp(self.least, self.most)

    def forward(self, pictures: Tensor) -> Tensor:
        """The score map."""
        return self.map_of(self.grid_scores(self.net.encode(normalised(pictures))))

    def map_of(self, patches: Tensor) -> Tensor:
        """Scores of patches [N, rows, columns] as a map [N, H / 8, W / 8]."""
        cells = spread(patches.unsqueeze(1), self.net.patch // self.net.stride)
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
