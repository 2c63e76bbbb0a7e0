"""From a batch to the weighted contrastive terms: sampling once, then each term switched on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.data.folders import VOID
from training.methods.codebook import contrastive, quantisation
from training.methods.codebook.model import Likelihood

if TYPE_CHECKING:
    from training.methods.codebook.task import Config


@dataclass(frozen=True)
class Sampled:
    """Positions of a batch that the terms are made of.

    features [P, D], labels [P] (class ids), similarity [P, C, M] and assigned [P] (c * M + m) of
    labelled positions; void_features [V, D] and void_similarity [V, C, M] of void ones.
    """

    features: Tensor
    labels: Tensor
    similarity: Tensor
    assigned: Tensor
    void_features: Tensor
    void_similarity: Tensor


def assignment(config: Config, similarity: Tensor, labels: Tensor) -> Tensor:
    """Codevectors of labelled positions, by the configured rule."""
    rule = {'nearest': quantisation.own_codes, 'balanced': quantisation.balanced_codes}
    return rule[config.assignment](similarity, labels)


def by_position(features: Tensor, likelihood: Likelihood) -> tuple[Tensor, Tensor]:
    """Maps [B, D, h, w] and [B, C, M, h, w] -> features [N, D], similarity [N, C, M]."""
    flat = features.permute(0, 2, 3, 1).flatten(0, 2)
    return flat, likelihood.similarity.permute(0, 3, 4, 1, 2).flatten(0, 2)


def sampled(config: Config, features: Tensor, likelihood: Likelihood, labels: Tensor) -> Sampled:
    """Sample each picture half hard, its void eroded and half hard; the choice has no gradient."""
    flat, similarity = by_position(features, likelihood)
    per_picture = labels[0].numel()
    known, void = [], []
    with torch.no_grad():
        predicted = likelihood.class_scores.argmax(dim=1)
        nearest = likelihood.class_scores.amax(dim=1).flatten()
        outside = contrastive.eroded(labels == VOID, config.void_erosion)
        for picture in range(len(labels)):
            start = picture * per_picture
            chosen = contrastive.half_hard(
                labels[picture].flatten(),
                predicted[picture].flatten(),
                len(config.classes),
                config.contrast_per_class,
            )
            known.append(chosen + start)
            own = outside[picture].flatten().nonzero().flatten() + start
            void.append(own[contrastive.sampled_void(nearest[own], config.void_most)])
    known_, void_ = torch.cat(known), torch.cat(void)
    own_labels = labels.flatten()[known_]
    return Sampled(
        flat[known_],
        own_labels,
        similarity[known_],
        assignment(config, similarity[known_].detach(), own_labels),
        flat[void_],
        similarity[void_],
    )


def contrastive_terms(
    config: Config, batch: Sampled, codebook: Tensor, queue: contrastive.VoidQueue | None
) -> dict[str, Tensor]:
    """The weighted terms that are switched on, by name."""
    terms: dict[str, Tensor] = {}
    if config.pixel_code_weight:
        terms['pixel to code'] = config.pixel_code_weight * contrastive.pixel_to_code(
            batch.similarity, batch.labels, config.temperature
        )
    if config.code_pixel_weight:
        void = batch.void_features
        if queue is not None:
            void = torch.cat([void, queue.held()])
        terms['code to pixel'] = config.code_pixel_weight * contrastive.code_to_pixel(
            codebook, batch.features, batch.labels, batch.assigned, void, config.temperature
        )
    if config.code_code_weight:
        terms['code to code'] = config.code_code_weight * contrastive.code_to_code(
            codebook, config.temperature
        )
    if config.void_soft_weight:
        terms['void soft'] = config.void_soft_weight * contrastive.void_repulsion(
            batch.void_similarity, config.temperature, config.void_delta
        )
    if config.commit_weight:
        terms['commitment'] = config.commit_weight * quantisation.commitment(
            batch.features, codebook, batch.assigned
        )
    return terms
