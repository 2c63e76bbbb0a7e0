"""The score of a trained network, as it stands in a model file; and that of a whole frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.ccl.model import CclNet
from training.smoothing import gaussian, smoothed

MAP_STRIDE = 4  # of the exported map
_SIGMA = 4.0  # pixels of the picture, of the Gaussian over the map
SCORE_RANGE = (0.0, 2.0)  # of 1 - cosine


def smoothing_kernel() -> Tensor:
    """The Gaussian over a score map, [1, 1, k, k]."""
    return gaussian(_SIGMA / MAP_STRIDE)


class CclScorer(nn.Module):
    """uint8 RGB [N, H, W, 3] -> score [N, H / 4, W / 4]: 1 - cosine, mean over scales, smoothed."""

    def __init__(self, net: CclNet) -> None:
        super().__init__()
        self.net = net
        self.kernel: Tensor
        self.register_buffer('kernel', smoothing_kernel(), persistent=False)

    def of_maps(self, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Score map of `size` and global feature [N, W], of the teacher's maps."""
        distances, pooled = self.net.distances(maps)
        large = [F.interpolate(one.unsqueeze(1), size=size, mode='bilinear') for one in distances]
        mean = torch.stack(large).mean(dim=0)
        return smoothed(mean, self.kernel).squeeze(1).clamp(*SCORE_RANGE), pooled

    def forward(self, pictures: Tensor) -> Tensor:
        """The score map."""
        size = (pictures.shape[1] // MAP_STRIDE, pictures.shape[2] // MAP_STRIDE)
        return self.of_maps(self.net.teach(pictures), size)[0]


def class_centres(features: Tensor, labels: Tensor) -> Tensor:
    """Mean direction of the global features [N, D] of each class: unit vectors [C, D]."""
    z = F.normalize(features, dim=1)
    return F.normalize(torch.stack([z[labels == c].mean(dim=0) for c in labels.unique()]), dim=1)


def unlikeness(features: Tensor, centres: Tensor) -> Tensor:
    """How unlike every class frames are, [N, D] -> [N]: 1 - the highest cosine to a centre."""
    return 1.0 - (F.normalize(features, dim=1) @ centres.T).amax(dim=1)
