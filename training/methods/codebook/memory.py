"""What ImageNet's weights make of a picture, as something to be learnt again or kept.

A backbone that is fine-tuned leaves what it knew of other things. Its blocks behind some map can be
drawn to what an untouched backbone gives for the same pictures: while they also learn classes
(`remember_weight` of a run), or alone, as a second last stage beside the first (`remembered`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from rich.progress import track
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from training.backbones import EfficientNetLite, EfficientNetLite0, normalise
from training.methods.codebook.losses import forgetting
from training.schedules import one_cycle

RATE = 1.5e-3  # peak of the learning rate of `remembered`
_WARM_UP = 0.1
_LAST = 50  # steps whose mean distance is returned


class Memory:
    """The deepest map of a backbone with its ImageNet weights; nothing of it is trained or kept."""

    def __init__(self, blocks: int, device: torch.device) -> None:
        """Raises BackboneError where backbone or weights are not installed."""
        self.backbone = EfficientNetLite0(blocks=blocks).eval().requires_grad_(False).to(device)
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, H, W, 3] -> [B, D, h, w]."""
        deepest: Tensor = self.backbone(normalise(pictures, self.backbone))[-1]
        return deepest


def remembered(
    backbone: EfficientNetLite, first: int, batches: Iterable[Tensor], steps: int
) -> float:
    """Teach the blocks from `first` on the deepest map of ImageNet's weights, the others stay.

    batches: uint8 RGB [B, H, W, 3], as many as `steps`. Returns the mean of `losses.forgetting`
    over the last steps; the backbone is left in evaluation mode.
    """
    memory = Memory(len(backbone.blocks), torch.device('cpu'))
    backbone.eval().requires_grad_(False)
    learning = backbone.blocks[first:].train().requires_grad_(True)
    optimiser = torch.optim.AdamW(learning.parameters(), RATE, weight_decay=0.01)
    schedule = LambdaLR(optimiser, lambda step: one_cycle(step / steps, _WARM_UP))
    distances = []
    for pictures in track(batches, 'remembering', total=steps):
        loss = forgetting(backbone(normalise(pictures, backbone))[-1], memory(pictures))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        distances.append(loss.item())
    backbone.eval().requires_grad_(False)
    last = distances[-_LAST:]
    return sum(last) / len(last)
