"""The Gaussian over a score map, as a part of the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian(sigma: float) -> Tensor:
    """Kernel [1, 1, k, k] of sum 1, three deviations to each side."""
    reach = max(1, int(np.ceil(3 * sigma)))
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    line = torch.exp(-0.5 * (axis / sigma) ** 2)
    line = line / line.sum()
    return (line[:, None] * line[None, :])[None, None]


def smoothed(maps: Tensor, kernel: Tensor) -> Tensor:
    """Maps [N, 1, h, w] under a kernel of `gaussian`; beyond the border its values go on."""
    reach = kernel.shape[-1] // 2
    return F.conv2d(F.pad(maps, (reach, reach, reach, reach), mode='replicate'), kernel)
