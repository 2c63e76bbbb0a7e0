"""The losses of CCL: distillation, local and global contrast, as plain functions.

Notation: t = T(x) are the frozen teacher's maps of a picture, t' = T(x') those of an augmented view
of it, q = P(t) and k = P(t') their projections, g the pooled bottleneck. From the paper and its
released code: all formulas. Ours: positions may be sampled, the correspondence runs in pieces, and
a picture without a partner of another class is left out instead of making the loss zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_LITTLE = math.log(1e-6)  # of the denominator of the local contrast
PIECE = 512  # positions whose similarities with all others are in memory at a time


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine along the channels: [B, C, h, w] twice -> [B, h, w], 0 to 2."""
    return 1.0 - F.cosine_similarity(student, teacher, dim=1)


def distillation(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over scales of 1 - cosine of the flattened maps, mean over the batch: a scalar.

    student, teacher: maps [B, C, h, w] of equal shape a scale.
    """
    return torch.stack(
        [
            (1.0 - F.cosine_similarity(s.flatten(1), t.flatten(1))).mean()
            for s, t in zip(student, teacher, strict=True)
        ]
    ).sum()


def correspondence(here: Tensor, there: Tensor, piece: int = PIECE) -> Tensor:
    """v*(u) = argmax_v cos(here_u, there_v): [B, C, N], [B, C, M] -> int64 [B, N], first of equals.

    At stride 4 of a picture of 256 x 256 the similarities of one picture are 4096 x 4096: they are
    made for `piece` positions u at a time.
    """
    here, there = F.normalize(here, dim=1), F.normalize(there, dim=1)
    return torch.cat(
        [(part.transpose(1, 2) @ there).argmax(dim=2) for part in here.split(piece, dim=2)], dim=1
    )


def partners(labels: Tensor, count: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """For every picture `count` others of another class, drawn with replacement.

    labels: integers [B] -> int64 [B, count]; -1 where the batch holds no other class.
    """
    other = labels[:, None] != labels[None, :]
    chances = other.float() + (~other.any(dim=1, keepdim=True)).float()
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
    return torch.where(other.any(dim=1, keepdim=True), drawn, -1)


def local_contrast(
    q: Tensor, k: Tensor, match: Tensor, places: Tensor, partner: Tensor, temperature: float
) -> Tensor:
    """Mean of -log(e^pos / (e^pos + sum e^neg + 1e-6)) over positions and pictures: a scalar.

    pos = cos(q_u, k_v*(u)) / tau with the same picture's other view; neg = cos(q_u, k'_u) / tau
    with pictures k' of another class at the same position u.

    q, k: [B, C, N]; match: v* of the sampled positions, [B, n]; places: those positions u, [n];
    partner: [B, j], -1 for pictures without (left out; all without: 0).
    """
    has_partner = partner[:, 0] >= 0
    if not has_partner.any():
        return q.sum() * 0.0
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    anchors = q[:, :, places]
    matched = k.gather(2, match[:, None, :].expand(-1, k.shape[1], -1))
    positive = (anchors * matched).sum(dim=1) / temperature
    others = k[:, :, places][partner.clamp(min=0)]  # [B, j, C, n]
    negative = (anchors[:, None] * others).sum(dim=2) / temperature
    little = torch.full_like(positive, _LITTLE)[:, None]
    every = torch.cat([positive[:, None], negative, little], dim=1)
    return (torch.logsumexp(every, dim=1) - positive)[has_partner].mean()


def global_contrast(
    features: Tensor, labels: Tensor, temperature: float, smoothing: float = 0.0
) -> Tensor:
    """Supervised contrast (SupCon, Khosla et al. 2020, L_out) of pooled features: a scalar.

    -1 / |P(i)| sum_p log p_ip, p_ip = softmax over all but i of cos(z_i, z_p) / tau, P(i) those of
    the same class without i; mean over i that have any. With `smoothing` s the target is smoothed
    over the negatives N(i), as the later released code has it: (1 - s) of the above plus
    s * -1 / |N(i)| sum_n log p_in.

    features: [B, D], of all views; labels: integers [B].
    """
    z = F.normalize(features, dim=1)
    self_pair = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(self_pair, -torch.inf)
    log_share = F.log_softmax(logits, dim=1).masked_fill(self_pair, 0.0)
    same = (labels[:, None] == labels[None, :]) & ~self_pair
    other = labels[:, None] != labels[None, :]
    loss = (1.0 - smoothing) * _mean_of(-log_share, same)
    return loss + smoothing * _mean_of(-log_share, other) if smoothing else loss


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the rows that have any of the mean of a row's chosen values; 0 without any."""
    counts = chosen.sum(dim=1)
    rows = (values * chosen).sum(dim=1) / counts.clamp(min=1)
    return rows.sum() / (counts > 0).sum().clamp(min=1)
