"""The terms of the training objective: plain functions of scores and labels.

`class_scores` are S_c of scores.py, float [B, C, h, w] in [-1, 1]; `labels` are int64 [B, h, w]
with class ids, VOID where a picture's label names none of the classes and PASTED where an object
was pasted in. Every term is a mean over the positions that it concerns, and 0 where there are none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.folders import VOID


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` at the positions `where`; 0 (with a gradient of 0) if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def segmentation(
    class_scores: Tensor, labels: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy on S_c / tau: likelihood-ratio training of the generative scores (GMMSeg)."""
    known = labels < class_scores.shape[1]
    target = torch.where(known, labels, VOID)
    if not known.any():
        return class_scores.sum() * 0.0
    return F.cross_entropy(class_scores / temperature, target, weight, ignore_index=VOID)


def attraction(class_scores: Tensor, labels: Tensor, above: float) -> Tensor:
    """max(0, above - S_y)^2 at labelled positions: each stays near a codevector of its class."""
    known = labels < class_scores.shape[1]
    own = class_scores.gather(1, torch.where(known, labels, 0).unsqueeze(1)).squeeze(1)
    return _mean(F.relu(above - own).square(), known)


def repulsion(class_scores: Tensor, where: Tensor, below: float) -> Tensor:
    """max(0, max_c S_c - below)^2 at `where` (bool [B, h, w]): the unknown stays far from all."""
    return _mean(F.relu(class_scores.amax(dim=1) - below).square(), where)


def class_weights(pixels: Tensor) -> Tensor:
    """Weights of the cross-entropy from pixel counts [C]: 1 / sqrt(share), within 0.4..3.

    Scaled to a geometric mean of 1. The root, because full balancing makes the rare classes grow
    over their borders; shares below 1e-4 count as that, so that an absent class moves nothing.
    """
    share = (pixels.double() / pixels.sum().clamp(min=1)).clamp(min=1e-4)
    logarithm = -0.5 * share.log()
    return (logarithm - logarithm.mean()).exp().clamp(0.4, 3.0).float()
