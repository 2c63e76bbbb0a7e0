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


def weighted_top_k(
    similarity: Tensor, k: int, temperature: float, factor: Tensor | float = 1.0, dim: int = 2
) -> Tensor:
    """T1: S_c = sum of w s over the k largest s of class c, w = their softmax at `temperature`.

    [B, C, M, h, w] -> [B, C, h, w] in [-1, 1]; `dim` is where M stands.
    factor: positive, [B, 1, h, w], turns `similarity` into cosines where it is none yet. The
    weights are relative likelihoods within the class, so a position near one codevector is
    judged by that one, and a position between several by all of them. k = 1 is the nearest
    codevector alone.
    """
    nearest = similarity.topk(min(k, similarity.shape[dim]), dim=dim).values
    if isinstance(factor, Tensor):
        nearest = nearest * factor.unsqueeze(1)
    weights = torch.softmax(nearest / temperature, dim=dim)
    return (weights * nearest).sum(dim=dim)


def shared_top_k(similarity: Tensor, k: int, temperature: float) -> Tensor:
    """T2: as T1, over the k nearest codevectors of *all* classes.

    [B, C, M, h, w] -> [B, C, h, w]. A class without one of the k gets the minimum, -1: the classes
    of the neighbourhood compete, as in k-nearest-neighbour classification.
    """
    flat = similarity.flatten(1, 2)
    nearest = flat.topk(min(k, flat.shape[1]), dim=1)
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, nearest.indices, True)
    chosen = chosen.unflatten(1, similarity.shape[1:3])
    logits = (similarity / temperature).masked_fill(~chosen, -torch.inf)
    any_chosen = chosen.any(dim=2)
    weights = torch.softmax(logits.masked_fill(~any_chosen.unsqueeze(2), 0.0), dim=2)
    scores = (weights * similarity.masked_fill(~chosen, 0.0)).sum(dim=2)
    return scores.masked_fill(~any_chosen, -1.0)


def mean_top_k(similarity: Tensor, k: int) -> Tensor:
    """Plain mean of the k largest cosines of each class: [B, C, M, h, w] -> [B, C, h, w]."""
    return similarity.topk(min(k, similarity.shape[2]), dim=2).values.mean(dim=2)


def negative_evidence(similarity: Tensor, temperature: float) -> Tensor:
    """Anomaly as -t log sum_{c, m} exp(s / t): minus the log-likelihood under all codevectors.

    [B, C, M, h, w] -> [B, h, w], in units of the cosine (the energy score of Liu et al. 2020).
    """
    return -temperature * torch.logsumexp(similarity.flatten(1, 2) / temperature, dim=1)


def without_runner_up(class_scores: Tensor, share: float) -> Tensor:
    """Anomaly as -(S_1 - share * S_2): a position that two classes claim alike is less certain.

    [B, C, h, w] with at least two classes -> [B, h, w]; share 0 is `anomaly_score` unclamped.
    """
    best = class_scores.topk(2, dim=1).values
    return -(best[:, 0] - share * best[:, 1])


def anomaly_score(class_scores: Tensor) -> Tensor:
    """-max_c S_c: [B, C, h, w] -> [B, h, w] in [-1, 1]; high where no class explains the position.

    Clamped, because the norm of a unit vector in float32 can exceed 1 by its last digit.
    """
    return -class_scores.amax(dim=1).clamp(-1.0, 1.0)


def class_evidence(class_scores: Tensor, temperature: float) -> Tensor:
    """Anomaly as -t log mean_c exp(S_c / t): minus the log-likelihood under all classes alike.

    p(x) = sum_c p(x | c) / C with the weighted top-K score as log p(x | c) (times t): what several
    classes explain is better known than what one does. [B, C, h, w] -> [B, h, w] in [-1, 1],
    clamped as `anomaly_score`, which it becomes towards t = 0.
    """
    share = torch.log(torch.tensor(float(class_scores.shape[1])))
    evidence = torch.logsumexp(class_scores / temperature, dim=1) - share
    return -(temperature * evidence).clamp(-1.0, 1.0)


def coarse_novelty(features: Tensor, codebook: Tensor) -> Tensor:
    """-max_k <f / |f|, e_k>: how unlike every coarse codevector a position of a backbone's map is.

    features: [B, D, h, w], of any length; codebook: unit vectors, [K, D, 1, 1] -> [B, h, w] in
    [-1, 1]. The nearest centre of a density of features, as a codebook without classes.
    """
    length = (features * features).sum(dim=1, keepdim=True)
    unit = features * torch.rsqrt(length + 1e-12)
    return -F.conv2d(unit, codebook).amax(dim=1).clamp(-1.0, 1.0)


def whitened_novelty(features: Tensor, codebook: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(min_k |f - e_k| - mean) * scale: how far a whitened position lies from the nearest code.

    With whitened features the distance is Mahalanobis' to the nearest of K Gaussians of one
    covariance (Lee et al. 2018 give each class one); lengths count, unlike in `coarse_novelty`: a
    deepest map is long where ImageNet's things are.

    features: [B, E, h, w]; codebook: [K, E, 1, 1]; mean, scale: [] -> [B, h, w], clamped to -1..1.
    """
    half = 0.5 * (codebook * codebook).sum(dim=1).flatten()
    nearest = F.conv2d(features, codebook, -half).amax(dim=1)  # f e - |e|^2 / 2
    squared = (features * features).sum(dim=1) - 2.0 * nearest
    return ((squared.clamp(min=0.0).sqrt() - mean) * scale).clamp(-1.0, 1.0)


def with_coarse(anomaly: Tensor, novelty: Tensor, share: float) -> Tensor:
    """(1 - share) * anomaly + share * novelty, the latter upsampled bilinearly to its size.

    anomaly: [B, h, w]; novelty: [B, h', w'], both in [-1, 1] -> [B, h, w] in [-1, 1]; share: 0..1.
    Minus log-likelihoods add where the codebooks are independent; a mean of them keeps the range.
    """
    size = (anomaly.shape[1], anomaly.shape[2])
    large = F.interpolate(novelty.unsqueeze(1), size, mode='bilinear', align_corners=False)
    return (1 - share) * anomaly + share * large.squeeze(1)


def smoothed(anomaly: Tensor, side: int) -> Tensor:
    """Mean over side x side positions (odd), those outside of the map left out: [B, h, w]."""
    return F.avg_pool2d(
        anomaly.unsqueeze(1), side, stride=1, padding=side // 2, count_include_pad=False
    ).squeeze(1)


def nearest_codes(similarity: Tensor) -> Tensor:
    """Index c * M + m of the nearest codevector: [B, C, M, h, w] -> int64 [B, h, w]."""
    return similarity.flatten(1, 2).argmax(dim=1)
