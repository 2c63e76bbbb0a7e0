"""The network: patches encoded one by one, and bilinear predictions between rows of their grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbones import Backbone, frozen_teacher, in_range

# Pixels of 0..255 are normalised to (pixel - LIGHT) / CONTRAST.
LIGHT, CONTRAST = 127.5, 64.0
DIRECTIONS = ('down', 'up', 'right', 'left')


def centred(patches: Tensor) -> Tensor:
    """Patches [B, C, s, s] without their mean light: what is left is structure and contrast."""
    return patches - patches.mean(dim=(1, 2, 3), keepdim=True)


def patch_grid(pictures: Tensor, size: int, stride: int) -> Tensor:
    """Overlapping patches: float [B, C, H, W] -> [B, rows, columns, C, size, size].

    rows = (H - size) // stride + 1; with size 64 and stride 32 a crop of 256 gives 7 x 7.
    """
    cut = pictures.unfold(2, size, stride).unfold(3, size, stride)  # [B, C, rows, columns, s, s]
    return cut.permute(0, 2, 3, 1, 4, 5)


class PreActivationBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016) without batch norm, which leaks from patch to
    patch: with it the network tells by the statistics which patches were encoded together.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool = False) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(inputs) if norm else nn.Identity()
        self.second_norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        # The sum of many blocks would grow without a norm: each begins as its skip alone.
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h / stride, w / stride]."""
        active = F.relu(self.first_norm(x))
        y = self.second(F.relu(self.second_norm(self.first(active))))
        return self.skip(active if isinstance(self.skip, nn.Conv2d) else x) + y


class PatchEncoder(nn.Module):
    """Pre-activation ResNet-18 up to its third stage, average-pooled: a patch -> z of `widths[-1]`.

    The parent (Greedy InfoMax) has no stride in its stem; `stem_stride` 2 takes a quarter of the
    time and is ours. `norm`: batch norm, for the check that it cheats.
    """

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256), stem_stride: int = 2, norm: bool = False
    ) -> None:
        super().__init__()
        self.dimension = widths[-1]
        self.stem = nn.Conv2d(3, widths[0], 5, stem_stride, padding=2)
        blocks = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(2):
                stride = 2 if stage and not block else 1
                blocks.append(PreActivationBlock(inputs, width, stride, norm))
                inputs = width
        self.blocks = nn.Sequential(*blocks)

    def freeze(self) -> None:
        """Stay as drawn at random, the blocks that begin as their skip alone drawn, too."""
        for block in self.blocks:
            if isinstance(block, PreActivationBlock):
                block.second.reset_parameters()
        self.requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        """Float [B, 3, s, s] -> [B, D]."""
        return F.relu(self.blocks(self.stem(patches))).mean(dim=(2, 3))


class ImageNetEncoder(nn.Module):
    """EfficientNet-lite0 as ImageNet left it, up to its map of stride 8, average-pooled: a patch,
    normalised as `PatchEncoder` takes it, -> z of mean 0 and deviation 1. An anchor: nothing of it
    was learnt by CPC.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = frozen_teacher('efficientnet-lite0', 8)
        self.dimension = self.trunk.channels[-1]

    def train(self, mode: bool = True) -> Self:
        """Its batch statistics are ImageNet's, in training, too."""
        return super().train(False)

    def forward(self, patches: Tensor) -> Tensor:
        """Float [B, 3, s, s], s a multiple of 32 -> [B, D]."""
        z = self.trunk(imagenet_range(patches, self.trunk))[-1].mean(dim=(2, 3))
        return F.layer_norm(z, z.shape[1:])


def imagenet_range(patches: Tensor, trunk: Backbone) -> Tensor:
    """Patches in (pixel - LIGHT) / CONTRAST, [B, 3, s, s], as a backbone takes them."""
    return in_range(patches * CONTRAST + LIGHT, trunk)


class GatedContext(nn.Module):
    """Causal context over the rows above (gated PixelCNN, van den Oord et al. 2016), optional.

    Rows are predicted from rows before, so a masked convolution over rows alone is causal enough:
    a position sees its own row and all above within the kernel's reach.
    """

    def __init__(self, dimension: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(dimension, 2 * dimension, (2, 3), padding=(0, 1)) for _ in range(layers)
        )

    def forward(self, z: Tensor) -> Tensor:
        """[B, D, rows, columns] -> the same."""
        for layer in self.layers:
            value, gate = layer(F.pad(z, (0, 0, 1, 0))).chunk(2, dim=1)
            z = z + torch.tanh(value) * torch.sigmoid(gate)
        return z


