"""The network: backbone, top-down fusion to stride 4, unit features, class-specific codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbones import EfficientNetLite0, FullPrecision, normalise
from training.methods.codebook.coarse import CoarseCodebook
from training.methods.codebook.scores import (
    anomaly_score,
    class_evidence,
    cosines,
    nearest_codes,
    smoothed,
    weighted_top_k,
    with_coarse,
)


class Likelihood(NamedTuple):
    """What the codebook says of every position of the stride-4 map."""

    similarity: Tensor  # [B, C, M, h, w] cosines
    class_scores: Tensor  # [B, C, h, w] weighted top-K cosines


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class SeparableConv(nn.Sequential):
    """Depthwise k x k, then pointwise convolution, each with batch norm; ReLU6 behind.

    `last`: whether there is one behind the pointwise convolution, too.
    """

    def __init__(
        self, channels: int, kernel: int = 3, outputs: int | None = None, last: bool = True
    ) -> None:
        depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        super().__init__(
            FullPrecision(depthwise) if kernel > 3 else depthwise,
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            *_conv(channels, outputs or channels),
            *([nn.ReLU6()] if last else []),
        )


class Fusion(nn.Module):
    """Feature pyramid, coarse to fine (Lin et al. 2017): context from the coarsest, detail from 4.

    The finest map is by far the largest, so it has fewer channels and one depthwise convolution:
    with 48 instead of 96 the whole network takes 1.29 instead of 1.40 times its bare backbone
    (1024x512, OpenVINO f32, two threads).
    """

    def __init__(self, inputs: tuple[int, ...], channels: int, fine: int) -> None:
        """inputs: channels of the maps at strides 4, 8, 16, ...; ValueError for fewer than 3."""
        super().__init__()
        if len(inputs) < 3:
            raise ValueError(
                f'the backbone gives {len(inputs)} maps, and the fusion needs those at strides 4, '
                '8 and 16: use blocks = 11 or 16'
            )
        self.lateral = nn.ModuleList(
            [_conv(inputs[0], fine)] + [_conv(count, channels) for count in inputs[1:]]
        )
        self.context = SeparableConv(channels, kernel=7)
        finest = nn.Conv2d(fine, fine, 3, padding=1, groups=fine, bias=False)
        self.smooth = nn.ModuleList(
            [
                nn.Sequential(finest, nn.BatchNorm2d(fine), nn.ReLU6()),
                SeparableConv(channels, outputs=fine, last=False),
                *(SeparableConv(channels) for _ in inputs[2:-1]),
            ]
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Maps at strides 4, 8, 16, ... -> [B, fine, h, w] at stride 4."""
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
        self.centred = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, D, h, w] with norm 1 along D; in float32 at any autocast."""
        x, per_length = self.with_length(x)
        return x * per_length

    def with_length(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but the features [B, D, h, w] before and the factor [B, 1, h, w]."""
        x = self.project(x).float()
        if not self.centred:
            x = x - x.mean(dim=1, keepdim=True)
        variance = (x * x).mean(dim=1, keepdim=True)
        x = x * torch.rsqrt(variance + 1e-5) * self.scale + self.shift
        return x, torch.rsqrt((x * x).sum(dim=1, keepdim=True) + 1e-12)

    @torch.no_grad()
    def centre(self) -> None:
        """Take the mean over D off the projection's weights instead of off what it gives."""
        for values in self.project.parameters():
            values.sub_(values.mean(dim=0, keepdim=True))
        self.centred = True


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
        fine: int = 48,
        blocks: int = 16,
        smooth: int = 1,
        evidence: float = 0.0,
        coarse: int = 0,
        coarse_share: float = 0.0,
        coarse_distance: str = 'whitened',
        left_out: Sequence[int] = (),
    ) -> None:
        """`smooth`: side of the window whose mean the anomaly score is (1: none), at stride 4.

        `evidence`: temperature at which all classes together explain a position; 0: the best one.
        `coarse`: codevectors of the backbone's deepest map, whose novelty is the share
        `coarse_share` of the anomaly score; 0: none. `coarse_distance`: see CoarseCodebook.
        `blocks`, `left_out`: of the backbone, see EfficientNetLite.
        """
        super().__init__()
        self.backbone = EfficientNetLite0(pretrained, blocks, left_out)
        self.fusion = Fusion(self.backbone.channels, channels, fine)
        self.features = UnitFeatures(fine, dimension)
        self.codevectors = nn.Parameter(torch.randn(classes, codevectors, dimension))
        self.top_k = top_k
        self.temperature = temperature
        self.smooth = smooth
        self.evidence = evidence
        self.coarse_share = coarse_share
        self.coarse: CoarseCodebook | None = None
        if coarse:
            self.coarse = CoarseCodebook(coarse, self.backbone.channels[-1], coarse_distance)

    @property
    def codebook(self) -> Tensor:
        """The codevectors on the unit sphere, [C, M, D]."""
        return F.normalize(self.codevectors, dim=-1)

    def maps(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB [B, H, W, 3] -> the backbone's maps at strides 4, 8, 16, ..."""
        found: tuple[Tensor, ...] = self.backbone(normalise(pictures, self.backbone))
        return found

    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, H, W, 3] -> unit features [B, D, H/4, W/4]."""
        features: Tensor = self.features(self.fusion(self.maps(pictures)))
        return features

    def likelihood(self, features: Tensor) -> Likelihood:
        """Unit features [B, D, h, w] -> similarity to every codevector and score of every class."""
        similarity = cosines(features, self.codebook)
        return Likelihood(similarity, weighted_top_k(similarity, self.top_k, self.temperature))

    def anomaly(self, class_scores: Tensor, deepest: Tensor) -> Tensor:
        """The anomaly score that the model file gives, [B, h, w] in [-1, 1].

        class_scores: [B, C, h, w]; deepest: the backbone's last map, [B, D', h', w'].
        """
        if self.evidence:
            anomaly = class_evidence(class_scores, self.evidence)
        else:
            anomaly = anomaly_score(class_scores)
        if self.smooth > 1:
            anomaly = smoothed(anomaly, self.smooth)
        if self.coarse is None:
            return anomaly
        return with_coarse(anomaly, self.coarse(deepest), self.coarse_share)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The outputs of the model file for uint8 RGB [N, H, W, 3], in the order of `OUTPUTS`.

        What `likelihood` says of `encode`, in the order that runtimes do fastest: the factor that
        makes features unit vectors is taken to the K cosines that remain, and the codevectors of
        all classes stand side by side, m * C + c.
        """
        maps = self.maps(pictures)
        features, per_length = self.features.with_length(self.fusion(maps))
        similarity = cosines(features, self.codebook.transpose(0, 1))  # [B, M, C, h, w]
        scores = weighted_top_k(similarity, self.top_k, self.temperature, per_length, dim=1)
        labels = scores.argmax(dim=1).to(torch.uint8)
        nearest = nearest_codes(similarity)
        classes, codes = self.codevectors.shape[:2]
        codes_ = (nearest % classes) * codes + nearest // classes
        return self.anomaly(scores, maps[-1]), labels, scores, codes_.to(torch.int32)


OUTPUTS = ('score', 'labels', 'class_scores', 'codes')
