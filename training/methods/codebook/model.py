"""The network: backbone, top-down fusion to stride 4, unit features, class-specific codebook."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbones import EfficientNetLite0, FullPrecision, normalise
from training.methods.codebook.scores import (
    anomaly_score,
    cosines,
    nearest_codes,
    weighted_top_k,
)


class Likelihood(NamedTuple):
    """What the codebook says of every position of the stride-4 map."""

    similarity: Tensor  # [B, C, M, h, w] cosines
    class_scores: Tensor  # [B, C, h, w] weighted top-K cosines


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class SeparableConv(nn.Sequential):
    """Depthwise k x k, then pointwise convolution, each with batch norm; ReLU6 behind."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        super().__init__(
            FullPrecision(depthwise) if kernel > 3 else depthwise,
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
        )


class Fusion(nn.Module):
    """Feature pyramid, coarse to fine (Lin et al. 2017): context from stride 32, detail from 4."""

    def __init__(self, inputs: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([_conv(count, channels) for count in inputs])
        self.context = SeparableConv(channels, kernel=7)
        self.smooth = nn.ModuleList([SeparableConv(channels) for _ in inputs[:-1]])

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> [B, channels, h, w] at stride 4."""
        x = self.lateral[-1](maps[-1])
        x = x + self.context(x)
        for level in reversed(range(len(maps) - 1)):
            x = F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)
            x = self.smooth[level](F.relu6(x + self.lateral[level](maps[level])))
        return x


class UnitFeatures(nn.Module):
    """1x1 convolution to D dimensions, LayerNorm over them, then the unit sphere."""

    def __init__(self, inputs: int, dimension: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, dimension, 1)
        self.scale = nn.Parameter(torch.ones(dimension, 1, 1))
        self.shift = nn.Parameter(torch.zeros(dimension, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, D, h, w] with norm 1 along D; in float32 at any autocast."""
        x = self.project(x).float()
        centred = x - x.mean(dim=1, keepdim=True)
        variance = (centred * centred).mean(dim=1, keepdim=True)
        x = centred * torch.rsqrt(variance + 1e-5) * self.scale + self.shift
        return x * torch.rsqrt((x * x).sum(dim=1, keepdim=True) + 1e-12)


class CodebookNet(nn.Module):
    """VQ-VAE encoder and class-specific codebook; no classifier layer anywhere."""

    def __init__(
        self,
        classes: int,
        codevectors: int = 10,
        dimension: int = 64,
        channels: int = 96,
        top_k: int = 3,
        temperature: float = 0.07,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0(pretrained)
        self.fusion = Fusion(self.backbone.channels, channels)
        self.features = UnitFeatures(channels, dimension)
        self.codevectors = nn.Parameter(torch.randn(classes, codevectors, dimension))
        self.top_k = top_k
        self.temperature = temperature

    @property
    def codebook(self) -> Tensor:
        """The codevectors on the unit sphere, [C, M, D]."""
        return F.normalize(self.codevectors, dim=-1)

    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, H, W, 3] -> unit features [B, D, H/4, W/4]."""
        maps = self.backbone(normalise(pictures, self.backbone))
        return self.features(self.fusion(maps))

    def likelihood(self, features: Tensor) -> Likelihood:
        """Unit features [B, D, h, w] -> similarity to every codevector and score of every class."""
        similarity = cosines(features, self.codebook)
        return Likelihood(similarity, weighted_top_k(similarity, self.top_k, self.temperature))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The outputs of the model file for uint8 RGB [N, H, W, 3], in the order of `OUTPUTS`."""
        result = self.likelihood(self.encode(pictures))
        labels = result.class_scores.argmax(dim=1).to(torch.uint8)
        codes = nearest_codes(result.similarity).to(torch.int32)
        return anomaly_score(result.class_scores), labels, result.class_scores, codes


OUTPUTS = ('score', 'labels', 'class_scores', 'codes')