class CpcNet(nn.Module):
    """Encoder, context and the matrices W of every direction and distance.

    skip: rows between context and target that are left out (1 with patches that overlap by half:
    the next row shares pixels); steps: K, how many rows behind those are predicted; centre: patches
    without their mean light, for pictures whose light says nothing; imagenet: a frozen encoder
    (`ImageNetEncoder`) instead of one to be trained.
    """

    def __init__(
        self,
        patch: int = 64,
        stride: int = 32,
        widths: Sequence[int] = (64, 128, 256),
        stem_stride: int = 2,
        directions: int = 4,
        steps: int = 5,
        skip: int = 1,
        context: bool = False,
        norm: bool = False,
        centre: bool = False,
        imagenet: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.stride, self.centre = patch, stride, centre
        self.encoder: nn.Module = (
            ImageNetEncoder() if imagenet else PatchEncoder(widths, stem_stride, norm)
        )
        self.dimension = dimension = int(self.encoder.dimension)
        self.directions = DIRECTIONS[:directions]
        self.distances = tuple(range(skip + 1, skip + 1 + steps))
        self.context = nn.ModuleList(
            GatedContext(dimension) if context else nn.Identity() for _ in self.directions
        )
        scale = dimension**-0.5
        shape = (directions, steps, dimension, dimension)
        self.predict = nn.Parameter(torch.randn(shape) * scale / dimension**0.5)

    def encode(self, pictures: Tensor) -> Tensor:
        """Float [B, 3, H, W] -> z, [B, D, rows, columns]."""
        cut = patch_grid(pictures, self.patch, self.stride)
        batch, rows, columns = cut.shape[:3]
        patches = cut.flatten(0, 2)
        z = self.encoder(centred(patches) if self.centre else patches)
        return z.view(batch, rows, columns, -1).permute(0, 3, 1, 2)

    def predictions(self, z: Tensor) -> list[tuple[int, int, Tensor, Tensor]]:
        """All that is predicted: (direction, step, prediction, target), maps of equal shape.

        prediction: W_k c, [B, D, r, columns]; target: z of the rows that it is of, turned as the
        direction has it (`turned`), so that rows always run away from the context.
        """
        found = []
        for number, direction in enumerate(self.directions):
            grid = turned(z, direction)
            context = self.context[number](grid)
            rows = grid.shape[2]
            for step, distance in enumerate(self.distances):
                if distance >= rows:
                    break
                seen = context[:, :, : rows - distance]
                said = torch.einsum('de,berc->bdrc', self.predict[number, step], seen)
                found.append((number, step, said, grid[:, :, distance:]))
        return found


def turned(grid: Tensor, direction: str) -> Tensor:
    """The grid [B, D, rows, columns] with rows running in the direction of prediction."""
    if direction in ('right', 'left'):
        grid = grid.transpose(2, 3)
    return grid.flip(2) if direction in ('up', 'left') else grid


def turned_back(grid: Tensor, direction: str) -> Tensor:
    """Undo `turned`, for maps [B, rows, columns]."""
    grid = grid.flip(1) if direction in ('up', 'left') else grid
    return grid.transpose(1, 2) if direction in ('right', 'left') else grid


def patch_scores(losses: Sequence[tuple[str, int, Tensor]], size: tuple[int, int]) -> Tensor:
    """Mean loss of every patch over all that predicted it; [B, rows, columns].

    losses: (direction, distance, [B, r, c]) of the *targets*, turned as the direction has it. A
    patch that nothing predicts gets the mean of those that are next to it, never zero.
    """
    batch = losses[0][2].shape[0]
    total = losses[0][2].new_zeros((batch, *size))
    count = np.zeros(size)
    for direction, distance, loss in losses:
        total = total + turned_back(F.pad(loss, (0, 0, distance, 0)), direction)
        count += predicted(direction, distance, size)
    counts = torch.from_numpy(np.maximum(count, 1)).to(total)
    return filled(total / counts, count > 0)


def predicted(direction: str, distance: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches of a grid of that size are predicted, bool [rows, columns]."""
    found = np.zeros(size, np.bool_)
    turned_ = found.T if direction in ('right', 'left') else found
    if direction in ('up', 'left'):
        turned_[: max(0, len(turned_) - distance)] = True
    else:
        turned_[distance:] = True
    return found


def filled(scores: Tensor, known: NDArray[np.bool_]) -> Tensor:
    """Scores [B, rows, columns] where `known` (bool [rows, columns]); beside, the mean of known
    neighbours, ring by ring. All stays as it is where nothing is known.

    `known` is no tensor: it follows from the grid alone, so an exported graph has no loop.
    """
    kernel = torch.ones(1, 1, 3, 3, device=scores.device, dtype=scores.dtype)
    while not known.all() and known.any():
        weight = torch.from_numpy(known.astype(np.float32)).to(scores)[None, None]
        near = F.conv2d(weight, kernel, padding=1)[0, 0]
        mean = F.conv2d((scores * weight[0]).unsqueeze(1), kernel, padding=1)[:, 0]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(known, 1), (3, 3))
        grown = np.asarray(windows.any(axis=(2, 3)), np.bool_)
        ring = torch.from_numpy(grown & ~known).to(scores.device)
        scores = torch.where(ring, mean / near.clamp(min=1), scores)
        known = grown
    return scores
