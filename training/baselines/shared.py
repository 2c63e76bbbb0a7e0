"""A codebook that the classes share: what class-specific codevectors are up against.

An ordinary VQ-VAE's codebook (van den Oord et al. 2017) learns where features lie without asking
of which class they are; a linear layer reads the class off the codevector. Notation as in
network.py, with K codevectors in all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.baselines.network import Head, Judged, as_maps, by_position
from training.data.folders import VOID
from training.methods.codebook.model import UnitFeatures
from training.methods.codebook.quantisation import MovingCodebook, commitment, straight_through
from training.methods.codebook.scores import weighted_top_k


class SharedCodebookHead(Head):
    """Unit features, K codevectors by moving averages of all labelled positions, a linear layer.

    Loss = cross-entropy of the classes read off the codevector, straight through to the feature,
    + commit_weight x commitment. A codevector that too few positions take moves onto a random one.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 48,
        dimension: int = 64,
        codevectors: int = 110,
        top_k: int = 3,
        temperature: float = 0.07,
        commit_weight: float = 0.25,
    ) -> None:
        """codevectors: K, as many as the classes of the method have together."""
        super().__init__()
        self.top_k, self.temperature, self.commit_weight = top_k, temperature, commit_weight
        self.features = UnitFeatures(channels, dimension)
        self.moving = MovingCodebook(torch.randn(1, codevectors, dimension))
        self.classify = nn.Linear(dimension, classes)

    def loss(self, fused: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        known = labels.flatten() != VOID
        own = labels.flatten()[known]
        features = by_position(self.features(fused))[known]
        codebook = self.moving.codebook()
        assigned = (features.detach() @ codebook.T).argmax(dim=1)
        quantised = straight_through(features, codebook[None], assigned)
        loss = F.cross_entropy(self.classify(quantised), own, weight)
        loss = loss + self.commit_weight * commitment(features, codebook[None], assigned)
        if self.training:
            self.moving.update(features, assigned)
            # All are of one class to it, which has all codevectors.
            self.moving.restart(features, torch.zeros_like(own), len(codebook))
        return loss

    def judge(self, fused: Tensor) -> Judged:
        """Classes of the nearest codevector; anomaly: minus the cosine to it, and T1 over all K."""
        features = self.features(fused)
        codebook = self.moving.codebook()
        similarity = by_position(features) @ codebook.T
        nearest = similarity.max(dim=1)
        weighted = weighted_top_k(similarity, self.top_k, self.temperature, dim=1)
        anomaly = {
            'nearest': -as_maps(nearest.values[:, None], features)[:, 0],
            f'top {self.top_k}': -as_maps(weighted[:, None], features)[:, 0],
        }
        return Judged(as_maps(self.classify(codebook[nearest.indices]), features), anomaly)
