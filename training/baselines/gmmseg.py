"""GMMSeg's head: a Gaussian mixture a class, fitted by EM beside the discriminative training.

Liang et al., *GMMSeg: Gaussian Mixture based Generative Semantic Segmentation Models*, NeurIPS
2022. Notation as in network.py; K = C * M components, `assigned` holds indices c * M + m.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.baselines.network import Head, Judged, as_maps, by_position, ramped
from training.data.folders import VOID
from training.methods.codebook.model import UnitFeatures
from training.methods.codebook.quantisation import balanced_codes

# Added to every variance, as in the authors' code. Unit features have a variance of at most 1 / D,
# so it is not small: it keeps a tight component from outweighing all others by tens of nats.
VARIANCE_FLOOR = 0.01


def log_likelihood(features: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """log N(x; mu[c, m], diag sigma^2[c, m]) of every component.

    features: [P, D]; means, variances > 0: [C, M, D] -> [P, C, M]. The square is multiplied out,
    so that all of it is two matrix products.
    """
    precision = variances.flatten(0, 1).reciprocal()
    centre = means.flatten(0, 1)
    distance = features.square() @ precision.T - 2.0 * features @ (centre * precision).T
    distance = distance + (centre.square() * precision).sum(dim=1)
    scale = variances.flatten(0, 1).log().sum(dim=1) + means.shape[2] * math.log(2.0 * math.pi)
    return -0.5 * (distance + scale).unflatten(1, means.shape[:2])


def balanced_components(likelihood: Tensor, labels: Tensor, dimension: int) -> Tensor:
    """E-step: components of each class, shared out evenly by Sinkhorn (eps 0.05, 3 iterations).

    likelihood: [P, C, M] as of `log_likelihood`; labels: int64 [P] in 0..C-1 -> int64 [P]. It is
    taken per dimension, which has the range of a cosine that eps is made for, and against the best
    of the class, which changes no ratio and keeps exp from running out of its range (ours; the
    authors' code divides by the largest absolute value of a batch).
    """
    relative = (likelihood - likelihood.amax(dim=2, keepdim=True)) / dimension
    return balanced_codes(relative, labels, epsilon=0.05, iterations=3)


class FeatureMemory(nn.Module):
    """The latest features of each component, first in, first out.

    features: float32 [K, size, D], zero where still empty; pushed: int64 [K], ever pushed.
    """

    def __init__(self, components: int, size: int, dimension: int, samples: int = 20) -> None:
        """`samples`: at most so many features a component and step; ValueError above `size`."""
        super().__init__()
        if samples > size:
            raise ValueError(f'a memory of {size} features cannot take {samples} a step')
        self.samples = samples
        self.features: Tensor
        self.pushed: Tensor
        self.register_buffer('features', torch.zeros(components, size, dimension))
        self.register_buffer('pushed', torch.zeros(components, dtype=torch.long))

    @torch.no_grad()
    def push(self, features: Tensor, assigned: Tensor) -> None:
        """Take in up to `samples` random ones of features [P, D] for each component [P]."""
        size = self.features.shape[1]
        for component in assigned.unique().tolist():
            own = features[assigned == component]
            chosen = own[torch.randperm(len(own), device=own.device)[: self.samples]]
            order = torch.arange(len(chosen), device=own.device)
            self.features[component, (self.pushed[component] + order) % size] = chosen
            self.pushed[component] += len(chosen)

    def counts(self) -> Tensor:
        """How many features are held of each component, int64 [K]."""
        return self.pushed.clamp(max=self.features.shape[1])


def m_step(memory: FeatureMemory, means: Tensor, momentum: float) -> tuple[Tensor, Tensor, Tensor]:
    """M-step: new means and variances [K, D] from old means, and which are due, bool [K].

    mu <- unit(g mu + (1 - g) unit(mean of the memory)), on the sphere as the features are;
    sigma^2 <- mean of (x - mu)^2 over the memory + VARIANCE_FLOOR, replaced, not averaged: what
    the maximum of the likelihood is at that mu. Components with less than one step's samples are
    not due.
    """
    counts = memory.counts()
    number = counts.clamp(min=1).unsqueeze(1)
    average = memory.features.sum(dim=1) / number  # empty places are zero
    moved = F.normalize(momentum * means + (1 - momentum) * F.normalize(average, dim=1), dim=1)
    square = memory.features.square().sum(dim=1) / number
    variances = square - 2 * moved * average + moved.square()
    return moved, variances.clamp(min=0.0) + VARIANCE_FLOOR, counts >= memory.samples


class GmmHead(Head):
    """Unit features, M Gaussians of diagonal covariance a class, class logit = the best of them.

    Class logits go through LayerNorm; loss = cross-entropy on them + `component_weight` times the
    cross-entropy over all components with the assigned one as target. Means and variances follow
    by EM from a memory of correctly classified positions, without a gradient.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 48,
        dimension: int = 64,
        components: int = 5,
        memory: int = 32_000,
        samples: int = 20,
        every: int = 5,
        momentum: float = 0.999,
        component_weight: float = 0.01,
    ) -> None:
        """`memory`: features a component, 256 bytes each; `every`: steps from M-step to M-step."""
        super().__init__()
        self.every, self.momentum, self.component_weight = every, momentum, component_weight
        self.steps = 0
        self.features = UnitFeatures(channels, dimension)
        self.norm = nn.LayerNorm(classes)
        self.memory = FeatureMemory(classes * components, memory, dimension, samples)
        self.means: Tensor
        self.variances: Tensor
        shape = (classes, components, dimension)
        self.register_buffer('means', F.normalize(torch.randn(shape), dim=-1))
        self.register_buffer('variances', torch.full(shape, 1.0 / dimension))

    def loss(self, fused: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        known = labels.flatten() != VOID
        own = labels.flatten()[known]
        features = by_position(self.features(fused))[known]
        likelihood = log_likelihood(features, self.means, self.variances)
        logits = self.norm(likelihood.amax(dim=2))
        assigned = balanced_components(likelihood.detach(), own, features.shape[1])
        if self.training:
            right = logits.argmax(dim=1) == own
            self._learn(features.detach()[right], assigned[right])
        component = F.cross_entropy(likelihood.flatten(1), assigned)
        return F.cross_entropy(logits, own, weight) + self.component_weight * component

    def _learn(self, features: Tensor, assigned: Tensor) -> None:
        self.memory.push(features, assigned)
        self.steps += 1
        if self.steps % self.every == 0:
            momentum = ramped(self.momentum, self.steps // self.every - 1)
            means, variances, due = m_step(self.memory, self.means.flatten(0, 1), momentum)
            shape = self.means.shape
            # New tensors: the old ones are still needed by the backward pass.
            self.means = torch.where(due.view(shape[0], -1, 1), means.view(shape), self.means)
            self.variances = torch.where(
                due.view(shape[0], -1, 1), variances.view(shape), self.variances
            )

    def judge(self, fused: Tensor) -> Judged:
        """Anomaly score: minus the largest log-likelihood under a class."""
        features = self.features(fused)
        classes = log_likelihood(by_position(features), self.means, self.variances).amax(dim=2)
        anomaly = -as_maps(classes, features).amax(dim=1)
        return Judged(as_maps(self.norm(classes), features), {'likelihood': anomaly})
