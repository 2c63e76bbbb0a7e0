"""A linear head, and the four anomaly scores that the field reads from logits.

Logits are [B, C, h, w]; scores [B, h, w], higher = more anomalous.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.baselines.network import BaselineNet, Head, Judged
from training.data.folders import VOID


def max_softmax(logits: Tensor) -> Tensor:
    """1 - max_c softmax, in 0..1 - 1/C (Hendrycks & Gimpel 2017)."""
    return 1.0 - logits.softmax(dim=1).amax(dim=1)


def max_logit(logits: Tensor) -> Tensor:
    """-max_c logit (Hendrycks et al. 2022)."""
    return -logits.amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax over log C, in 0..1."""
    logarithm = logits.log_softmax(dim=1)
    total = -(logarithm.exp() * logarithm).sum(dim=1)
    return total / torch.log(torch.tensor(float(logits.shape[1])))


def energy(logits: Tensor) -> Tensor:
    """-log sum_c exp(logit) (Liu et al. 2020)."""
    return -logits.logsumexp(dim=1)


LOGIT_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    'max softmax': max_softmax,
    'max logit': max_logit,
    'entropy': entropy,
    'energy': energy,
}


class LinearHead(Head):
    """A 1x1 convolution to class logits, trained with weighted cross-entropy."""

    def __init__(self, classes: int, channels: int = 48) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, classes, 1)

    def loss(self, fused: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(self.project(fused), labels, weight, ignore_index=VOID)

    def judge(self, fused: Tensor) -> Judged:
        logits = self.project(fused)
        return Judged(logits, {name: score(logits) for name, score in LOGIT_SCORES.items()})


class LinearNet(BaselineNet):
    """The codebook's encoder with a linear head; its class scores are the logits."""

    def __init__(
        self, classes: int, channels: int = 96, fine: int = 48, pretrained: bool = True
    ) -> None:
        super().__init__(LinearHead(classes, fine), channels, fine, pretrained)
