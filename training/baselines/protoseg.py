"""A head of class prototypes without a classifier, after ProtoSeg.

Zhou et al., *Rethinking Semantic Segmentation: A Prototype View*, CVPR 2022. Notation as in
network.py; `assigned` holds indices c * M + m of prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.baselines.network import Head, Judged, as_maps, by_position, ramped
from training.data.folders import VOID
from training.methods.codebook.model import UnitFeatures
from training.methods.codebook.quantisation import balanced_codes


def prototype_contrast(similarity: Tensor, assigned: Tensor) -> Tensor:
    """PPC: cross-entropy over all prototypes, no temperature.

    similarity: cosines [P, C, M]; assigned: int64 [P] -> the mean over positions.
    """
    return F.cross_entropy(similarity.flatten(1), assigned)


def prototype_distance(similarity: Tensor, assigned: Tensor) -> Tensor:
    """PPD: mean of (1 - cosine to the assigned prototype)^2, in 0..4."""
    own = similarity.flatten(1).gather(1, assigned.unsqueeze(1))
    return (1.0 - own).square().mean()


def moved_prototypes(
    prototypes: Tensor, features: Tensor, assigned: Tensor, momentum: float
) -> Tensor:
    """p <- unit(g p + (1 - g) unit(mean of the features assigned to p)), [C, M, D].

    prototypes: unit, [C, M, D]; features: unit, [P, D]; assigned: [P]. Those without a feature
    stay where they are.
    """
    flat = prototypes.flatten(0, 1)
    sums = torch.zeros_like(flat).index_add_(0, assigned, features)
    used = assigned.bincount(minlength=len(flat)) > 0
    moved = F.normalize(momentum * flat + (1 - momentum) * F.normalize(sums, dim=1), dim=1)
    return torch.where(used.unsqueeze(1), moved, flat).view_as(prototypes)


class ProtoHead(Head):
    """Unit features, M prototypes a class, class score = the largest cosine to one of them.

    Class scores go through LayerNorm, as in the authors' code: a softmax of bare cosines could not
    get certain. Loss = cross-entropy + contrast_weight PPC + distance_weight PPD. Prototypes follow
    correctly classified positions, shared out evenly by Sinkhorn, without a gradient.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 48,
        dimension: int = 64,
        prototypes: int = 10,
        momentum: float = 0.999,
        contrast_weight: float = 0.01,
        distance_weight: float = 0.001,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.contrast_weight, self.distance_weight = contrast_weight, distance_weight
        self.steps = 0
        self.features = UnitFeatures(channels, dimension)
        self.norm = nn.LayerNorm(classes)
        self.prototypes: Tensor
        shape = (classes, prototypes, dimension)
        self.register_buffer('prototypes', F.normalize(torch.randn(shape), dim=-1))

    def similarity(self, features: Tensor) -> Tensor:
        """Unit features [P, D] -> cosine to every prototype [P, C, M]."""
        flat = self.prototypes.flatten(0, 1)
        return (features @ flat.T).unflatten(1, self.prototypes.shape[:2])

    def loss(self, fused: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        known = labels.flatten() != VOID
        own = labels.flatten()[known]
        features = by_position(self.features(fused))[known]
        similarity = self.similarity(features)
        logits = self.norm(similarity.amax(dim=2))
        assigned = balanced_codes(similarity.detach(), own, epsilon=0.05, iterations=3)
        if self.training:
            right = logits.argmax(dim=1) == own
            momentum = ramped(self.momentum, self.steps)
            self.steps += 1
            # A new tensor: the old one is still needed by the backward pass.
            self.prototypes = moved_prototypes(
                self.prototypes, features.detach()[right], assigned[right], momentum
            )
        return (
            F.cross_entropy(logits, own, weight)
            + self.contrast_weight * prototype_contrast(similarity, assigned)
            + self.distance_weight * prototype_distance(similarity, assigned)
        )

    def judge(self, fused: Tensor) -> Judged:
        """Anomaly score: minus the largest cosine to a prototype, in -1..1."""
        features = self.features(fused)
        classes = self.similarity(by_position(features)).amax(dim=2)
        anomaly = -as_maps(classes, features).amax(dim=1)
        return Judged(as_maps(self.norm(classes), features), {'cosine': anomaly})
