"""What the trained baselines share: the codebook's encoder, a head on it, and their contract.

Notation: B pictures, D dimensions, C classes, M components or prototypes a class, h x w positions
at stride 4, P positions of a batch in one row.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from training.backbones import EfficientNetLite0, normalise
from training.methods.codebook.model import Fusion


class Judged(NamedTuple):
    """What a head says of every position."""

    class_scores: Tensor  # [B, C, h, w], higher = more likely
    anomaly: dict[str, Tensor]  # [B, h, w] by the name of the score, higher = more anomalous


class Head(nn.Module):
    """What a baseline makes of the fused map, float32 [B, channels, h, w]."""

    def loss(self, fused: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        labels: int64 [B, h, w], class ids or VOID, at least one of them known; weight: of the
        cross-entropy, [C]. What a head learns without a gradient it learns here, in training mode.
        """
        raise NotImplementedError

    def judge(self, fused: Tensor) -> Judged:
        """Class scores and anomaly scores."""
        raise NotImplementedError


class BaselineNet(nn.Module):
    """The codebook's encoder up to the fused map at stride 4, then a head of `fine` inputs."""

    def __init__(
        self, head: Head, channels: int = 96, fine: int = 48, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0(pretrained)
        self.fusion = Fusion(self.backbone.channels, channels, fine)
        self.head = head

    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, H, W, 3] -> float32 [B, fine, H/4, W/4]."""
        return self.fusion(self.backbone(normalise(pictures, self.backbone))).float()

    def judge(self, pictures: Tensor) -> Judged:
        """uint8 RGB [B, H, W, 3] -> class scores and anomaly scores at stride 4."""
        return self.head.judge(self.encode(pictures))

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, H, W, 3] -> class scores [B, C, H/4, W/4]."""
        return self.judge(pictures).class_scores


def by_position(maps: Tensor) -> Tensor:
    """[B, D, h, w] -> [P, D] with P = B * h * w."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def as_maps(positions: Tensor, like: Tensor) -> Tensor:
    """[P, K] -> [B, K, h, w], with B, h and w of `like` [B, D, h, w]."""
    batch, _, height, width = like.shape
    return positions.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)


def ramped(momentum: float, step: int) -> float:
    """Momentum of the update number `step` (from 0): min(momentum, (1 + step) / (10 + step)).

    0.999 is made for trainings of 80,000 steps and more; a short one would keep most of its random
    start to the end. So the average begins short and reaches its length after about
    9 / (1 - momentum) updates (ours; a habit of moving averages of weights).
    """
    return min(momentum, (1 + step) / (10 + step))
