"""The networks of CCL: projections of a frozen teacher's maps, and two bases that rebuild them.

A base turns projected maps into the maps that the teacher should have given (its `targets`), and
into one global feature of the picture. It is trained on normal pictures alone: where a picture is
unlike them, what it rebuilds differs from what the teacher says.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbones import Backbone, normalise
from training.methods.ccl.losses import cosine_distance

Base = Literal['reverse', 'reconstruct']
Maps = Sequence[Tensor]

# Widths are those of the teacher's maps, but not below this (lite backbones have few channels at
# their fine strides) nor above a setting: wide_resnet50_2 has more than two cores can train.
_NARROWEST = 48
_NARROWEST_PROJECTION = 24
_SLOPE = 0.2  # of the LeakyReLU of the projections


class Projection(nn.Sequential):
    """Four of [3x3 convolution, instance norm, LeakyReLU], c -> c/2 -> c/4 -> c/2 -> c channels.

    Never narrower than 24 channels where c itself is not (ours: with c = 24, c/4 keeps nothing).
    """

    def __init__(self, channels: int) -> None:
        least = min(channels, _NARROWEST_PROJECTION)
        half, quarter = max(channels // 2, least), max(channels // 4, least)
        widths = (channels, half, quarter, half, channels)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.InstanceNorm2d(outputs),
                nn.LeakyReLU(_SLOPE),
            ]
        super().__init__(*layers)


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution and batch norm, side by side so that the export can fold them."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """Residual bottleneck block: 1x1 to half the width, 3x3, 1x1 back (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = outputs // 2
        self.path = nn.Sequential(
            *convolution(inputs, inner, 1),
            nn.ReLU(),
            *convolution(inner, inner, 3, stride),
            nn.ReLU(),
            *convolution(inner, outputs, 1),
        )
        self.skip = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(*convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h / stride, w / stride]."""
        return F.relu(self.path(x) + self.skip(x))


class Up(nn.Sequential):
    """Twice the size: a 1x1 convolution whose outputs are the four positions of each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*convolution(inputs, 4 * outputs, 1), nn.ReLU(), nn.PixelShuffle(2))


class Bottleneck(nn.Module):
    """One-class bottleneck (RD4AD, Deng & Li 2022): all scales at half of the coarsest.

    Finer maps come down by 3x3 convolutions of stride 2; the concatenation goes through three
    blocks, of which the first has stride 2.
    """

    def __init__(self, channels: Sequence[int], width: int, widest: int, blocks: int = 3) -> None:
        super().__init__()
        inner = within(channels[-1], widest)
        self.down = nn.ModuleList()
        for halvings, count in zip(range(len(channels) - 1, -1, -1), channels, strict=True):
            layers: list[nn.Module] = []
            for step in range(halvings):
                layers += [*convolution(inner if step else count, inner, 3, 2), nn.ReLU()]
            self.down.append(nn.Sequential(*layers))
        joined = inner * (len(channels) - 1) + channels[-1]
        self.blocks = nn.Sequential(
            Block(joined, width, 2), *(Block(width, width) for _ in range(blocks - 1))
        )

    def forward(self, maps: Maps) -> Tensor:
        """Maps [B, C, h, w], finest first, each half the size of the last -> [B, W, h', w']."""
        coarse = [down(one) for down, one in zip(self.down, maps, strict=True)]
        return self.blocks(torch.cat(coarse, dim=1))


def within(channels: int, widest: int) -> int:
    """A width for maps of so many channels."""
    return min(max(channels, _NARROWEST), widest)


class ReverseDistillation(nn.Module):
    """RD4AD (Deng & Li 2022): a bottleneck and a student that mirrors the teacher.

    From the bottleneck upwards, each stage twice the size of the one before, each with a head that
    says the teacher's map of its stride.
    """

    def __init__(self, channels: Sequence[int], width: int, blocks: int, widest: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, width, widest)
        self.stages = nn.ModuleList()
        self.heads = nn.ModuleList()
        inputs = width
        for count in reversed(channels):
            inner = within(count, widest)
            self.stages.append(
                nn.Sequential(Up(inputs, inner), *(Block(inner, inner) for _ in range(blocks)))
            )
            self.heads.append(nn.Conv2d(inner, count, 1))
            inputs = inner

    def targets(self, maps: Maps) -> list[Tensor]:
        """The teacher's maps as they are."""
        return list(maps)

    def encode(self, maps: Maps) -> Tensor:
        """Projected maps, finest first -> the bottleneck [B, W, h, w] at half the coarsest size."""
        return self.bottleneck(maps)

    def decode(self, x: Tensor) -> list[Tensor]:
        """The bottleneck -> the maps said of the teacher, finest first."""
        said = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            said.append(head(x))
        return said[::-1]


