"""Discriminative baselines on the backbone, data and schedule of the codebook method.

A linear head on the same fused features, with the four scores that the field reads from logits,
and the density of backbone features. Logits are [B, C, h, w]; scores [B, h, w], higher = more
anomalous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbones import EfficientNetLite0, normalise
from training.data.folders import VOID
from training.methods.codebook import losses
from training.methods.codebook.model import Fusion
from training.methods.codebook.task import Config, StreetData, one_cycle


def max_softmax(logits: Tensor) -> Tensor:
    """1 - max_c softmax (Hendrycks & Gimpel 2017)."""
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


class LinearNet(nn.Module):
    """The codebook's encoder up to the fused map, then a 1x1 convolution to class logits."""

    def __init__(self, classes: int, channels: int = 96, pretrained: bool = True) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0(pretrained)
        self.fusion = Fusion(self.backbone.channels, channels)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, H, W, 3] -> logits [B, C, H/4, W/4]."""
        return self.head(self.fusion(self.backbone(normalise(pictures, self.backbone)))).float()


class LinearTask(lightning.LightningModule):
    """Cross-entropy with the class weights and the schedule of the codebook method."""

    def __init__(self, config: Config, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        self.net = LinearNet(len(config.classes), config.channels, pretrained)
        self.class_weight: Tensor
        self.register_buffer('class_weight', torch.ones(len(config.classes)))

    def on_fit_start(self) -> None:
        """Weights of the classes come from the training pictures."""
        data: StreetData = self.trainer.datamodule  # type: ignore[attr-defined]
        self.class_weight.copy_(losses.class_weights(data.class_pixels()))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """One batch of crops and coarse labels -> the loss."""
        pictures, labels = batch
        target = torch.where(labels < len(self.config.classes), labels, VOID)
        logits = self.net(pictures)
        if not (target != VOID).any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits, target, self.class_weight, ignore_index=VOID)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with one cycle; the pretrained backbone at a share of the rate."""
        rate = self.config.learning_rate
        groups: list[dict[str, Any]] = [
            {'params': self.net.backbone.parameters(), 'lr': rate * self.config.backbone_rate},
            {'params': [*self.net.fusion.parameters(), *self.net.head.parameters()]},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=self.config.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: one_cycle(step / steps, self.config.warm_up)
        )
        return {
            'optimizer': optimiser,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }


class FeatureDensity:
    """Distance to what the untrained backbone saw on normal pictures, at stride 16.

    'centres': to the nearest of k k-means centres; 'neighbours': to the nearest of n features drawn
    at random (Sehwag et al. 2021 and others; no training at all). Features are unit vectors.
    """

    def __init__(self, features: np.ndarray, centres: int = 200, neighbours: int = 5000) -> None:
        """Fit to float32 [P, D] features of normal pictures; the draw is fixed."""
        unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
        means = MiniBatchKMeans(min(centres, len(unit)), random_state=0, n_init=1).fit(unit)
        drawn = np.random.default_rng(0).permutation(len(unit))[:neighbours]
        self.references = {
            'centres': torch.from_numpy(means.cluster_centers_.astype(np.float32)),
            'neighbours': torch.from_numpy(unit[drawn].astype(np.float32)),
        }

    def score(self, features: Tensor, which: str) -> Tensor:
        """Features [B, D, h, w] -> distance [B, h, w] to the nearest reference."""
        batch, _, height, width = features.shape
        flat = F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
        nearest = torch.cdist(flat, self.references[which]).amin(dim=1)
        return nearest.reshape(batch, height, width)
