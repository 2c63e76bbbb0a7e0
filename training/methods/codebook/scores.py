"""Likelihoods of a unit feature under class-specific codevectors, and the scores made of them.

Notation: B pictures, D dimensions, C classes, M codevectors a class, h x w positions.
Features z and codevectors e are unit vectors, so -|z - e|^2 / (2 tau) = <z, e> / tau - 1 / tau:
the cosine is the log-likelihood of an equal-variance mixture up to a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosines(features: Tensor, codebook: Tensor) -> Tensor:
    """<z, e[c, m]> for every position: [B, D, h, w], [C, M, D] -> [B, C, M, h, w] in [-1, 1].

    A 1x1 convolution, because that is what every runtime does fastest.
    """
    classes, codes, dimension = codebook.shape
    flat = F.conv2d(features, codebook.reshape(classes * codes, dimension, 1, 1))
    return flat.unflatten(1, (classes, codes))


def weighted_top_k(similarity: Tensor, k: int, temperature: float) -> Tensor:
    """T1: S_c = sum of w s over the k largest s of class c, w = their softmax at `temperature`.

    [B, C, M, h, w] -> [B, C, h, w] in [-1, 1]. The weights are relative likelihoods within the
    class, so a position near one codevector is judged by that one, and a position between
    several by all of them. k = 1 is the nearest codevector alone.
    """
    nearest = similarity.topk(min(k, similarity.shape[2]), dim=2).values
    weights = torch.softmax(nearest / temperature, dim=2)
    return (weights * nearest).sum(dim=2)


def anomaly_score(class_scores: Tensor) -> Tensor:
    """-max_c S_c: [B, C, h, w] -> [B, h, w] in [-1, 1]; high where no class explains the position.

    Clamped, because the norm of a unit vector in float32 can exceed 1 by its last digit.
    """
    return -class_scores.amax(dim=1).clamp(-1.0, 1.0)


def nearest_codes(similarity: Tensor) -> Tensor:
    """Index c * M + m of the nearest codevector: [B, C, M, h, w] -> int64 [B, h, w]."""
    return similarity.flatten(1, 2).argmax(dim=1)
