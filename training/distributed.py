"""Sums over the processes of a training on several devices; with one process, nothing happens."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def active() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def total(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, without a gradient; every process gets it."""
    result = value.detach().clone()
    if active():
        dist.all_reduce(result)
    return result


def mean_over_processes(value: Tensor) -> Tensor:
    """`total` divided by the number of processes.

    A masked mean divides by its count. Where each process divides its own sum by this mean of the
    counts, the average of the processes' gradients, which DDP takes, is the gradient of the mean
    over the positions of all: each position weighs the same, wherever it was computed.
    """
    result = total(value)
    return result / dist.get_world_size() if active() else result


def from_first(value: Tensor) -> None:
    """Overwrite `value` in place with that of the first process: draws differ, state must not."""
    if active():
        dist.broadcast(value, 0)
