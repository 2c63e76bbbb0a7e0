"""The terms of the training objective: plain functions of scores and labels.

`class_scores` are S_c of scores.py, float [B, C, h, w] in [-1, 1]; `labels` are int64 [B, h, w]
with class ids, GROUPED + g where the label is a set of classes, VOID where a picture's label names
none of them and PASTED where an object was pasted in. Every term is a mean over the positions that
it concerns, and 0 where there are none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.street import GROUPED
from training.distributed import mean_over_processes


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` at the positions `where`; 0 (with a gradient of 0) if there are none.

    On several processes all positions weigh the same (see training/distributed.py).
    """
    count = mean_over_processes(where.sum().float())
    return (values * where).sum() / count.clamp(min=1)


def allowed(labels: Tensor, classes: int, sets: Tensor | None = None) -> Tensor:
    """Which classes a position may be: int64 [B, h, w] -> bool [B, C, h, w].

    Its own for a class id, `sets[g]` (bool [G, C]) for GROUPED + g, none for all else.
    """
    rows = torch.zeros(256, classes, dtype=torch.bool, device=labels.device)
    rows[torch.arange(classes), torch.arange(classes)] = True
    if sets is not None:
        rows[GROUPED : GROUPED + len(sets)] = sets
    return rows[labels].movedim(-1, 1)


def segmentation(
    class_scores: Tensor,
    labels: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    sets: Tensor | None = None,
) -> Tensor:
    """Cross-entropy on S_c / tau: likelihood-ratio training of the generative scores (GMMSeg).

    -log of the probability of the classes that a position may be (see `allowed`), so that coarser
    labels supervise too; weighted as torch's cross-entropy, a set by the mean of its classes.
    """
    may_be = allowed(labels, class_scores.shape[1], sets)
    known = may_be.any(dim=1)
    logarithm = (class_scores / temperature).log_softmax(dim=1)
    # Where nothing may be, everything is summed: finite, and left out by its weight of 0.
    inside = may_be | ~known.unsqueeze(1)
    loss = -logarithm.masked_fill(~inside, -torch.inf).logsumexp(dim=1)
    if weight is None:
        return _mean(loss, known)
    mixed = (may_be * weight[:, None, None]).sum(dim=1) / may_be.sum(dim=1).clamp(min=1)
    return (loss * mixed).sum() / mean_over_processes(mixed.sum()).clamp(min=1e-6)


def attraction(
    class_scores: Tensor, labels: Tensor, above: float, sets: Tensor | None = None
) -> Tensor:
    """max(0, above - S_y)^2 at labelled positions: each stays near a codevector of its class.

    Of a set of classes the nearest counts.
    """
    may_be = allowed(labels, class_scores.shape[1], sets)
    own = class_scores.masked_fill(~may_be, -1.0).amax(dim=1)
    return _mean(F.relu(above - own).square(), may_be.any(dim=1))


def repulsion(class_scores: Tensor, where: Tensor, below: float) -> Tensor:
    """max(0, max_c S_c - below)^2 at `where` (bool [B, h, w]): the unknown stays far from all."""
    return _mean(F.relu(class_scores.amax(dim=1) - below).square(), where)


def forgetting(found: Tensor, taught: Tensor) -> Tensor:
    """Mean of 1 - <f, t> / (|f| |t|): how far a map has left the directions that were taught.

    found, taught: [B, D, h, w], the same positions under weights that learn and weights that do
    not (feature distillation after Romero et al. 2015, against forgetting after Li & Hoiem 2016;
    the cosine, because a coarse codebook looks at directions alone). In [0, 2].
    """
    return 1 - F.cosine_similarity(found.float(), taught.float(), dim=1).mean()


def class_weights(pixels: Tensor) -> Tensor:
    """Weights of the cross-entropy from pixel counts [C]: 1 / sqrt(share), within 0.4..3.

    Scaled to a geometric mean of 1. The root, because full balancing makes the rare classes grow
    over their borders; shares below 1e-4 count as that, so that an absent class moves nothing.
    """
    share = (pixels.double() / pixels.sum().clamp(min=1)).clamp(min=1e-4)
    logarithm = -0.5 * share.log()
    return (logarithm - logarithm.mean()).exp().clamp(0.4, 3.0).float()
