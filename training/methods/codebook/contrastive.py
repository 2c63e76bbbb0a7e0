"""The contrastive terms of multi-contrastive learning, and the sampling that they need.

Plain functions of sampled positions: features [P, D] and codevectors [C, M, D] are unit vectors,
similarity [P, C, M] their cosines, labels int64 [P] class ids. Formulas are ours after the parents
that each names; the abstract of the method (Cho et al. 2026) names the terms, not their form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.codebook.quantisation import own_codes


def pixel_to_code(similarity: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each position against all codevectors, the nearest of its class as positive.

    mean_p -log( exp(s[y, m*] / t) / sum_{c, m} exp(s[c, m] / t) ), as PPC of ProtoSeg (Zhou et al.
    2022) with a temperature. 0 without positions.
    """
    if not len(labels):
        return similarity.sum() * 0.0
    return F.cross_entropy(similarity.flatten(1) / temperature, own_codes(similarity, labels))


def code_to_pixel(
    codebook: Tensor,
    features: Tensor,
    labels: Tensor,
    assigned: Tensor,
    void: Tensor,
    temperature: float,
) -> Tensor:
    """Each codevector against positions: its own draw it near, other classes and void push it away.

    For a codevector a with positives P(a), the positions assigned to it, and negatives N(a), the
    positions of other classes and all of `void` [V, D]:

        -1 / |P(a)| sum_p log( exp(<a, p> / t) / (exp(<a, p> / t) + sum_n exp(<a, n> / t)) ),

    averaged over the codevectors that have positives (SupCon, Khosla et al. 2020, with the
    positives out of each other's denominator). 0 without positions.
    """
    if not len(labels):
        return features.sum() * 0.0
    used = assigned.unique()
    anchors = codebook.flatten(0, 1)[used]  # [A, D]
    logits = anchors @ features.T / temperature  # [A, P]
    positive = used[:, None] == assigned[None, :]
    foreign = (used // codebook.shape[1])[:, None] != labels[None, :]
    negatives = logits.masked_fill(~foreign, -torch.inf)
    if len(void):
        negatives = torch.cat([negatives, anchors @ void.T / temperature], dim=1)
    repulsion = torch.logsumexp(negatives, dim=1, keepdim=True)  # [A, 1], -inf without negatives
    loss = torch.logaddexp(logits, repulsion.expand_as(logits)) - logits
    per_anchor = (loss * positive).sum(dim=1) / positive.sum(dim=1)
    return per_anchor.mean()


def code_to_code(codebook: Tensor, temperature: float, within: float = 0.9) -> Tensor:
    """Codevectors of different classes apart, those of one class not all alike.

    t log mean exp(<e, e'> / t) over pairs of different classes (uniformity of Wang & Isola 2020 on
    the sphere, in units of the cosine), plus the mean of max(0, <e, e'> - within)^2 over pairs of
    one class. codebook: [C, M, D], unit vectors.
    """
    classes, codes, _ = codebook.shape
    flat = codebook.flatten(0, 1)
    cosine = flat @ flat.T
    owner = torch.arange(classes, device=flat.device).repeat_interleave(codes)
    same = owner[:, None] == owner[None, :]
    loss = cosine.sum() * 0.0
    if classes > 1:
        between = cosine[~same]
        mean = torch.logsumexp(between / temperature, dim=0) - torch.log(
            torch.tensor(float(between.numel()))
        )
        loss = loss + temperature * mean
    pairs = same & ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    if codes > 1:
        loss = loss + F.relu(cosine[pairs] - within).square().mean()
    return loss


def void_repulsion(similarity: Tensor, temperature: float, delta: float) -> Tensor:
    """mean_v log(1 + sum_{c, m} exp((s[c, m] - delta) / t)) over void positions [V, C, M].

    A soft hinge: about (max s - delta) / t above delta, nothing well below. 0 without positions.
    """
    if not len(similarity):
        return similarity.sum() * 0.0
    logits = (similarity.flatten(1) - delta) / temperature
    return F.softplus(torch.logsumexp(logits, dim=1)).mean()


def half_hard(labels: Tensor, predicted: Tensor, classes: int, most: int = 50) -> Tensor:
    """Positions to contrast: of each class at most `most`, half of them predicted as another.

    labels, predicted: int64 [P]; whatever is no class is left out. Where one half is short the
    other fills up. Random by torch's generator; returns indices into P, class by class. At most
    15 classes x 50 an image is what the parent (BlindNet) takes.
    """
    chosen = []
    for label in range(classes):
        own = labels == label
        hard = _shuffled((own & (predicted != label)).nonzero().flatten())
        easy = _shuffled((own & (predicted == label)).nonzero().flatten())
        hard_count = max(min(len(hard), most // 2), min(len(hard), most - len(easy)))
        chosen += [hard[:hard_count], easy[: most - hard_count]]
    return torch.cat(chosen)


def eroded(void: Tensor, radius: int) -> Tensor:
    """Void positions whose neighbours up to `radius` away are void too: bool [B, h, w].

    Features at a border mix both sides; outside of the picture counts as void.
    """
    if radius == 0:
        return void
    known = (~void).float().unsqueeze(1)
    near = F.max_pool2d(known, 2 * radius + 1, stride=1, padding=radius)
    return near.squeeze(1) == 0


def sampled_void(nearest: Tensor, most: int = 512) -> Tensor:
    """Void positions to repel: half with the largest similarity to any codevector, half at random.

    nearest: [V], that similarity -> indices into V, at most `most`, none twice.
    """
    if len(nearest) <= most:
        return torch.arange(len(nearest), device=nearest.device)
    order = nearest.argsort(descending=True)
    hardest, rest = order[: most // 2], order[most // 2 :]
    return torch.cat([hardest, _shuffled(rest)[: most - most // 2]])


def _shuffled(indices: Tensor) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)]


class VoidQueue(nn.Module):
    """The last void features, first in, first out, for steps whose crops hold no void."""

    def __init__(self, dimension: int, length: int = 4096) -> None:
        """Begin empty."""
        super().__init__()
        self.features: Tensor
        self.pushed: Tensor
        self.register_buffer('features', torch.zeros(length, dimension))
        self.register_buffer('pushed', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Take in [V, D]; of more than the queue's length the last ones."""
        length = len(self.features)
        kept = features.detach()[-length:].to(self.features.dtype)
        start = int(self.pushed) + len(features) - len(kept)
        places = torch.arange(start, start + len(kept), device=kept.device) % length
        self.features[places] = kept
        self.pushed += len(features)

    def held(self) -> Tensor:
        """What is in the queue, [V, D], without gradient; order of no meaning."""
        return self.features[: min(int(self.pushed), len(self.features))]
