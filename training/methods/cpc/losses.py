"""The patch-wise InfoNCE loss, in training and at test: plain functions of similarities.

f = z[target]^T W_k c[context] is how well a context predicts a patch; f_n are the same products
with patches from elsewhere. The loss of a patch is its anomaly score: what cannot be told from what
lies elsewhere, given its neighbours, is unlike anything seen.

From the paper (de Haan & Löwe 2021, after van den Oord et al. 2018): the loss as score. From its
parent (Greedy InfoMax): 16 negatives drawn with replacement from the batch. Ours: the bank as a sum
over all of it, so that a score depends neither on chance nor on what else is in the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def info_nce(positive: Tensor, negatives: Tensor) -> Tensor:
    """-log exp f / (exp f + sum_n exp f_n): float [...], [..., N] -> [...], 0 or more."""
    every = torch.cat([positive.unsqueeze(-1), negatives], dim=-1)
    return torch.logsumexp(every, dim=-1) - positive


def bank_loss(positive: Tensor, bank: Tensor, negatives: int) -> Tensor:
    """`info_nce` in expectation over draws from a bank: -f + log(exp f + N / B sum_b exp f_b).

    positive: [...]; bank: [..., B], products with every patch of the bank; negatives: N of the
    training, so that scores have its scale. Deterministic.
    """
    rest = torch.logsumexp(bank, dim=-1) + math.log(negatives / bank.shape[-1])
    return torch.logaddexp(positive, rest) - positive


def condensed_bank_loss(
    positive: Tensor, centres: Tensor, log_counts: Tensor, negatives: int
) -> Tensor:
    """`bank_loss` with the bank condensed to centres that stand for several patches each.

    centres: [..., K], products with the centres; log_counts: [K], log of how many patches each
    stands for; with a count of 1 each it is `bank_loss`.
    """
    total = torch.logsumexp(log_counts, dim=0)
    rest = torch.logsumexp(centres + log_counts, dim=-1) + math.log(negatives) - total
    return torch.logaddexp(positive, rest) - positive


def excess_bank_loss(
    positive: Tensor, centres: Tensor, log_counts: Tensor, negatives: int
) -> Tensor:
    """`condensed_bank_loss` minus what its context would lead to expect: ours.

    The loss of a patch of which the bank holds many alike (plain background) is high however well
    it was predicted, log(1 + N share). So the mean of the losses that the patches of the bank would
    have there is taken off, each weighted with the probability that the context gives it,
    q_b = exp f_b / sum exp f: surprise minus its expectation. About 0 for a patch as predicted.
    """
    total = torch.logsumexp(log_counts, dim=0)
    weighted = centres + log_counts
    every = torch.logsumexp(weighted, dim=-1, keepdim=True)
    rest = every + math.log(negatives) - total
    expected = (torch.softmax(weighted, dim=-1) * (torch.logaddexp(centres, rest) - centres)).sum(
        dim=-1
    )
    rest = rest.squeeze(-1)
    return torch.logaddexp(positive, rest) - positive - expected


def borrowed_loss(products: Tensor, normalisers: Tensor, log_counts: Tensor) -> Tensor:
    """The loss of a patch if contexts of the bank had predicted it: ours.

    -log mean_b exp(f_b - log Z_b), a soft minimum over normal contexts of the patch's InfoNCE loss
    without its own context, which may be as faulty as the patch (fog lies over both).
    products: f_b, [..., K], of the patch with what each context predicts; normalisers: log Z_b,
    [K], log of the mean over the bank of exp f of what b predicts; log_counts: [K], of how many
    patches a centre stands for. Deterministic; about 0 for normal patches.
    """
    total = torch.logsumexp(log_counts, dim=0)
    return total - torch.logsumexp(products - normalisers + log_counts, dim=-1)