class FeatureReconstruction(nn.Module):
    """Feature reconstruction in the manner of UniAD (You et al. 2022), without its transformer.

    As there, all scales become one map (here at the middle stride), which is rebuilt after noise;
    here by convolutions through a map of a quarter of its size instead of by attention.
    """

    def __init__(self, channels: Sequence[int], width: int, blocks: int, widest: int) -> None:
        super().__init__()
        self.level = len(channels) // 2
        total = sum(channels)
        inner = within(total, widest)
        self.encoder = nn.Sequential(
            *convolution(total, inner, 1), nn.ReLU(), Block(inner, inner, 2), Block(inner, width, 2)
        )
        self.decoder = nn.Sequential(
            Up(width, inner), *(Block(inner, inner) for _ in range(blocks)), Up(inner, inner),
            *(Block(inner, inner) for _ in range(blocks)), nn.Conv2d(inner, total, 1),
        )  # fmt: skip

    def targets(self, maps: Maps) -> list[Tensor]:
        """All maps at the middle stride, [B, sum of C, h, w], in a list of one."""
        size = maps[self.level].shape[2:]
        return [torch.cat([resized(one, size) for one in maps], dim=1)]

    def encode(self, maps: Maps) -> Tensor:
        """As `ReverseDistillation.encode`, at a quarter of the middle size."""
        return self.encoder(self.targets(maps)[0])

    def decode(self, x: Tensor) -> list[Tensor]:
        """The one map of `targets`, as it should be."""
        return [self.decoder(x)]


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map [B, C, h, w] at another size: the mean of what it covers, or bilinear upwards."""
    if x.shape[2] > size[0]:
        return F.avg_pool2d(x, x.shape[2] // size[0])
    if x.shape[2] < size[0]:
        return F.interpolate(x, size=(int(size[0]), int(size[1])), mode='bilinear')
    return x


class CclNet(nn.Module):
    """Teacher, projections and base.

    strides: of the teacher's maps in use, finest first, each twice the one before; projected:
    False hands the teacher's maps to the base as they are (the ablation).
    """

    def __init__(
        self,
        teacher: Backbone,
        strides: Sequence[int],
        base: Base = 'reverse',
        width: int = 256,
        blocks: int = 2,
        projected: bool = True,
        widest: int = 128,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.levels = [teacher.strides.index(stride) for stride in strides]
        channels = [teacher.channels[level] for level in self.levels]
        self.projections = nn.ModuleList(
            Projection(count) if projected else nn.Identity() for count in channels
        )
        kind = ReverseDistillation if base == 'reverse' else FeatureReconstruction
        self.base = kind(channels, width, blocks, widest)

    def train(self, mode: bool = True) -> CclNet:
        """Never the teacher: its batch statistics stay ImageNet's."""
        super().train(mode)
        self.teacher.eval()
        return self

    def teach(self, pictures: Tensor) -> list[Tensor]:
        """The teacher's maps [B, C, H / stride, W / stride] of uint8 RGB [B, H, W, 3]."""
        return teacher_maps(self.teacher, self.levels, pictures)

    def project(self, maps: Maps) -> list[Tensor]:
        """The teacher's maps projected, shapes kept."""
        return [project(one) for project, one in zip(self.projections, maps, strict=True)]

    def distances(self, maps: Maps) -> tuple[list[Tensor], Tensor]:
        """Of the teacher's maps: 1 - cosine to what is rebuilt, [B, h, w] a scale, and g [B, W]."""
        bottleneck = self.base.encode(self.project(maps))
        pairs = zip(self.base.decode(bottleneck), self.base.targets(maps), strict=True)
        return [cosine_distance(said, taught) for said, taught in pairs], pooled(bottleneck)


def pooled(bottleneck: Tensor) -> Tensor:
    """The global feature g of a picture: [B, W, h, w] -> [B, W]."""
    return bottleneck.mean(dim=(2, 3))


def teacher_maps(teacher: Backbone, levels: Sequence[int], pictures: Tensor) -> list[Tensor]:
    """Maps of some levels of a teacher, float32, of uint8 RGB [B, H, W, 3]; no gradient."""
    with torch.no_grad():
        found = teacher(normalise(pictures, teacher))
    return [found[level] for level in levels]


def with_noise(maps: Maps, share: float = 0.5) -> list[Tensor]:
    """Maps with N(0, 1) added at a share of their positions, all channels of a position alike."""
    noisy = []
    for one in maps:
        mask = torch.rand(one.shape[0], 1, *one.shape[2:], device=one.device) < share
        noisy.append(one + mask * torch.randn_like(one))
    return noisy
